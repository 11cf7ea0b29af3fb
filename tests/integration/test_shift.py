"""A worker's shift goes on whatever fails in it."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from chexnode.ledger.ledger import Ledger
from chexnode.work import shift as shift_module
from chexnode.work.shift import Shift
from support.ledgers import Clock
from support.servers import wait_for
from support.studies import LATERAL, Site


@pytest.fixture
def site(tmp_path: Path, ledger: Ledger, clock: Clock) -> Site:
    """Its worker delivers only."""
    site = Site(tmp_path, ledger, clock)
    worker = site.settings.worker.model_copy(update={"queues": ("deliver",)})
    site.settings = site.settings.model_copy(update={"worker": worker})
    return site


def test_what_is_due_goes_out_though_housekeeping_fails(site: Site) -> None:
    def failing() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    site.receive(LATERAL)
    site.close()
    with Shift(site.node) as shift:
        shift.tick_with(failing)
        wait_for(lambda: list((site.folder / "pacs").iterdir()), "the report to arrive")


def test_it_ticks_on_though_no_thread_can_be_started(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift_module, "TICK_SECONDS", 0.05)
    site.receive(LATERAL)
    site.close()
    ticks = threading.Semaphore(0)
    with Shift(site.node) as shift:
        with monkeypatch.context() as exhausted:
            start = threading.Thread.start

            def refusing_start(thread: threading.Thread) -> None:
                if thread.name.startswith("tick_"):  # of its pool
                    raise RuntimeError("can't start new thread")
                start(thread)

            exhausted.setattr(threading.Thread, "start", refusing_start)
            shift.tick_with(ticks.release)
            for _ in range(3):
                assert ticks.acquire(timeout=30)
        wait_for(lambda: list((site.folder / "pacs").iterdir()), "the report to arrive")
