"""DICOMweb: storing and retrieving beside Orthanc with its plugin, and searches over many studies.

    python tests/bench/dicomweb.py [--repeat 3] [--images 20] [--studies 100000] [--url postgresql+psycopg://...]

Images are 10 MB of noise. The servers take turns within each round; printed are medians in MB/s and ChexNode's ratio
to Orthanc. ChexNode answers a store after fsync of file, folder and row; Orthanc runs as it comes. Searches go over one
connection, one at a time; printed are median and 95th percentile of the whole answer in ms.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from sqlalchemy import insert

sys.path.insert(0, str(Path(__file__).parents[1]))

from ingest import make_image, uid

from chexnode.ledger.schema import instances, series, studies
from dicomweb import BOUNDARY, DICOM, Service, related, serving
from ledgers import opened
from nodes import Node
from receivers import a_settings
from servers import LOOPBACK, Orthanc

_ROWS, _COLUMNS = 2500, 2048
_KIND = {"Content-Type": f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}', "Accept": "application/dicom+json"}
_FAMILIES = ("Smith", "Jones", "Müller", "Garcia", "Wang", "Doe", "Silva", "Khan", "Ivanov", "Sato")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--studies", type=int, default=100_000, help="0: no searches")
    parser.add_argument("--url", help="an empty database for the searches; SQLite in a temporary folder if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.images:
            transfers(Path(folder), options.repeat, options.images)
        if options.studies:
            searches(Path(folder) / "search", options.studies, options.url)


def transfers(folder: Path, repeat: int, images: int) -> None:
    """STOW one image a request, then retrieve each study whole."""
    node = Node(folder / "node")
    node.run("db", "upgrade")
    (folder / "orthanc").mkdir()
    taken: dict[tuple[str, str], list[float]] = {}
    with node.role("web"), Orthanc(folder / "orthanc", dicom_web=True) as orthanc:
        urls = {
            "chexnode": f"http://{LOOPBACK}:{node.web_port}/dicom-web",
            "orthanc": f"http://{LOOPBACK}:{orthanc.http_port}/dicom-web",
        }
        template_uid = uid()
        template = make_image(_ROWS, _COLUMNS, template_uid)
        for _ in range(repeat):
            for name, url in urls.items():
                with httpx.Client(base_url=url, timeout=120) as client:
                    seconds, study = _stow(client, template, template_uid, images)
                    taken.setdefault((name, "STOW"), []).append(seconds)
                    taken.setdefault((name, "WADO"), []).append(_wado(client, study))
    size = images * len(template) / 1e6
    for what in ("STOW", "WADO"):
        ours, theirs = (statistics.median(taken[name, what]) for name in ("chexnode", "orthanc"))
        print(f"{what}: chexnode {size / ours:.0f} MB/s, orthanc {size / theirs:.0f} MB/s, ratio {theirs / ours:.2f}")


def _stow(client: httpx.Client, template: bytes, template_uid: str, images: int) -> tuple[float, str]:
    study_uid = _study_of(template)
    study = uid()
    bodies = [
        related(
            [
                (
                    DICOM,
                    template.replace(template_uid.encode(), uid().encode()).replace(study_uid.encode(), study.encode()),
                )
            ]
        )
        for _ in range(images)
    ]
    start = time.perf_counter()
    for body in bodies:
        answer = client.post("/studies", content=body, headers=_KIND)
        assert answer.status_code == 200, answer.text
    return time.perf_counter() - start, study


def _study_of(template: bytes) -> str:
    from io import BytesIO

    import pydicom

    return str(pydicom.dcmread(BytesIO(template), stop_before_pixels=True).StudyInstanceUID)


def _wado(client: httpx.Client, study: str) -> float:
    start = time.perf_counter()
    accept = {"Accept": f'multipart/related; type="{DICOM}"; transfer-syntax=*'}
    with client.stream("GET", f"/studies/{study}", headers=accept) as answer:
        assert answer.status_code == 200
        for _ in answer.iter_raw():
            pass
    return time.perf_counter() - start


def searches(folder: Path, count: int, url: str | None) -> None:
    """Fill a ledger with ``count`` studies of one series and two images, and search it."""
    folder.mkdir(exist_ok=True)
    settings = a_settings(folder, **({"database": {"url": url}} if url else {}))
    with opened(settings.database.url) as ledger:
        for rows in _rows(count):
            with ledger.database.write() as conn:
                for table, values in zip((studies, series, instances), rows, strict=True):
                    conn.execute(insert(table), values)
        with ledger.database.write() as conn:
            conn.exec_driver_sql("ANALYZE")
        print(f"{count} studies on {ledger.database.engine.dialect.name}")
        with serving(settings, ledger) as service:
            for name, query in _QUERIES.items():
                _time(service, name, query, count)


def _time(service: Service, name: str, query: _Query, count: int) -> None:
    draw = random.Random(1)
    taken = []
    for _ in range(100):
        path, parameters = query(draw.randrange(count))
        start = time.perf_counter()
        answer = service.client.get(path, params=parameters)
        taken.append((time.perf_counter() - start) * 1000)
        assert answer.status_code in (200, 204), answer.text
    print(f"  {name:24s} p50 {statistics.median(taken):6.1f}  p95 {sorted(taken)[94]:6.1f} ms", flush=True)


_Query = Callable[[int], tuple[str, dict[str, str]]]

_QUERIES: dict[str, _Query] = {
    "first page": lambda n: ("/studies", {"limit": "100"}),
    "a late page": lambda n: ("/studies", {"limit": "100", "offset": str(n)}),
    "PatientID": lambda n: ("/studies", {"PatientID": f"P{n // 2}"}),
    "PatientID with *": lambda n: ("/studies", {"PatientID": f"*{n}", "limit": "100"}),
    "AccessionNumber": lambda n: ("/studies", {"AccessionNumber": f"A{n}"}),
    "PatientName A*": lambda n: ("/studies", {"PatientName": f"{_FAMILIES[n % 10]}{n % 997}*", "limit": "100"}),
    "PatientName *A*": lambda n: ("/studies", {"PatientName": f"*{n % 997}^a*", "limit": "100"}),
    "a week": lambda n: (
        "/studies",
        {"StudyDate": f"202{n % 4}0{1 + n % 9}01-202{n % 4}0{1 + n % 9}07", "limit": "100"},
    ),
    "dates and modality": lambda n: (
        "/studies",
        {"StudyDate": f"202{n % 4}0{1 + n % 9}01-", "ModalitiesInStudy": "DX", "limit": "100"},
    ),
    "series of a study": lambda n: (f"/studies/1.2.{n}/series", {}),
    "instances of a study": lambda n: (f"/studies/1.2.{n}/instances", {}),
    "all series, modality": lambda n: ("/series", {"Modality": "DX", "limit": "100"}),
    "SOPInstanceUID": lambda n: ("/instances", {"SOPInstanceUID": f"1.2.{n}.1.1"}),
}


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
                    "study_date": (datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=n % 1500)).strftime("%Y%m%d"),
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
                    "modality": "CR" if n % 3 else "DX",
                    "series_number": 1,
                }
                for n in numbers
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
        )


if __name__ == "__main__":
    main()
