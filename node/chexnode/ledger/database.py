"""One database connection pool, its transactions, and how rows are added."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Insert, Table, create_engine, event, insert, text
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as lite_insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chexnode.ledger.watchdog import Watchdog
from chexnode.vocabulary.errors import BadEnvironment, Transient

log = logging.getLogger(__name__)

T = TypeVar("T")

_SYNCHRONISE_SECONDS = 30.0
_TRUNCATIONS = 50


def utc_now() -> datetime:
    """The host's clock."""
    return datetime.now(UTC)


class Database:
    """Engine and transactions. ``url``: ``sqlite:///FILE`` or ``postgresql+psycopg://...``.

    ``clock`` stamps leases, due times and events: the database server's by default, so that hosts whose clocks differ
    agree on them.

    ``must_exist``: raise BadEnvironment where there is no FILE, rather than make one at the first connection.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None, must_exist: bool = False) -> None:
        self.clock = clock or self._server_clock
        self._synchronised: tuple[datetime, float] | None = None
        self._watchdog: Watchdog | None = None
        try:
            if url.startswith("sqlite"):
                self.engine = _sqlite(url, must_exist)
            else:
                self.engine, self._watchdog = _postgresql(url)
        except (ArgumentError, ValueError) as error:
            raise BadEnvironment("database.url must be sqlite:///FILE or postgresql+psycopg://...") from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One read-write transaction. Raises Transient when the database is busy or away: nothing was written."""
        with _translated(), self.engine.connect().execution_options(write=True) as conn, conn.begin():
            self._synchronise(conn)
            yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read-only snapshot. Raises Transient when the database is busy or away."""
        options = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with _translated(), self.engine.connect().execution_options(**options) as conn, conn.begin():
            self._synchronise(conn)
            yield conn

    def skew(self) -> timedelta:
        """How far the database server's clock is ahead of this host's."""
        return self._server_clock() - utc_now()

    def _server_clock(self) -> datetime:
        """The server's time, by this host's monotonic clock since the server was last asked."""
        if self._synchronised is None:
            return utc_now()
        at, counted = self._synchronised
        return at + timedelta(seconds=time.monotonic() - counted)

    def _synchronise(self, conn: Connection) -> None:
        """Ask the server for its time now and then. SQLite's is the host's."""
        if conn.dialect.name != "postgresql":
            return
        before = time.monotonic()
        if self._synchronised is None or before - self._synchronised[1] > _SYNCHRONISE_SECONDS:
            now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
            self._synchronised = now.astimezone(UTC), (before + time.monotonic()) / 2

    def server_time(self) -> datetime:
        """The database server's clock (the host's own with SQLite)."""
        if self.engine.dialect.name == "sqlite":
            return utc_now()
        with self.read() as conn:
            now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
            return now.astimezone(UTC)

    def scrub(self) -> bool:
        """Leave nothing of deleted rows in the files of the database; return whether that was possible just now.

        SQLite writes its file anew and empties its log; PostgreSQL frees the space of the rows for others.
        """
        if self.engine.dialect.name == "postgresql":
            with _translated(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                conn.exec_driver_sql("VACUUM")
            return True
        raw = self.engine.raw_connection()
        try:
            connection: Any = raw.driver_connection
            connection.execute("VACUUM")
            for _ in range(_TRUNCATIONS):
                if not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    return True
                time.sleep(0.1)
        except sqlite3.OperationalError as error:
            log.warning("the database file could not be written anew: %s", error)
        finally:
            raw.close()
        return False

    def close(self) -> None:
        """Close every connection."""
        if self._watchdog is not None:
            self._watchdog.stop()
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Transient(f"database: {_first_line(error)}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Transient(f"database: {_first_line(error)}") from error
        if type(error.orig) is sqlite3.DatabaseError:  # what SQLite says of a file that is damaged or none of its own
            raise BadEnvironment(f"database: {_first_line(error)}") from error
        raise


def _first_line(error: Exception) -> str:
    # The rest of SQLAlchemy's message holds the statement and its parameters, which may name a patient.
    return str(getattr(error, "orig", error)).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _sqlite(url: str, must_exist: bool) -> Engine:
    path = make_url(url).database
    if not path or path == ":memory:":
        raise BadEnvironment("the ledger needs a database file: an in-memory one would lose what was acknowledged")
    if must_exist and not Path(path).exists():
        raise BadEnvironment(f"there is no database {path}: start with `chexnode up`, or run `chexnode db upgrade`")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadEnvironment(f"cannot make the folder of {path}: {error.strerror}") from error
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves, below
        _write_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        # A deferred transaction that reads first and writes later fails at once with SQLITE_BUSY, time-out or not.
        conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("write") else "BEGIN")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have the file in WAL mode. Of several that change a new file's mode at once, SQLite fails all but one at once,
    time-out or not, as each waits for the others' shared lock."""
    deadline = time.monotonic() + 30
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


#: How long libpq waits for a server that does not answer, and the kernel for one that does not acknowledge.
_BOUNDS: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}


def _postgresql(url: str) -> tuple[Engine, Watchdog]:
    if not url.startswith("postgresql+psycopg://"):
        raise ValueError("not a URL of ours")
    engine = create_engine(
        url,
        pool_size=5,
        max_overflow=20,
        pool_timeout=30,
        hide_parameters=True,
        connect_args=_BOUNDS,
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        # Compiling a search took 1.3 s where running it takes 0.06 s. Not a start-up option: PgBouncer refuses those.
        connection.execute("SET jit = off")
        connection.execute("SET lock_timeout = '20s'")
        connection.execute("SET idle_in_transaction_session_timeout = '120s'")
        connection.commit()

    def probe() -> None:
        arguments = engine.dialect.create_connect_args(engine.url)
        engine.dialect.connect(*arguments[0], **{**arguments[1], **_BOUNDS, "connect_timeout": 2}).close()

    return engine, Watchdog(engine, probe)


def in_chunks(values: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """Yield ``values`` in parts that fit one IN list: databases bound the number of parameters."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def add_rows(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert ``rows``, which may be none."""
    if rows:
        conn.execute(_insert(table), rows)


def add_missing(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert those of ``rows`` whose key is not there yet."""
    if rows:
        conn.execute(_insert_missing(table, conn.dialect.name), rows)


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _insert_missing(table: Table, dialect: str) -> Insert:
    if dialect == "postgresql":
        return pg_insert(table).on_conflict_do_nothing()
    return lite_insert(table).on_conflict_do_nothing()
