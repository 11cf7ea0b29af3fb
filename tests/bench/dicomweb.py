"""DICOMweb: storing and retrieving beside Orthanc with its plugin. Searches are timed by qido.py.

    python tests/bench/dicomweb.py [--repeat 3] [--images 20]

Images are 10 MB of noise. The servers take turns within each round; printed are medians in MB/s and ChexNode's ratio
to Orthanc. ChexNode answers a store after fsync of file, folder and row; Orthanc runs as it comes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from ingest import make_image, uid

from support.dicomweb import BOUNDARY, DICOM, related
from support.nodes import Node
from support.servers import LOOPBACK, Orthanc

_ROWS, _COLUMNS = 2500, 2048
_KIND = {"Content-Type": f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}', "Accept": "application/dicom+json"}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        transfers(Path(folder), options.repeat, options.images)


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


if __name__ == "__main__":
    main()
