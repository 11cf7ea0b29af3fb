"""Searches (QIDO-RS) over many studies, on SQLite and on PostgreSQL.

    python tests/bench/qido.py [--studies 100000] [--rounds 100] [--only sqlite]

A ledger of made-up studies, each of two images in one series and of two results in series of their own, is searched
over one connection, one request at a time. Printed for each kind of query: median and 95th percentile of the whole
answer in ms, and beside them, because another load on the machine does not change it, the processor time of the web
role and of the database in ms for each request (SQLite's is the web role's).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert, text

sys.path.insert(0, str(Path(__file__).parents[1]))

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import instances, results, series, studies
from chexnode.settings.tree import Settings
from support.dicomweb import Service, serving
from support.ledgers import opened
from support.receivers import a_settings
from support.servers import LOOPBACK, Postgres

Query = Callable[[int], tuple[str, dict[str, str]]]
"""A number that names a study -> path and parameters."""

_FAMILIES = ("Smith", "Jones", "Müller", "Garcia", "Wang", "Doe", "Silva", "Khan", "Ivanov", "Sato")
_DAYS = 1500


def _day(number: int) -> str:
    return (datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=number % _DAYS)).strftime("%Y%m%d")


QUERIES: Mapping[str, Query] = {
    "first page": lambda n: ("/studies", {"limit": "100"}),
    "a late page": lambda n: ("/studies", {"limit": "100", "offset": str(n)}),
    "PatientID": lambda n: ("/studies", {"PatientID": f"P{n // 2}"}),
    "PatientID P1*": lambda n: ("/studies", {"PatientID": f"P{n // 200}*", "limit": "100"}),
    "PatientID *1": lambda n: ("/studies", {"PatientID": f"*{n}", "limit": "100"}),
    "AccessionNumber": lambda n: ("/studies", {"AccessionNumber": f"A{n}"}),
    "PatientName Doe1*": lambda n: ("/studies", {"PatientName": f"{_FAMILIES[n % 10]}{n % 997}*", "limit": "100"}),
    "PatientName Doe*": lambda n: ("/studies", {"PatientName": f"{_FAMILIES[n % 10]}*", "limit": "100"}),
    "PatientName *1^a*": lambda n: ("/studies", {"PatientName": f"*{n % 997}^a*", "limit": "100"}),
    "no such name": lambda n: ("/studies", {"PatientName": f"*nobody{n}*", "limit": "100"}),
    "StudyDate": lambda n: ("/studies", {"StudyDate": _day(n), "limit": "100"}),
    "a week": lambda n: ("/studies", {"StudyDate": f"{_day(n)}-{_day(n + 7)}", "limit": "100"}),
    "a year, a late page": lambda n: ("/studies", {"StudyDate": "2021", "limit": "100", "offset": str(n % 20_000)}),
    "dates and modality": lambda n: (
        "/studies",
        {"StudyDate": f"{_day(n)}-", "ModalitiesInStudy": "DX", "limit": "100"},
    ),
    "rare modality": lambda n: ("/studies", {"ModalitiesInStudy": "RG", "limit": "100"}),
    "no such modality": lambda n: ("/studies", {"ModalitiesInStudy": "MR", "limit": "100"}),
    "modality, name": lambda n: (
        "/studies",
        {"ModalitiesInStudy": "DX", "PatientName": f"{_FAMILIES[n % 10]}*", "limit": "100"},
    ),
    "series of a study": lambda n: (f"/studies/1.2.{n}/series", {}),
    "instances of a study": lambda n: (f"/studies/1.2.{n}/instances", {}),
    "instances of a series": lambda n: (f"/studies/1.2.{n}/series/1.2.{n}.1/instances", {}),
    "all series": lambda n: ("/series", {"limit": "100"}),
    "all series, a late page": lambda n: ("/series", {"limit": "100", "offset": str(n)}),
    "all series, modality": lambda n: ("/series", {"Modality": "DX", "limit": "100"}),
    "all series, patient": lambda n: ("/series", {"PatientID": f"P{n // 2}"}),
    "all series, date": lambda n: ("/series", {"StudyDate": _day(n), "limit": "100"}),
    "all instances": lambda n: ("/instances", {"limit": "100"}),
    "all instances, late page": lambda n: ("/instances", {"limit": "100", "offset": str(n)}),
    "all instances, patient": lambda n: ("/instances", {"PatientID": f"P{n // 2}"}),
    "all instances, SOP class": lambda n: ("/instances", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "limit": "100"}),
    "all instances, date": lambda n: ("/instances", {"StudyDate": _day(n), "limit": "100"}),
    "SOPInstanceUID": lambda n: ("/instances", {"SOPInstanceUID": f"1.2.{n}.1.1"}),
}  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "postgresql":
            settings = a_settings(Path(folder), web={"requests_per_second": 0})
            with opened(settings.database.url) as ledger:
                fill(ledger, options.studies)
                search(settings, ledger, options.studies, options.rounds)
        if options.only != "sqlite":
            with Postgres() as server:
                url = server.create_database()
                settings = a_settings(Path(folder), database={"url": url}, web={"requests_per_second": 0})
                with opened(settings.database.url) as ledger:
                    fill(ledger, options.studies)
                    search(settings, ledger, options.studies, options.rounds)


def fill(ledger: Ledger, count: int) -> None:
    """Put ``count`` studies into an empty ledger, and let the database look at them as it does by itself in time."""
    for rows in _rows(count):
        with ledger.database.write() as conn:
            for table, values in zip((studies, series, instances, results), rows, strict=True):
                conn.execute(insert(table), values)
    engine = ledger.database.engine
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        if engine.dialect.name == "postgresql":  # SQLite does nothing by itself
            conn.exec_driver_sql("VACUUM ANALYZE")


def search(settings: Settings, ledger: Ledger, count: int, rounds: int) -> None:
    """Time every query, and print."""
    print(f"{count} studies on {ledger.database.engine.dialect.name}: wall p50, p95; CPU of web, of database; in ms")
    with serving(settings, ledger) as service:
        for name, query in QUERIES.items():
            _time(service, name, query, count, rounds)


def _time(service: Service, name: str, query: Query, count: int, rounds: int) -> None:
    draw = random.Random(1)
    taken = []
    busy = _Busy(service.ledger)
    for number in range(rounds + 3):
        if number == 3:  # the first warm up
            busy.start()
        path, parameters = query(draw.randrange(count))
        start = time.perf_counter()
        answer = service.client.get(path, params=parameters)
        if number >= 3:
            taken.append((time.perf_counter() - start) * 1000)
        assert answer.status_code in (200, 204), answer.text
    web, database = busy.stop()
    p95 = sorted(taken)[int(len(taken) * 0.95) - 1]
    print(
        f"  {name:25s} {statistics.median(taken):6.1f} {p95:6.1f}    {web / rounds:6.2f} {database / rounds:6.2f}",
        flush=True,
    )


class _Busy:
    """Processor time, in ms, of this process without the client's thread, and of PostgreSQL's processes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def start(self) -> None:
        self._since = self._now()

    def stop(self) -> tuple[float, float]:
        web, database = self._now()
        return (web - self._since[0]) * 1000, (database - self._since[1]) * 1000

    def _now(self) -> tuple[float, float]:
        return time.process_time() - time.thread_time(), self._database()

    def _database(self) -> float:
        if self._ledger.database.engine.dialect.name == "sqlite":
            return 0.0
        with self._ledger.database.engine.connect() as conn:
            backends = conn.execute(text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()"))
            return sum(_processor_seconds(pid) for (pid,) in backends)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rows(count: int, together: int = 5000) -> Iterator[tuple[list[dict[str, object]], ...]]:
    draw = random.Random(1)
    now = datetime.now(UTC)
    for start in range(0, count, together):
        numbers = range(start, min(count, start + together))
        names = {n: f"{draw.choice(_FAMILIES)}{n % 997}^{draw.choice('ABCDEFGH')}" for n in numbers}
        yield (
            [
                {
                    "study_instance_uid": f"1.2.{n}",
                    "state": "CLOSED",
                    "patient_id": f"P{n // 2}",
                    "patient_name": names[n],
                    "patient_name_key": names[n].casefold(),
                    "study_date": _day(n),
                    "study_time": "101010",
                    "accession_number": f"A{n}",
                    "first_received_at": now,
                    "last_received_at": now,
                }
                for n in numbers
            ],
            [
                {
                    "study_instance_uid": f"1.2.{n}",
                    "series_instance_uid": f"1.2.{n}.1",
                    "modality": "RG" if n % 5000 == 7 else "CR" if n % 3 else "DX",
                    "series_number": 1,
                }
                for n in numbers
            ]
            + [
                {
                    "study_instance_uid": f"1.2.{n}",
                    "series_instance_uid": f"2.25.{n}.{kind}",
                    "modality": modality,
                    "series_number": 9000 + kind,
                }
                for n in numbers
                for kind, modality in ((1, "SEG"), (2, "SR"))
            ],
            [
                {
                    "sop_instance_uid": f"1.2.{n}.1.{k}",
                    "digest": f"{n:063d}{k}",
                    "study_instance_uid": f"1.2.{n}",
                    "series_instance_uid": f"1.2.{n}.1",
                    "conflict": False,
                    "state": "ANALYSABLE",
                    "notes": [],
                    "priority": "routine",
                    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "instance_number": k,
                    "path": f"spool/sources/{n}-{k}.dcm",
                    "size": 1,
                    "calling_ae_title": "BENCH",
                    "address": LOOPBACK,
                    "duplicates": 0,
                    "received_at": now,
                }
                for n in numbers
                for k in (1, 2)
            ],
            [
                {
                    "uid": f"2.25.{n}.{kind}.1",
                    "study_instance_uid": f"1.2.{n}",
                    "series_instance_uid": f"2.25.{n}.{kind}",
                    "kind": name,
                    "variant": "planar",
                    "sop_class_uid": sop_class,
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "instance_number": 1,
                    "sha256": f"{n:063d}{kind}",
                    "path": f"spool/results/{n}-{kind}.dcm",
                    "size": 1,
                    "created_at": now,
                }
                for n in numbers
                for kind, name, sop_class in (
                    (1, "seg", "1.2.840.10008.5.1.4.1.1.66.4"),
                    (2, "sr", "1.2.840.10008.5.1.4.1.1.88.34"),
                )
            ],
        )


if __name__ == "__main__":
    main()
