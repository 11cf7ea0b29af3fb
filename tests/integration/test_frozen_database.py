"""A frozen PostgreSQL: a sender is told to try again and an orchestrator that the node is not ready, within seconds;
the process still counts as alive, and everything goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from support.frozen import freeze, thaw
from support.ledgers import opened
from support.receivers import a_settings, receiving, rows
from support.senders import an_image, store_file
from support.servers import Postgres, wait_for
from support.webs import serving

SECONDS = 5.0
BUSY_SECONDS = 3.0
"""What a machine that runs other tests too may add."""

T = TypeVar("T")


@contextmanager
def frozen(postgres: Postgres) -> Iterator[None]:
    processes = freeze(postgres)
    try:
        yield
    finally:
        thaw(processes)


def timed(action: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    return action(), time.monotonic() - started


@pytest.mark.timeout(300)
def test_a_frozen_database_is_an_answer_to_everybody(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    settings = a_settings(tmp_path, database={"url": url})
    with opened(url) as ledger, receiving(settings, ledger) as (receiver, _, _), serving(settings, ledger) as client:
        port = receiver.port
        assert port is not None
        assert store_file(port, an_image("1.2.3.1")).status == 0
        assert client.get("/health/ready").status_code == 200
        with frozen(postgres):
            answer, took = timed(lambda: store_file(port, an_image("1.2.3.2"), timeout=60))
            assert answer.status == 0xA700
            assert took < SECONDS + BUSY_SECONDS
            ready, took = timed(lambda: client.get("/health/ready", timeout=60))
            assert ready.status_code == 503
            assert took < SECONDS + BUSY_SECONDS
            live, took = timed(lambda: client.get("/health/live", timeout=60))
            assert live.status_code == 200
            assert took < SECONDS
        wait_for(lambda: client.get("/health/ready").status_code == 200, "the node to be ready again")
        wait_for(lambda: store_file(port, an_image("1.2.3.2")).status == 0, "a store to be acknowledged again")
        assert {row.sop_instance_uid for row in rows(ledger)} == {"1.2.3.1", "1.2.3.2"}
