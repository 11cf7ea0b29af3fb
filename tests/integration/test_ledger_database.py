"""The ground under the ledger: migrations, clocks, and databases that die. On both databases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, inspect

from chexnode.ledger import database
from chexnode.ledger.database import Database
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.migrate import check_schema, upgrade
from chexnode.ledger.schema import markers, metadata
from chexnode.vocabulary.errors import BadEnvironment, Transient
from chexnode.vocabulary.states import JobState
from support.ledgers import SPEC, Clock, arrival, claim, complete, opened, record
from support.servers import Postgres, wait_for

TESTS = Path(__file__).parents[1]


@pytest.fixture
def empty(database_url: str) -> Database:
    return Database(database_url)


def test_migrations_make_exactly_the_schema(empty: Database) -> None:
    assert upgrade(empty) == (None, upgrade(empty)[1])
    with empty.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert set(inspect(conn).get_table_names()) == {*metadata.tables, "alembic_version"}
    empty.close()


def test_an_old_schema_is_refused_with_the_remedy(empty: Database, database_url: str) -> None:
    with pytest.raises(BadEnvironment, match=r"(is empty|no database) .* run `chexnode db upgrade`"):
        Ledger(database_url)
    before, now = upgrade(empty)
    assert before is None
    assert upgrade(empty) == (now, now)
    check_schema(empty)
    empty.close()


def test_a_newer_schema_is_told_from_an_old_one(empty: Database, database_url: str) -> None:
    upgrade(empty)
    with empty.write() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for act in (lambda: upgrade(empty), lambda: Ledger(database_url)):
        with pytest.raises(BadEnvironment, match="is at 9999, which a newer release has made"):
            act()
    empty.close()


def test_roles_that_migrate_at_once_wait_for_each_other(database_url: str) -> None:
    script = (
        "import sys; from chexnode.ledger.database import Database; from chexnode.ledger.migrate import upgrade;"
        "upgrade(Database(sys.argv[1]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, database_url]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    with opened(database_url) as ledger:
        check_schema(ledger.database)


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(6)

    def opens(number: int) -> None:
        database = Database(f"sqlite:///{tmp_path / f'{number}.db'}")
        together.wait(30)
        with database.read() as conn:
            assert conn.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        database.close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(opens, [number for number in range(40) for _ in range(6)]))


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    def write_and_fail() -> None:
        with ledger.database.write() as conn:
            conn.execute(insert(markers), {"name": "x", "value": "1"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert ledger.files.marker("x") is None
    assert ledger.files.mark("x", "2") == "2"
    assert ledger.files.mark("x", "3") == "2"
    assert ledger.files.marker("x") == "2"


def test_times_are_utc_and_aware(ledger: Ledger, clock: Clock) -> None:
    clock.now = datetime(2030, 5, 6, 12, 0, 0, 123456, tzinfo=UTC).astimezone()
    record(ledger)
    (job,) = ledger.views.jobs()
    assert job.received_at == clock.now
    assert job.received_at.utcoffset() == timedelta(0)
    clock.now = clock.now.replace(tzinfo=None)
    with pytest.raises(Exception, match="aware datetimes only"):
        record(ledger)


def test_the_server_clock_is_near_ours(ledger: Ledger) -> None:
    assert abs(ledger.database.server_time() - datetime.now(UTC)) < timedelta(seconds=60)


def test_a_read_sees_one_snapshot(ledger_url: str) -> None:
    with opened(ledger_url) as one, opened(ledger_url) as other:
        with one.database.read() as conn:
            before = conn.exec_driver_sql("SELECT count(*) FROM instances").scalar_one()
            record(other)
            after = conn.exec_driver_sql("SELECT count(*) FROM instances").scalar_one()
        assert before == after == 0
        assert one.accounts.account().received == 1


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////proc/none/x.db",
        "mysql://localhost/x",
        "postgresql://localhost/x",
        "postgresql+psycopg://localhost:port/x",
        "nonsense",
    ],
)
def test_a_database_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(BadEnvironment):
        Database(url)


def test_sqlite_is_as_durable_as_promised(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with database.read() as conn:
        pragmas = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()


RECEIVER = """
import itertools, sys
from support.ledgers import arrival, opened, record
url, life = sys.argv[1:]
with opened(url) as ledger:
    for number in itertools.count():
        made = [arrival(f"1.{life}.{number}.{n}", study_instance_uid=f"1.{life}") for n in range(5)]
        record(ledger, *made)
        print(*(a.sop_instance_uid for a in made), flush=True)
