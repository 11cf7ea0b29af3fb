"""DICOMweb beside Orthanc with its plugin: storing, retrieving, metadata, pictures, frames and searches.

    python tests/bench/dicomweb.py [--repeat 3] [--quick] [--only METADATA ...]

The servers take turns within each round, same bytes, same client; printed are medians in milliseconds and ChexNode's
ratio to Orthanc (above 1 is faster). Metadata is asked of a new study for the first time, and again. ChexNode answers a
store after fsync of file, folder and row; Orthanc runs as it comes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

sys.path.insert(0, str(Path(__file__).parents[1]))

from ingest import make_image, uid

from support.dicomweb import BOUNDARY, DICOM, related
from support.nodes import Node
from support.servers import LOOPBACK, Orthanc

_KIND = {"Content-Type": f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}', "Accept": "application/dicom+json"}
_JSON = {"Accept": "application/dicom+json", "Accept-Encoding": "gzip"}
_FILES = {"Accept": f'multipart/related; type="{DICOM}"; transfer-syntax=*'}
_FRAMES = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


_NUMBER = 8317
"""Where an image says which of its study it is."""


class Images:
    """Copies of one image under UIDs and numbers of their own, which have the same length."""

    def __init__(self, template: bytes) -> None:
        ds = pydicom.dcmread(BytesIO(template), stop_before_pixels=True)
        self._template = template
        self._uids = [
            str(ds[keyword].value).encode() for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        ]

    def study(self, count: int) -> tuple[str, str, list[tuple[str, bytes]]]:
        """(study, series, (SOP Instance UID, file) of each)."""
        study, series = uid(), uid()
        made = []
        for number in range(count):
            instance, copy = uid(), self._template.replace(b"%d" % _NUMBER, b"%d" % (_NUMBER + number))
            for old, new in zip(self._uids, (study, series, instance), strict=True):
                copy = copy.replace(old, new.encode())
            made.append((instance, copy))
        return study, series, made


def like_ct(rows: int, columns: int) -> bytes:
    """A small image with a header as a CT has it: some 100 elements and sequences, of which ten are its own."""
    ds = pydicom.dcmread(BytesIO(make_image(rows, columns, uid())))
    for number in range(60):
        ds.add_new(
            0x00291010 + number,
            ("LO", "DS", "US", "CS")[number % 4],
            (f"VALUE {number}", "1.25", number, "CODE")[number % 4],
        )
    ds.add_new(0x00290010, "LO", "BENCH")
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    ds.ReferencedImageSequence = [item] * 3
    source = pydicom.Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.{_NUMBER}"
    ds.SourceImageSequence = [source]
    ds.InstanceNumber, ds.AcquisitionNumber, ds.XRayTubeCurrent = _NUMBER, _NUMBER, _NUMBER
    ds.AcquisitionTime = ds.ContentTime = f"113000.{_NUMBER}"
    ds.SliceLocation, ds.ImagePositionPatient = f"-{_NUMBER}.5", ["-120.5", "-120.5", f"-{_NUMBER}.5"]
    ds.ImageComments = f"image {_NUMBER}"
    return _written(ds)


def lossless_cr() -> bytes:
    """A CR of 5 MP, drawn smooth, in JPEG Lossless SV1."""
    ds = pydicom.dcmread(BytesIO(make_image(2500, 2048, uid())))
    y, x = np.mgrid[0:2500, 0:2048] / 2500
    smooth = 2048 + 1500 * np.sin(5 * x) * np.cos(7 * y) + np.random.default_rng(1).normal(0, 8, x.shape)
    values = smooth.clip(0, 4095).astype("<u2")
    ds.PixelData = encapsulate([imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, bitspersample=12)])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    return _written(ds)


def _written(ds: pydicom.Dataset) -> bytes:
    out = BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


class Bench:
    """The same work for each server in turn."""

    def __init__(self, urls: dict[str, str], repeat: int, quick: bool) -> None:
        self.clients = {name: httpx.Client(base_url=url, timeout=300) for name, url in urls.items()}
        self.repeat, self.quick = repeat, quick
        self.taken: dict[tuple[str, str], list[float]] = {}

    def time(self, server: str, what: str, work: Callable[[], object]) -> None:
        """Run ``work`` and keep how long it took."""
        begin = time.perf_counter()
        work()
        self.taken.setdefault((what, server), []).append(time.perf_counter() - begin)

    def rounds(self) -> Iterator[tuple[str, httpx.Client]]:
        """Each server in each round, by turns first."""
        for number in range(self.repeat):
            turns = list(self.clients.items())
            yield from turns if number % 2 else reversed(turns)

    def store(self, client: httpx.Client, *files: bytes) -> None:
        """One request."""
        answer = client.post("/studies", content=related([(DICOM, file) for file in files]), headers=_KIND)
        assert answer.status_code == 200, answer.text[:300]

    def get(self, client: httpx.Client, path: str, headers: dict[str, str]) -> int:
        """All of an answer; its bytes as they come."""
        with client.stream("GET", path, headers=headers) as answer:
            size = sum(map(len, answer.iter_raw()))
            assert answer.status_code in (200, 206), (path, answer.status_code)
        return size

    def metadata(self) -> None:
        """Of a study of 200 small images, and the study itself."""
        images = Images(like_ct(140, 140))
        for server, client in self.rounds():
            study, _, made = images.study(50 if self.quick else 200)
            self.store(client, *(file for _, file in made))
            url = f"/studies/{study}/metadata"
            self.time(server, "metadata of a study of 200, first", lambda c=client, u=url: self.get(c, u, _JSON))
            for _ in range(2):
                self.time(server, "metadata of a study of 200, again", lambda c=client, u=url: self.get(c, u, _JSON))
            self.time(
                server, "WADO study of 200 x 40 kB", lambda c=client, s=study: self.get(c, f"/studies/{s}", _FILES)
            )
            self.time(
                server,
                "search: instances of a study",
                lambda c=client, s=study: self.get(c, f"/studies/{s}/instances", _JSON),
            )
            self.time(server, "search: studies", lambda c=client: self.get(c, "/studies?limit=25", _JSON))

    def stow(self) -> None:
        """10 MB an image, one a request: one client and four."""
        images = Images(make_image(2500, 2048, uid()))
        count = 4 if self.quick else 12
        for server, client in self.rounds():
            files = [file for _, file in images.study(count)[2]]
            self.time(server, "STOW 10 MB, 1 client", lambda c=client, f=files: [self.store(c, one) for one in f])
            several = [[file for _, file in images.study(count // 2)[2]] for _ in range(4)]
            with ThreadPoolExecutor(4) as pool:
                send = lambda files, c=client: [self.store(c, one) for one in files]  # noqa: E731
                self.time(server, "STOW 10 MB, 4 clients", lambda p=pool, s=several, f=send: [*p.map(f, s)])

    def rendered(self) -> None:
        """A JPEG of a DX and of a JPEG Lossless CR, 5 MP each, and their frames."""
        for what, template in (("DX of 5 MP", make_image(2500, 2048, uid())), ("JPEG Lossless CR", lossless_cr())):
            study, series, [(instance, file)] = Images(template).study(1)
            url = f"/studies/{study}/series/{series}/instances/{instance}"
            for client in self.clients.values():
                self.store(client, file)
                self.get(client, f"{url}/rendered", {"Accept": "image/jpeg"})  # children start
            for server, client in self.rounds():
                for _ in range(1 if self.quick else 3):
                    picture = {"Accept": "image/jpeg"}
                    self.time(
                        server,
                        f"rendered JPEG, {what}",
                        lambda c=client, u=url, p=picture: self.get(c, f"{u}/rendered", p),
                    )
                    self.time(server, f"frame, {what}", lambda c=client, u=url: self.get(c, f"{u}/frames/1", _FRAMES))

    def report(self) -> None:
        """Medians and ratios."""
        for what in dict.fromkeys(what for what, _ in self.taken):
            ours, theirs = (statistics.median(self.taken[what, server]) * 1000 for server in ("chexnode", "orthanc"))
            print(f"{what}: chexnode {ours:.0f} ms, orthanc {theirs:.0f} ms, ratio {theirs / ours:.2f}", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller")
    parser.add_argument(
        "--only", nargs="+", choices=("metadata", "stow", "rendered"), default=("metadata", "stow", "rendered")
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder, "node"))
        node.run("db", "upgrade")
        Path(folder, "orthanc").mkdir()
        with node.role("web"), Orthanc(Path(folder, "orthanc"), dicom_web=True) as orthanc:
            urls = {
                "chexnode": f"http://{LOOPBACK}:{node.web_port}/dicom-web",
                "orthanc": f"http://{LOOPBACK}:{orthanc.http_port}/dicom-web",
            }
            bench = Bench(urls, options.repeat, options.quick)
            for name in options.only:
                getattr(bench, name)()
            bench.report()


if __name__ == "__main__":
    main()
