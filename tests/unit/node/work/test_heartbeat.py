"""What a worker says of the leases of its jobs."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from chexnode.work import worker as module
from chexnode.work.worker import Worker


class Jobs:
    """A ledger whose job 1 is settled while its lease is renewed, and whose job 2 was taken over by another."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.beaten = threading.Event()

    def renew(self, held: list[Any]) -> set[str]:
        if not held:
            return set()
        assert self.worker is not None
        for claim in held:
            if claim.id == "settled":
                self.worker._forget(claim)
        self.beaten.set()
        return {claim.id for claim in held}

    def release(self, held: list[Any]) -> None:
        pass


def test_a_lease_is_lost_only_where_it_was(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    jobs = Jobs()
    settings = SimpleNamespace(worker=SimpleNamespace(decoders=1))
    node: Any = SimpleNamespace(
        settings=settings, spec=None, ledger=SimpleNamespace(jobs=jobs), spool=None, stopping=threading.Event()
    )
    pipeline: Any = None
    worker = jobs.worker = Worker(node, pipeline)
    claims: Any = {name: SimpleNamespace(id=name) for name in ("settled", "settling", "lost")}
    with caplog.at_level(logging.WARNING):
        with worker._state:
            worker._settling.add("settling")
            worker._held.update(claims)
        assert jobs.beaten.wait(30)
        worker.close()
    said = {record.getMessage() for record in caplog.records}
    assert said == {"the lease of job lost is lost"}
