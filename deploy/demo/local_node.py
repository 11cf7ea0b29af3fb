"""A ChexNode of its own for the demo: `chexnode up` on embedded defaults, free ports and a temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacs import DIRECT, LOOPBACK

AE_TITLE = "CHEXNODE"
WORKING = b"working on "
"""What a worker logs once its model is loaded; receiver and web are asked over the network."""

SETTINGS = """\
[node]
ae_title = "{ae_title}"
port = {port}
[web]
port = {web_port}
[model]
bundle = "{model}"
[disk]                  # a demo needs little room, and a laptop's disk is often nearly full
watermark = 0.99
reserve_gb = 0.5
[[destination]]
name = "pacs"
ae_title = "{pacs_ae_title}"
host = "127.0.0.1"
port = {pacs_port}
results = ["seg", "sr", "sc"]
"""


class LocalNode:
    """One `chexnode up`, with its log in a file."""

    def __init__(self, folder: Path, model: str, pacs: tuple[str, int], port: int) -> None:
        folder.mkdir()
        self.model = model
        self.port = port
        self._web = f"http://{LOOPBACK}:{(web_port := free_port())}"
        self._folder = folder
        self._log = folder / "node.log"
        self._settings = folder / "chexnode.toml"
        self._settings.write_text(
            SETTINGS.format(
                ae_title=AE_TITLE,
                port=port,
                web_port=web_port,
                model=model,
                pacs_ae_title=pacs[0],
                pacs_port=pacs[1],
            ),
            "utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start every role; :meth:`wait_ready` waits for them."""
        command = [Path(sys.executable).with_name("chexnode"), "--config", self._settings, "up"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={key: value for key, value in os.environ.items() if not key.startswith("CHEXNODE_")},
                start_new_session=True,
            )

    def wait_ready(self, tick: Callable[[], None], seconds: float = 120) -> None:
        """Wait until every role is at work. Raises RuntimeError if it ends or takes longer."""
        deadline = time.monotonic() + seconds
        while not self._is_ready():
            if not self.is_running():
                raise RuntimeError("the node ended while starting")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the node was not ready within {seconds:g} s")
            tick()
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            self._ask("/health/ready")
            socket.create_connection((LOOPBACK, self.port), timeout=5).close()
        except OSError:
            return False
        return WORKING in self._log.read_bytes()

    def is_running(self) -> bool:
        """Whether `chexnode up` is still there."""
        return self._process is not None and self._process.poll() is None

    def jobs(self) -> Mapping[str, Mapping[str, Any]]:
        """SOP Instance UID -> what the node says about it (the keys of ``chexnode jobs --json``)."""
        try:
            return {job["sop_instance_uid"]: job for job in json.loads(self._ask("/api/jobs?limit=10000"))}
        except OSError:  # the web role may be starting again
            return {}

    def _ask(self, path: str) -> bytes:
        with DIRECT.open(self._web + path, timeout=10) as answer:
            return bytes(answer.read())

    def log_tail(self, lines: int = 40) -> str:
        """The last of what the node wrote."""
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> list[str]:
        """End the node as Ctrl-C does. Return the command lines of what did not end by itself and was killed."""
        process, self._process = self._process, None
        if process is None:
            return []
        family = _descendants(process.pid)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):  # counted below with what else is left
            process.wait(30)
        left = [one for one in _processes() if one in family or one.folder.is_relative_to(self._folder.resolve())]
        for one in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        process.wait(10)
        return [one.command for one in left]


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class _Process:
    """A living process; the start time tells it from a later one of the same number."""

    pid: int
    started: str
    parent: int = field(compare=False)
    folder: Path = field(compare=False)
    command: str = field(compare=False)


def _processes() -> Iterator[_Process]:
    """Every living process that may be looked at (proc(5))."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # not ours, or it ended meanwhile
            state, parent, *rest = (place / "stat").read_text().rpartition(") ")[2].split()
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            if state != "Z":
                yield _Process(int(place.name), rest[17], int(parent), (place / "cwd").resolve(), command)


def _descendants(ancestor: int) -> set[_Process]:
    """``ancestor`` and all that it started, and they; sessions and groups do not tell, for each role has its own."""
    living = list(_processes())
    found = {one for one in living if one.pid == ancestor}
    while True:
        pids = {one.pid for one in found}
        more = {one for one in living if one.parent in pids} - found
        if not more:
            return found
        found |= more
