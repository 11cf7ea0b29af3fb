"""The receiver as tests want it: in this process, or in one of its own that can be killed. No model bundle needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import select

from chexnode.audit.trail import open_trail
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import instances
from chexnode.receive.receiver import Receiver
from chexnode.settings.disk import DiskSettings
from chexnode.settings.loading import load
from chexnode.settings.tree import Settings
from support.ledgers import CountingBell, node_on, opened
from support.senders import read_part10
from support.servers import Server, find_tool, free_port, listens


@contextmanager
def receiving(settings: Settings, ledger: Ledger | None = None) -> Iterator[tuple[Receiver, Ledger, CountingBell]]:
    """A receiver in this process."""
    with (
        nullcontext(ledger) if ledger else opened(settings.database.url) as the_ledger,
        open_trail(settings, "receiver") as trail,
    ):
        bell = CountingBell()
        receiver = Receiver(node_on(the_ledger, settings, bell=bell, trail=trail))
        receiver.start()
        try:
            yield receiver, the_ledger, bell
        finally:
            receiver.stop()


def a_settings(folder: Path, **sections: Any) -> Settings:
    """Settings of a node in ``folder`` on a free port."""
    made: dict[str, Any] = {
        "node": {"port": 0, "data_dir": folder},
        "database": {"url": f"sqlite:///{folder}/chexnode.db"},
        "disk": DiskSettings(watermark=1.0, reserve_gb=0),
    }
    return Settings(**(made | sections))


def rows(ledger: Ledger) -> list[Any]:
    with ledger.database.read() as conn:
        return list(conn.execute(select(instances)))


def stored_data(settings: Settings, path: str) -> bytes:
    """The data set of a stored file, without preamble and group 0002."""
    return read_part10(settings.node.data_dir / path).data


def spooled(settings: Settings) -> list[Path]:
    return [path for path in (settings.node.data_dir / "spool").rglob("*") if path.is_file()]


class Node:
    """A running receiver with its ledger."""

    def __init__(self, settings: Settings, port: int, ledger: Ledger, bell: CountingBell) -> None:
        self.settings, self.port, self.ledger, self.bell = settings, port, ledger, bell


def dcmtk(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_tool(tool, "dcmtk"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TCP_NODELAY": "1"},
    )


class ReceiverProcess(Server):
    """A receiver in a process of its own, with SQLite under ``folder``."""

    name = "receiver"

    def __init__(self, folder: Path, settings: str = "") -> None:
        super().__init__(folder)
        self.port = free_port()
        self.config = folder / "chexnode.toml"
        self.config.write_text(
            f'[node]\nport = {self.port}\ndata_dir = "var"\n[disk]\nreserve_gb = 0.01\nwatermark = 1.0\n{settings}'
        )
        self.url = f"sqlite:///{folder}/var/chexnode.db"

    def command(self) -> Sequence[str | Path]:
        folder = str(Path(__file__).parents[1])
        script = f"import sys; sys.path.insert(0, {folder!r}); from support.receivers import main; main()"
        return [sys.executable, "-c", script, self.config]

    def is_ready(self) -> bool:
        return listens(self.port)


def main() -> None:
    """Receive until SIGTERM."""
    settings, _ = load(Path(sys.argv[1]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with receiving(settings):
        stop.wait()
