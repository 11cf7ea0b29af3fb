"""The ledger as files: a consistent copy taken while roles go on, and put back into an empty database.

SQLite gives its own copy by its backup interface. Of PostgreSQL each table is copied, as COPY writes it, in one
snapshot, with nothing but the driver.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from chexnode.ledger.database import Database
from chexnode.ledger.migrate import upgrade
from chexnode.ledger.schema import metadata
from chexnode.vocabulary.errors import BadEnvironment, Usage

SQLITE_FILE = "chexnode.db"


def save(database: Database, folder: Path) -> None:
    """Copy everything into ``folder``, which is empty. Raises Transient when the database is busy or away."""
    if database.engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(folder / SQLITE_FILE)) as copy, database.read() as conn:
            _driver(conn).backup(copy)
        return
    with database.read() as conn:
        for table in metadata.sorted_tables:
            with (folder / f"{table.name}.copy").open("wb") as file:
                columns = ", ".join(f'"{column.name}"' for column in table.columns)
                with _driver(conn).cursor().copy(f"COPY {table.name} ({columns}) TO STDOUT") as rows:
                    for block in rows:
                        file.write(block)


def load(database: Database, folder: Path) -> None:
    """Fill ``database``, which must be empty, with what :func:`save` wrote.

    Raises Usage where the copy is of the other kind of database, BadEnvironment where the database holds something.
    """
    is_sqlite = (folder / SQLITE_FILE).is_file()
    if is_sqlite != (database.engine.dialect.name == "sqlite"):
        kind = "SQLite" if is_sqlite else "PostgreSQL"
        raise Usage(f"the backup is of {kind}: restore it to a database.url of that kind")
    upgrade(database)
    with database.read() as conn:
        if any(conn.execute(text(f"SELECT 1 FROM {table.name} LIMIT 1")).first() for table in metadata.sorted_tables):  # noqa: S608
            raise BadEnvironment("the database is not empty: restore to a new one")
    if is_sqlite:
        with closing(sqlite3.connect(folder / SQLITE_FILE)) as copy, closing(database.engine.raw_connection()) as mine:
            copy.backup(mine.driver_connection)  # type: ignore[arg-type]
        return
    with database.write() as conn:
        fill(conn, folder)


def fill(conn: Connection, folder: Path) -> None:
    """Write the rows that :func:`save` copied from PostgreSQL into its tables, which are empty, in one transaction."""
    for table in metadata.sorted_tables:
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        with _driver(conn).cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN") as rows:
            for block in _blocks(folder / f"{table.name}.copy"):
                rows.write(block)
    for name in ("events", "deliveries"):
        highest = f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), COALESCE(MAX(id), 0) + 1, false) FROM {name}"  # noqa: S608
        conn.execute(text(highest))


def _driver(conn: Connection) -> Any:
    return conn.connection.driver_connection


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block
