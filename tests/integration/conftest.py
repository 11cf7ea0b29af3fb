"""Ledgers on SQLite and on PostgreSQL, and nodes that deliver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import metadata
from support.deliveries import Node
from support.ledgers import Clock, opened
from support.servers import Postgres


@pytest.fixture
def clock() -> Clock:
    """The ledger's clock in tests that use :func:`ledger`: it stands still until told to move."""
    return Clock()


@pytest.fixture(scope="session")
def _reused_postgres_url(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database with an empty ledger in it; the test runs once on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'chexnode.db'}"
    url = str(request.getfixturevalue("_reused_postgres_url"))
    with opened(url) as ledger, ledger.database.write() as conn:
        # Emptying is ten times as fast as a new database for every test.
        conn.execute(text(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)} RESTART IDENTITY"))
    return url


@pytest.fixture
def ledger(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger whose clock stands still."""
    with opened(ledger_url, clock) as ledger:
        yield ledger


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Make nodes that only deliver, with one destination as the settings describe it."""
    made: list[Node] = []

    def make(url: str | None = None, **destination: Any) -> Node:
        node = Node(tmp_path, url or f"sqlite:///{tmp_path / 'node.db'}", **destination)
        made.append(node)
        return node

    yield make
    for node in made:
        node.ledger.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("deliver-")]