"""


def test_kill_9_loses_nothing_acknowledged(ledger_url: str) -> None:
    """A process commits and says so until it is killed in the middle of something; four times over."""
    acknowledged: list[str] = []
    for life in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", RECEIVER, ledger_url, str(life)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        assert process.stdout is not None
        for _ in range(3 + life):
            acknowledged += process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait()
    with opened(ledger_url) as ledger:
        stored = {job.sop_instance_uid for job in ledger.views.jobs(limit=None)}
        account = ledger.accounts.account()
    assert set(acknowledged) <= stored
    assert len(stored) % 5 == 0, "a transaction is whole or not there"
    assert (account.difference, account.pending) == (0, len(stored))


def test_a_postgresql_restart_in_mid_life(postgres: Postgres, postgres_url: str) -> None:
    with opened(postgres_url) as ledger:
        record(ledger, arrival(), arrival())
        job = claim(ledger)
        postgres.crash()
        try:
            for act in (
                lambda: record(ledger),
                lambda: complete(ledger, job, "pacs"),
                lambda: ledger.jobs.renew([job]),
                lambda: ledger.accounts.account(),
                lambda: ledger.deliveries.claim("pacs", 1),
            ):
                with pytest.raises(Transient, match="database: "):
                    act()
        finally:
            postgres.start()
        complete(ledger, job, "pacs")
        record(ledger)
        account = ledger.accounts.account()
        assert (account.received, account.analysed, account.pending, account.difference) == (3, 1, 2, 0)
        assert [j.state for j in ledger.views.jobs(["running"])] == []


def test_a_connection_lost_in_a_transaction_is_transient(postgres: Postgres, postgres_url: str) -> None:
    with opened(postgres_url) as ledger:

        def write_and_lose_the_server() -> None:
            with ledger.database.write() as conn:
                conn.execute(insert(markers), {"name": "x", "value": "1"})
                postgres.crash()
                postgres.start()
                conn.execute(insert(markers), {"name": "y", "value": "1"})

        with pytest.raises(Transient):
            write_and_lose_the_server()
        assert ledger.files.marker("x") is None
        assert ledger.files.mark("x", "2") == "2"


def test_a_locked_sqlite_file_is_transient(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with opened(url) as one, opened(url) as other:
        with other.database.engine.connect() as conn:
            conn.exec_driver_sql("PRAGMA busy_timeout=50")
        with one.database.write(), pytest.raises(Transient, match="locked"):
            record(other)
        record(other)
        assert other.views.jobs()[0].state is JobState.QUEUED


def test_a_password_is_never_in_an_error() -> None:
    database = Database("postgresql+psycopg://chexnode:hunter2@127.0.0.1:1/none")
    with pytest.raises(Transient) as caught, database.read():
        pass
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("ahead", [-45, 45])
def test_a_worker_whose_clock_is_wrong_harms_nothing(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Leases and due times are by the database's clock: by this host's, 45 s would end or begin every lease."""
    if ledger_url.startswith("sqlite"):
        pytest.skip("SQLite has no clock but the host's, which all roles share")
    with opened(ledger_url, None) as right:
        record(right)
        record(right)
        claim(right)
        monkeypatch.setattr(database, "utc_now", lambda: datetime.now(UTC) + timedelta(seconds=ahead))
        with opened(ledger_url, None) as wrong:
            assert wrong.jobs.expire(3) == 0, "a lease that runs"
            assert wrong.jobs.due(SPEC) == 1, "a job that is due"
            claim(wrong)
            assert wrong.database.skew().total_seconds() == pytest.approx(-ahead, abs=2)
        assert right.jobs.expire(3) == 0, "a lease that the other has just taken"


def test_a_closed_ledger_leaves_no_thread(postgres_url: str) -> None:
    before = set(threading.enumerate())
    with opened(postgres_url) as ledger:
        ledger.files.mark("x", "1")
        assert set(threading.enumerate()) > before
    wait_for(lambda: set(threading.enumerate()) <= before, "the watching thread to end")


def test_a_frozen_server_is_an_answer_within_five_seconds_and_is_forgotten_when_it_goes_on(postgres: Postgres) -> None:
    """SIGSTOP: the kernel still acknowledges every byte, and no time-out of the server's own can end the wait."""
    url = postgres.create_database()
    with opened(url) as ledger:
        record(ledger)
        pids = server_processes(postgres)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2):  # on a connection that is open, and on a new one
                began = time.monotonic()
                with pytest.raises(Transient):
                    record(ledger)
                assert time.monotonic() - began < 5
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        record(ledger)
        assert ledger.accounts.account().received == 2


def server_processes(postgres: Postgres) -> list[int]:
    """The server's and those of its connections."""
    assert postgres.process is not None
    first = postgres.process.pid
    children = [int(pid) for path in Path(f"/proc/{first}/task").glob("*/children") for pid in path.read_text().split()]
    return [first, *children]
