"""Every file of data/dicom/malformed, by C-STORE to a whole node and by ``analyze``: it ends as the manifest says, in
bounded time and memory, and others are served meanwhile.
"""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import instances, jobs
from chexnode.vocabulary.reasons import Reason
from support.nodes import Node, toml
from support.senders import CR_IMAGE, Part10, an_image, read_part10, store_file
from support.servers import wait_for

GIGABYTE = 1 << 30
FILE_SECONDS = 10.0
PATIENCE = 6.0
"""How much longer than that a test machine under load may take before it counts as hanging."""

#: Fit for analysis in spite of a flaw: a result comes out. The others that are accepted are flagged by a reason.
_FLAGGED = ("flag", "non-diagnostic")


@dataclass(frozen=True)
class End:
    """How one file ended."""

    status: int
    """Of the C-STORE response; 0 where there is none."""
    state: str
    reason: str | None

    @property
    def is_coded(self) -> bool:
        """Whether an answer, or a reason beside a state, says why there is no result."""
        return self.status != 0 or self.state == "DONE" or self.reason in set(Reason)


def fits(end: End, expect: str) -> bool:
    """Whether ``end`` is one of those that the manifest's words allow."""
    if end.state == "FAILED" or not end.is_coded:
        return False
    stored = end.status == 0
    if not expect:
        return True
    if not expect.startswith("accept"):
        return not (stored and end.state == "DONE")
    if not stored or (end.state == "QUARANTINED" and "quarantine" not in expect):
        return False
    # Several hold the same picture under the same UIDs, which is analysed once.
    is_analysed = end.state == "DONE" or end.reason == Reason.SAME_IMAGE
    return is_analysed or "quarantine" in expect or any(word in expect for word in _FLAGGED)


def listed(shared: Path) -> dict[Path, str]:
    """File -> what is expected of it."""
    folder = shared / "data" / "dicom" / "malformed"
    with (folder / "manifest.csv").open() as lines:
        found = {folder / line["file"]: line["expect"] for line in csv.DictReader(lines)}
    # One is the bytes of a good one, announced in a false transfer syntax: after that it would be a mere duplicate.
    return dict(sorted(found.items(), key=lambda one: one[1].startswith("accept")))


class Watch:
    """The memory of a process and all below it, since the last :meth:`reset`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._before: dict[int, int] = {}
        self._peaks: dict[int, int] = {}

    def reset(self) -> None:
        """Count from what each process holds now."""
        self._before, self._peaks = {}, {}
        for process in self._tree():
            with suppress(OSError, psutil.NoSuchProcess):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # VmHWM starts again
                self._before[process.pid] = process.memory_info().rss

    def look(self) -> None:
        """Take down the peaks; a child that ends is not seen any more."""
        for process in self._tree():
            with suppress(OSError, psutil.NoSuchProcess):
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM"):
                        self._peaks[process.pid] = max(self._peaks.get(process.pid, 0), int(line.split()[1]) * 1024)

    @property
    def grown(self) -> int:
        """Bytes that all of them together took more than they had."""
        self.look()
        return sum(max(0, peak - self._before.get(pid, 0)) for pid, peak in self._peaks.items())

    @property
    def peak(self) -> int:
        """Bytes that all of them together had at most."""
        self.look()
        return sum(self._peaks.values())

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            one = psutil.Process(self.pid)
            return [one, *one.children(recursive=True)]
        return []


class Peer(threading.Thread):
    """A well-behaved sender that stores one image after another."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.statuses: list[int] = []
        self.slowest = 0.0
        self.failure: Exception | None = None
        self._done = threading.Event()

    def run(self) -> None:
        try:
            while not self._done.wait(0.05):
                started = time.monotonic()
                part = an_image(f"1.2.3.88.{len(self.statuses)}", pixels=64 * 64, _00080060=b"MR")
                self.statuses.append(store_file(self.port, part, timeout=FILE_SECONDS * PATIENCE).status)
                self.slowest = max(self.slowest, time.monotonic() - started)
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self._done.set()
        self.join(FILE_SECONDS * PATIENCE)


