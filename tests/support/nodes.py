"""A node under test: its settings file, its processes, and its commands, as a user has them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from chexnode.ledger.ledger import Ledger
from chexnode.settings.loading import load
from chexnode.vocabulary.errors import Transient
from support.clocks import wrong_by
from support.commands import can_run_here, run_here
from support.servers import LOOPBACK, START_SECONDS, Server, free_port, listens, wait_for

AE_TITLE = "CHEXNODE"


def toml(tables: Mapping[str, Any]) -> str:
    """Write a settings file: tables of plain values, and lists of tables."""
    lines: list[str] = []
    for name, table in tables.items():
        for entry in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
    return "\n".join(lines) + "\n"


class Node:
    """Settings in a folder of their own, on free ports, with room on any disk; nothing runs yet."""

    def __init__(self, folder: Path, bundle: str = "phantom64", **tables: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.web_port = free_port()
        self.config = folder / "chexnode.toml"
        merged: dict[str, Any] = {
            "node": {"ae_title": AE_TITLE, "port": self.port, "data_dir": "var"},
            "web": {"port": self.web_port},
            "model": {"bundle": bundle, "device": "cpu"},
            "disk": {"watermark": 1.0, "reserve_gb": 0},
        }
        for name, table in tables.items():
            merged[name] = table if isinstance(table, list) else merged.get(name, {}) | table
        self.tables = merged
        self.write_settings()
        self.up = Process(self, "up")

    def write_settings(self) -> None:
        """Write ``tables`` to the settings file."""
        for destination in self.tables.get("destination", []):
            if "path" in destination:  # the node writes into folders and makes none: one may be a mount that is gone
                (self.folder / destination["path"]).mkdir(exist_ok=True)
        self.config.write_text(toml(self.tables))

    @property
    def data_dir(self) -> Path:
        """Where the node keeps its files."""
        return self.folder / "var"

    def role(self, command: str, number: int = 1) -> Process:
        """A single role: ``receive``, ``worker`` or ``web``."""
        return Process(self, command, number)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command to its end: in this process, unless it needs one of its own."""
        if not can_run_here(arguments):
            return self.process(*arguments, check=check)
        done = run_here(["--config", str(self.config), *arguments], self.folder)
        if check:
            done.check_returncode()
        return done

    def process(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "chexnode.cli", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=check,
            cwd=self.folder,
        )

    def json(self, *arguments: str) -> Any:
        """Run one command with ``--json``; exit code 1 means "some failed" and is a result too."""
        done = self.run(*arguments, "--json", check=False)
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    def ledger(self) -> Ledger:
        """The node's ledger, for looking at it more often than a command could."""
        return Ledger(load(self.config)[0].database.url)

    def jobs(self) -> list[dict[str, Any]]:
        """The rows of ``chexnode jobs``, newest first."""
        return list(self.json("jobs", "--limit", "1000"))

    def wait_for_job(self, state: str) -> None:
        """Wait until some job is in ``state``, however short that lasts."""
        ledger = self.ledger()
        try:
            wait_for(lambda: ledger.views.jobs([state]), f"a job that is {state}")
        finally:
            ledger.close()

    def account(self) -> dict[str, Any]:
        """``chexnode account``; every test that asks also asks that it balances."""
        account = self.json("account")
        assert account["difference"] == 0, account
        return dict(account)

    def wait_until_settled(self, received: int, seconds: float = START_SECONDS) -> dict[str, list[dict[str, Any]]]:
        """Wait until ``received`` versions are known and none needs more work; return SOP Instance UID -> jobs."""

        ledger = self.ledger()

        def settled() -> dict[str, list[dict[str, Any]]]:
            try:
                jobs = [asdict(job) for job in ledger.views.jobs(limit=None)]
            except Transient:
                return {}
            busy = [j for j in jobs if j["state"] in ("QUEUED", "RUNNING", "DELIVERING")]
            by_uid: dict[str, list[dict[str, Any]]] = {}
            for job in jobs:
                by_uid.setdefault(job["sop_instance_uid"], []).append(job)
            return by_uid if jobs and len(jobs) >= received and not busy else {}

        try:
            return wait_for(settled, f"{received} images to be settled", seconds, every=0.2)
        finally:
            ledger.close()


class Process(Server):
    """One command of the node that runs until it is stopped, with whatever children it has."""

    start_seconds = 120  # torch on a busy machine
    clock_skew = 0
    """Seconds by which its wall clock is wrong from its next start on."""

    def __init__(self, node: Node, command: str, number: int = 1) -> None:
        self.name = f"chexnode-{command}-{number}"
        super().__init__(node.folder)
        self.node, self.role = node, command

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "chexnode.cli", "--config", self.node.config, self.role]

    def environment(self) -> Mapping[str, str]:
        return wrong_by(self.clock_skew)

    def is_ready(self) -> bool:
        if self.role == "up":
            return listens(self.node.port) and listens(self.node.web_port) and "working on" in self.latest()
        if self.role == "receive":
            return listens(self.node.port)
        if self.role == "web":
            return listens(self.node.web_port)
        return "working on" in self.latest()

    def start(self) -> Process:
        """Start; what an earlier start wrote does not count as ready."""
        self._written = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        return self

    def latest(self) -> str:
        """What was written since the last start."""
        return self.log.read_bytes()[self._written :].decode("utf-8", "replace")

    def children(self, role: str) -> list[psutil.Process]:
        """The processes of one role below ``up``."""
        assert self.process is not None
        return [
            child for child in psutil.Process(self.process.pid).children(recursive=False) if role in child.cmdline()
        ]

    def kill_everything(self) -> None:
        """``kill -9`` of the whole tree at once."""
        assert self.process is not None
        tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in tree:
            process.kill()
        psutil.wait_procs(tree, timeout=20)
        self.kill()


def loopback_destination(name: str, ae_title: str, port: int, **more: Any) -> dict[str, Any]:
    """One ``[[destination]]`` table for a DICOM server on this machine."""
    return {"name": name, "kind": "dicom", "ae_title": ae_title, "host": LOOPBACK, "port": port} | more
