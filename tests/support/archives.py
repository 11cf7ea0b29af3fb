"""DCMTK's dcmqrscp: a PACS that can be asked by C-FIND and sends by C-GET, or by C-MOVE to whom it knows."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support.servers import LOOPBACK, Server, find_tool, free_port, listens


class ArchiveSCP(Server):
    """Takes everything as it comes; ``options`` as dcmqrscp has them, such as ``--disable-get``."""

    name = "dcmqrscp"
    ae_title = "QRSCP"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.binary = find_tool("dcmqrscp", "dcmtk")
        self.port = free_port()
        self.options = options
        store = folder / "store"
        store.mkdir()
        self.config = folder / "dcmqrscp.cfg"
        self.config.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
            "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.ae_title} {store} RW (100, 4096mb) ANY\nAETable END\n"
        )

    def command(self) -> Sequence[str | Path]:
        return [self.binary, "--config", self.config, "--bit-preserving", *self.options]

    def is_ready(self) -> bool:
        return listens(self.port)

    def take(self, files: Sequence[Path]) -> None:
        """Store ``files`` there, each as it is."""
        program = find_tool("storescu", "dcmtk")
        where = ["--aetitle", "SENDER", "--call", self.ae_title, LOOPBACK, str(self.port)]
        for file in files:  # storescu proposes a file's own transfer syntax only where it is asked about that file
            command = [program, "-R", *where, file]
            subprocess.run(command, check=True, timeout=60, env={**os.environ, "TCP_NODELAY": "1"})