@contextmanager
def opened(node: Node) -> Iterator[Ledger]:
    ledger = node.ledger()
    try:
        yield ledger
    finally:
        ledger.close()


def end_of(ledger: Ledger, part: Part10, status: int, watch: Watch) -> End:
    """Wait for what becomes of a stored file."""
    digest = hashlib.sha256(part.data).hexdigest()

    def found() -> End | None:
        watch.look()
        with ledger.database.read() as conn:
            row = conn.execute(select(instances).where(instances.c.digest == digest)).one()
            job = conn.execute(select(jobs).where(jobs.c.digest == digest)).one_or_none()
        if row.state != "ANALYSABLE":
            return End(status, row.state, row.reason)
        if job is None or job.state in ("QUEUED", "RUNNING", "DELIVERING"):
            return None
        return End(status, job.state, job.reason)

    return wait_for(found, "the end of a file", FILE_SECONDS * PATIENCE, every=0.05)


@pytest.mark.shared
@pytest.mark.timeout(900)
def test_by_c_store(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = Node(tmp_path)
    wrong: dict[str, Any] = {}
    slowest = largest = 0.0
    with node.up, opened(node) as ledger:
        assert node.up.process is not None
        watch, peer = Watch(node.up.process.pid), Peer(node.port)
        watch.reset()
        peer.start()
        for path, expect in listed(shared).items():
            part = read_part10(path)
            part = part if part.sop_class_uid else replace(part, sop_class_uid=CR_IMAGE)
            watch.reset()
            started, served = time.monotonic(), len(peer.statuses)
            status = store_file(node.port, part, timeout=FILE_SECONDS * PATIENCE).status
            end = End(status, "", None) if status else end_of(ledger, part, status, watch)
            taken, grown = time.monotonic() - started, watch.grown
            if not fits(end, expect) or taken > FILE_SECONDS * PATIENCE or grown > GIGABYTE:
                wrong[path.name] = (end, expect, taken, grown)
            slowest, largest = max(slowest, taken), max(largest, grown)
            wait_for(lambda served=served: len(peer.statuses) > served, "the peer to be served")  # type: ignore[misc]
        peer.stop()
        account = node.account()
    assert wrong == {}
    assert peer.failure is None
    assert set(peer.statuses) == {0}
    assert account["failed"] == account["pending"] == 0
    with capsys.disabled():
        print(
            f"\n{len(listed(shared))} malformed files by C-STORE: slowest {slowest:.1f} s, {largest / 1e6:.0f} MB "
            f"more at most; {len(peer.statuses)} images of another peer meanwhile, slowest {peer.slowest:.2f} s"
        )


@pytest.mark.shared
@pytest.mark.timeout(900)
def test_by_analyze(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = listed(shared)
    settings = {"model": {"bundle": "phantom64", "device": "cpu"}, "worker": {"batch_size": 1, "decoders": 1}}
    (tmp_path / "chexnode.toml").write_text(toml(settings))
    command = [sys.executable, "-m", "chexnode.cli", "analyze", *map(str, files), "--out", "results", "--json"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=err)
        watch = Watch(process.pid)
        while process.poll() is None:
            watch.look()
            time.sleep(0.02)
    assert process.returncode == 1, "some failed, and nothing worse"
    assert (tmp_path / "err").read_text() == ""
    reports = json.loads((tmp_path / "out").read_text())
    assert [report["file"] for report in reports] == list(map(str, files))
    wrong = {
        Path(report["file"]).name: (report, expect)
        for report, expect in zip(reports, files.values(), strict=True)
        if not fits(End(0, report["state"], report["reason"]), expect) or report["seconds"] > FILE_SECONDS * PATIENCE
    }
    assert wrong == {}
    assert 0 < watch.peak < 2 * GIGABYTE, "libraries and model included, all processes together"
    with capsys.disabled():
        slowest = max(report["seconds"] for report in reports)
        print(f"\n{len(files)} malformed files by analyze: slowest {slowest:.1f} s, {watch.peak / 1e6:.0f} MB in all")
