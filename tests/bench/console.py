"""How quickly the console answers with 100,000 images in the ledger: overview and list, p50 and p95 of requests.

    python tests/bench/console.py [--images 100000] [--requests 60] [--postgresql]

Rows are made by the bulk, as they stand after a year of work. The web role runs in a process of its own, as in a
hospital, and a client asks it over HTTP, one request after the other. The overview is counted once in two seconds, for
all who look; what that costs is measured by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from chexnode.ledger.images import ImageSearch
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import deliveries, instances, jobs, results, series, studies
from chexnode.settings.loading import load
from support.ledgers import opened
from support.servers import LOOPBACK, Postgres, free_port, wait_for

_CHUNK = 5_000


def fill(ledger: Ledger, count: int) -> None:
    """Images of the last hundred days, one a study, analysed and delivered; one in five has no job."""
    now = datetime.now(UTC)
    step = timedelta(days=100) / count
    for start in range(0, count, _CHUNK):
        rows: dict[str, list[dict[str, object]]] = {t.name: [] for t in (studies, series, instances, jobs, results)}
        sent = []
        for n in range(start, min(start + _CHUNK, count)):
            at, uid = now - step * (count - n), f"1.2.{n}"
            study = {"study_instance_uid": f"{uid}.1"}
            rows["studies"].append(
                study
                | {
                    "state": "CLOSED",
                    "patient_id": f"P{n}",
                    "patient_name": f"NAME{n % 9973}^A",
                    "patient_name_key": f"name{n % 9973}^a",
                    "accession_number": f"A{n}",
                    "study_date": "20260101",
                    "first_received_at": at,
                    "last_received_at": at,
                }
            )
            rows["series"].append(study | {"series_instance_uid": f"{uid}.2", "modality": "DX"})
            analysed = n % 5 != 0
            rows["instances"].append(
                study
                | {
                    "sop_instance_uid": uid,
                    "digest": f"{n:064x}",
                    "series_instance_uid": f"{uid}.2",
                    "conflict": False,
                    "state": "ANALYSABLE" if analysed else "NOT_ANALYSED",
                    "reason": None if analysed else "lateral-view",
                    "notes": (),
                    "priority": "routine",
                    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "station_name": f"STATION {n % 7}",
                    "path": f"spool/{n}",
                    "size": 8_000_000,
                    "calling_ae_title": f"ROOM_{n % 5}",
                    "address": "10.0.0.1",
                    "duplicates": 0,
                    "received_at": at,
                }
            )
            if not analysed:
                continue
            job = f"{n:016x}"
            rows["jobs"].append(
                {
                    "id": job,
                    "key": f"{n:064x}",
                    "sop_instance_uid": uid,
                    "digest": f"{n:064x}",
                    "model": "model 1",
                    "model_digest": "a",
                    "settings_digest": "b",
                    "state": "FAILED" if n % 1000 == 1 else "DONE",
                    "urgency": 1,
                    "due_at": at,
                    "attempts": 0,
                    "crashes": 0,
                    "fence": 1,
                    "score": (n % 100) / 100,
                    "abnormal": n % 3 == 0,
                    "regions": n % 3,
                    "superseded": False,
                    "notes": (),
                    "created_at": at,
                    "finished_at": at + timedelta(seconds=3),
                }
            )
            rows["results"].append(
                study
                | {
                    "uid": f"2.25.{n}",
                    "job_id": job,
                    "series_instance_uid": f"{uid}.2",
                    "kind": "sc",
                    "variant": "rgb",
                    "sop_class_uid": "1.2",
                    "sha256": "c",
                    "path": f"r/{n}",
                    "size": 1,
                    "created_at": at,
                }
            )
            sent.append(
                {
                    "result_uid": f"2.25.{n}",
                    "job_id": job,
                    "destination": "pacs",
                    "kind": "sc",
                    "state": "DEAD" if n % 5000 == 1 else "SENT",
                    "created_at": at,
                    "finished_at": at,
                }
            )
        with ledger.database.write() as conn:
            for table in (studies, series, instances, jobs, results):
                if rows[table.name]:
                    conn.execute(table.insert(), rows[table.name])
            conn.execute(deliveries.insert(), sent)


@contextmanager
def web(config: Path, port: int) -> Iterator[tuple[httpx.Client, Callable[[], float]]]:
    """The web role in a process of its own; yields a client and what says how many seconds it has computed."""
    command = [sys.executable, "-m", "chexnode.cli", "--config", str(config), "--log-level", "error", "web"]
    with subprocess.Popen(command) as process, httpx.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client:
        ticks = os.sysconf("SC_CLK_TCK")

        def computed() -> float:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / ticks

        def is_up() -> bool:
            try:
                return client.get("/health/live").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_for(is_up, "the web role to start")
            yield client, computed
        finally:
            process.terminate()


def measure(ask: Callable[[], object], times: int, computed: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of a request by the clock, as a client sees it; and of the server's processor, the mean."""
    taken = []
    ask()
    before = computed()
    for _ in range(times):
        started = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - started) * 1000)
    worked = (computed() - before) * 1000 / times
    taken.sort()
    at = {name: taken[min(times - 1, int(times * share))] for name, share in (("p50", 0.5), ("p95", 0.95))}
    return {f"{name}_ms": round(value, 1) for name, value in at.items()} | {"processor_ms": round(worked, 1)}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--postgresql", action="store_true", help="on a PostgreSQL of its own, not on SQLite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Postgres() if arguments.postgresql else nullcontext() as server:
        config, port = Path(folder) / "chexnode.toml", free_port()
        database = f'[database]\nurl = "{server.create_database()}"\n' if server is not None else ""
        config.write_text(
            f'[node]\ndata_dir = "{folder}/var"\n[web]\nport = {port}\nrequests_per_second = 0\n{database}'
        )
        settings = load(config)[0]
        with opened(settings.database.url) as ledger:
            fill(ledger, arguments.images)
            midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
            older = ledger.images.page(search=ImageSearch(), size=1).rows[0].received_at - timedelta(days=50)
            place = f"{older.isoformat()}~1~1".replace("+", "%2B")
            pages = {
                "list": "/console/images",
                "list, 50 days back": f"/console/images?after={place}",
                "list, failed": "/console/images?state=FAILED",
                "list, abnormal": "/console/images?abnormal=yes",
                "search, accession": "/console/images?q=A4321",
                "search, name": "/console/images?q=name77",
                "overview": "/console",
            }
            with web(config, port) as (client, computed):

                def get(path: str) -> httpx.Response:
                    answer = client.get(path, headers={"accept": "text/html"})
                    return answer.raise_for_status()

                found = {
                    name: measure(lambda path=path: get(path), arguments.requests, computed)  # type: ignore[misc]
                    for name, path in pages.items()
                }
                found["overview, counted anew"] = measure(
                    lambda: ledger.overviews.look(midnight, ["pacs"]), arguments.requests, time.process_time
                )
    print(json.dumps({"images": arguments.images, **found}, indent=2))


if __name__ == "__main__":
    main()
