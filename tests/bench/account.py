"""How long administrators wait for what they look at, on a ledger of a million instances.

    python tests/bench/account.py [--instances 1000000] [--repeat 3] [--json FILE] [--only sqlite]

The rows are written by SQL, shaped as a year of a busy department leaves them: four in ten images analysed, three
results each delivered to one PACS, some dead or waiting, a few jobs failed or queued, one in two hundred images sent
again. Timed is what the commands, the web role and the housekeeper ask of the ledger, on SQLite and PostgreSQL, from a
process that has asked before. Printed are the best of three in milliseconds,
and the CPU time, which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from chexnode.ledger.database import Database
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.migrate import upgrade
from chexnode.settings.node import NodeSettings
from chexnode.settings.tree import Settings
from chexnode.vocabulary.records import JobSpec
from chexnode.web.metrics import LedgerCollector
from support.servers import Postgres

SPEC = JobSpec("model 1", "a" * 64, "b" * 64)
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) ",
    "postgresql": "WITH n AS (SELECT generate_series(1, {count}) AS i) ",
}
_PAD = {"sqlite": "printf('%0{width}d', {value})", "postgresql": "lpad(({value})::text, {width}, '0')"}
_AT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', '2030-01-01', '+' || (i * 30) || ' seconds')",
    "postgresql": "timestamptz '2030-01-01 00:00:00+00' + i * interval '30 seconds'",
}


def fill(database: Database, count: int) -> None:
    """Write ``count`` instances and all that belongs to them."""
    dialect = database.engine.dialect.name

    def pad(value: str, width: int) -> str:
        return _PAD[dialect].format(value=value, width=width)

    at, false, true = _AT[dialect], *(("0", "1") if dialect == "sqlite" else ("false", "true"))
    uid = "'1.2.826.0.1.3680043.8.498.' || " + pad("i", 24)
    study, series = "'1.2.826.1.' || " + pad("i / 3", 24), "'1.2.826.2.' || " + pad("i / 3", 24)
    digest, path = pad("i * 7919 % 1000003", 64), "'spool/sources/20300101/00/' || " + pad("i", 80) + " || '.dcm'"
    job, result = pad("i", 16), "'2.25.' || " + pad("i", 36)
    analysed = "i % 10 < 4"
    # Of the analysed: one in 200 refused, one in 2,000 failed; the last 50 are queued.
    state = (
        f"CASE WHEN i > {count} - 50 THEN 'QUEUED' WHEN i % 2000 = 3 THEN 'FAILED'"
        " WHEN i % 200 = 1 THEN 'REFUSED' ELSE 'DONE' END"
    )
    steps = [
        f"INSERT INTO studies (study_instance_uid, state, patient_id, patient_name, patient_name_key, study_date,"
        f" accession_number, first_received_at, last_received_at) SELECT {study}, 'CLOSED', 'P' || i, 'Name^' || i,"
        f" 'name^' || i, '20300101', 'A' || i, {at}, {at} FROM n WHERE i % 3 = 0 OR i = 1",
        f"INSERT INTO series (study_instance_uid, series_instance_uid, modality) SELECT {study}, {series}, 'DX'"
        " FROM n WHERE i % 3 = 0 OR i = 1",
        "INSERT INTO instances (sop_instance_uid, digest, study_instance_uid, series_instance_uid, conflict, state,"
        " reason, notes, priority, sop_class_uid, transfer_syntax_uid, path, size, calling_ae_title, address,"
        f" duplicates, received_at) SELECT {uid}, {digest}, {study}, {series}, {false},"
        f" CASE WHEN {analysed} THEN 'ANALYSABLE' WHEN i % 20000 = 9 THEN 'QUARANTINED' ELSE 'NOT_ANALYSED' END,"
        f" CASE WHEN {analysed} THEN NULL WHEN i % 20000 = 9 THEN 'malformed' WHEN i % 10 < 6 THEN 'lateral-view'"
        " WHEN i % 10 < 9 THEN 'modality' ELSE 'body-part' END,"
        " CASE WHEN i % 3 = 0 THEN 'view-unknown' ELSE '' END, 'ROUTINE', '1.2.840.10008.5.1.4.1.1.1.1',"
        f" '1.2.840.10008.1.2.1', {path}, 12000000, 'MODALITY', '10.0.0.7', CASE WHEN i % 200 = 0 THEN 1 ELSE 0 END,"
        f" {at} FROM n",
        "INSERT INTO jobs (id, key, sop_instance_uid, digest, model, model_digest, settings_digest, state, reason,"
        " error, urgency, due_at, attempts, crashes, fence, score, abnormal, regions, superseded, notes,"
        " created_at, finished_at)"
        f" SELECT {job}, {pad('i', 64)}, {uid}, {digest}, 'model 1', '{SPEC.model_digest}', '{SPEC.settings_digest}',"
        f" {state}, CASE WHEN {state} = 'REFUSED' THEN 'noise-pixels' END, NULL, 1, {at}, 0, 0, 1, 0.5, {true}, 1,"
        f" {false},"
        f" CASE WHEN i % 3 = 0 THEN 'lossy' ELSE '' END, {at}, {at} FROM n WHERE {analysed}",
    ]
    for number, kind in enumerate(("seg", "sc", "sr")):
        steps += [
            "INSERT INTO results (uid, job_id, study_instance_uid, series_instance_uid, kind, variant, sop_class_uid,"
            f" sha256, path, size, created_at) SELECT {result} || '{number}', {job}, {study}, {series}, '{kind}', 'x',"
            f" '1.2.3', {pad('i', 64)}, 'spool/results/20300101/00/{number}' || {pad('i', 80)}, 20000, {at}"
            f" FROM n WHERE {analysed} AND {state} = 'DONE'",
            "INSERT INTO deliveries (result_uid, job_id, destination, kind, state, attempts, fence, error, created_at)"
            f" SELECT {result} || '{number}', {job}, 'pacs', '{kind}', CASE WHEN i % 5000 = 0 THEN 'DEAD'"
            f" WHEN i > {count} - 2000 THEN 'WAITING' ELSE 'SENT' END, 1, 1, NULL, {at}"
            f" FROM n WHERE {analysed} AND {state} = 'DONE'",
        ]
    for event, where in (("new", "i > 0"), ("created", analysed), ("claimed", analysed), ("analysed", analysed)):
        subject, subject_id = ("instance", "'i' || " + pad("i", 15)) if event == "new" else ("job", job)
        steps.append(
            f"INSERT INTO events (at, subject, subject_id, event) SELECT {at}, '{subject}', {subject_id}, '{event}'"
            f" FROM n WHERE {where}"
        )
    for step in steps:
        with database.write() as conn:
            into, _, rows = step.partition(" SELECT ")
            numbers = _NUMBERS[dialect].format(count=count)
            # SQLite wants the CTE in front, and both databases take it there.
            statement = numbers + into + " SELECT " + rows
            conn.exec_driver_sql(statement if dialect == "sqlite" else statement.replace("%", "%%"))
    if dialect == "postgresql":  # as its autovacuum does; SQLite is as a node leaves it, without statistics
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("VACUUM ANALYZE"))


def questions(ledger: Ledger, folder: Path) -> dict[str, Callable[[], object]]:
    """What is asked, by who asks."""
    views = ledger.views
    collector = LedgerCollector(Settings(node=NodeSettings(data_dir=folder)), ledger)
    middle = views.jobs(["NOT_ANALYSED"], limit=1)[0]
    detail = views.jobs(["DONE"], limit=1)[0]
    assert middle.id.startswith("i")
    name = middle.id
    with ledger.database.write() as conn:  # the rows' own names were not worth a million hashes
        when = text("UPDATE events SET subject_id = :name WHERE subject = 'instance' AND subject_id = :made")
        conn.execute(when, {"name": name, "made": "i" + middle.sop_instance_uid[-15:]})
    return {
        "chexnode account": ledger.accounts.account,
        "/metrics": lambda: list(collector.collect()),
        "chexnode jobs": views.jobs,
        "chexnode jobs --state FAILED": lambda: views.jobs(["FAILED"]),
        "chexnode jobs --state NOT_ANALYSED": lambda: views.jobs(["NOT_ANALYSED"]),
        "chexnode jobs --study": lambda: views.jobs(study_instance_uid=detail.study_instance_uid),
        "chexnode jobs show, a job": lambda: views.job(detail.id),
        "chexnode jobs show, an image without one": lambda: views.job(name),
        "chexnode deliveries": views.deliveries,
        "chexnode deliveries --state DEAD": lambda: views.deliveries(["DEAD"]),
        "readiness": lambda: ledger.jobs.due(SPEC),
        "housekeeping: due deliveries": ledger.deliveries.due,
        "housekeeping: lost destinations": lambda: ledger.deliveries.give_up(["pacs"], timedelta(0)),
        "housekeeping: retention, nothing old": lambda: ledger.files.expire(datetime(2029, 1, 1, tzinfo=UTC)),
        "housekeeping: are 200 files known": lambda: ledger.files.known([f"spool/x{n}" for n in range(200)]),
        "housekeeping: adopt": lambda: ledger.jobs.adopt(SPEC, timedelta(seconds=60)),
        "housekeeping: close studies": lambda: ledger.studies.close_quiet(30),
    }


def used(server: psutil.Process | None) -> float:
    """CPU seconds of this process and of the database server with its children, the ended ones included."""
    seconds = time.process_time()
    if server is not None:
        own = server.cpu_times()
        seconds += own.user + own.system + own.children_user + own.children_system
        for child in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                seconds += child.cpu_times().user + child.cpu_times().system
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--folder", default="/var/tmp", help="where SQLite's file goes; PostgreSQL's are in /tmp")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    figures: dict[str, dict[str, tuple[float, float]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        urls, servers = dict[str, str](), dict[str, psutil.Process | None]()
        if options.only != "postgresql":
            urls["sqlite"], servers["sqlite"] = f"sqlite:///{folder}/million.db", None
        if options.only != "sqlite":
            postgres = stack.enter_context(Postgres())
            assert postgres.process is not None
            urls["postgresql"] = postgres.create_database()
            servers["postgresql"] = psutil.Process(postgres.process.pid)
        for dialect, url in urls.items():
            database = Database(url)
            upgrade(database)
            begin = time.perf_counter()
            fill(database, options.instances)
            print(f"{dialect}: filled in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
            database.close()
            ledger = Ledger(url)
            assert ledger.accounts.account().difference == 0
            for name, ask in questions(ledger, folder).items():
                walls, before = [], used(servers[dialect])
                for _ in range(options.repeat):
                    begin = time.perf_counter()
                    ask()
                    walls.append((time.perf_counter() - begin) * 1000)
                spent = (used(servers[dialect]) - before) * 1000 / options.repeat
                figures.setdefault(name, {})[dialect] = (min(walls), spent)
                print(f"{dialect}: {name} {min(walls):.1f} ms, CPU {spent:.1f} ms", file=sys.stderr, flush=True)
            ledger.close()
    table = Table(title=f"{options.instances:,} instances; milliseconds, the best of {options.repeat}, and CPU time")
    table.add_column("question")
    for dialect in urls:
        table.add_column(dialect, justify="right")
        table.add_column("CPU", justify="right")
    for name, by_dialect in figures.items():
        table.add_row(name, *(f"{number:.1f}" for dialect in urls for number in by_dialect[dialect]))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
