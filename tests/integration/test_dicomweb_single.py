"""What is one representation by itself: its entity tag, conditions on it, and ranges (RFC 9110)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

from chexnode.web.dicomweb import store
from support.dicomweb import DICOM, Service, part10_of, path_of, serving
from support.disks import unmounted
from support.radiographs import radiograph
from support.receivers import a_settings, rows

BYTES = "application/octet-stream"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(a_settings(tmp_path_factory.mktemp("single"))) as service:
        yield service


def image(**attributes: Any) -> Dataset:
    uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return radiograph(**({"shape": (64, 48)} | uids | attributes))


def compressed() -> Dataset:
    """Of 16 bits, with a look-up table."""
    pixels = np.random.default_rng(3).integers(0, 4096, (64, 48), np.uint16)
    ds = image(BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=pixels.tobytes())
    ds.RedPaletteColorLookupTableData = np.arange(256, dtype="<u2").tobytes()
    ds.compress(RLELossless, generate_instance_uid=False)
    return ds


def stored(service: Service, ds: Dataset) -> str:
    answer = service.store(part10_of(ds))
    assert answer.status_code == 200, answer.text
    return path_of(ds)


def files_of(service: Service, ds: Dataset) -> list[Path]:
    where = service.settings.node.data_dir
    return [where / row.path for row in rows(service.ledger) if row.sop_instance_uid == ds.SOPInstanceUID]


def singles(service: Service, ds: Dataset) -> dict[str, str]:
    """What is one representation by itself: path -> the type to ask for."""
    path = stored(service, ds)
    return {
        path: f"{DICOM}; transfer-syntax=*",
        f"{path}?": DICOM,
        f"{path}/frames/1": BYTES,
        f"{path}/frames/1?": "image/dicom-rle",
        f"{path}/bulkdata/7FE00010": BYTES,
        f"{path}/bulkdata/00281201": BYTES,
    }


def test_what_is_one_by_itself_has_an_entity_tag(service: Service) -> None:
    """RFC 9110 sections 8.8.3, 13.1.1 and 13.1.2."""
    ds = compressed()
    tags = set()
    for url, accept in singles(service, ds).items():
        got = service.get(url, accept)
        assert got.status_code == 200, got.text
        tag = got.headers["etag"]
        tags.add((url.rstrip("?"), tag))
        assert tag.startswith('"'), "a strong one"
        assert service.get(url, accept).headers["etag"] == tag
        assert service.client.head(url, headers={"Accept": accept}).headers["etag"] == tag

        def asked(url: str = url, accept: str = accept, **conditions: str) -> httpx.Response:
            headers = {name.replace("_", "-"): value for name, value in conditions.items()}
            return service.client.get(url, headers={"Accept": accept} | headers)

        for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            answer = asked(If_None_Match=known)
            assert (answer.status_code, answer.content) == (304, b""), known
            assert answer.headers["etag"] == tag
            assert "content-location" in answer.headers
        assert service.client.head(url, headers={"Accept": accept, "If-None-Match": tag}).status_code == 304
        for other in ('"x"', tag.strip('"'), ""):
            assert asked(If_None_Match=other).content == got.content
        for wanted, status in ((tag, 200), ("*", 200), (f'"x" , {tag}', 200), (f"W/{tag}", 412), ('"x"', 412)):
            assert asked(If_Match=wanted).status_code == status
        assert asked(If_None_Match=tag, If_Match='"x"').status_code == 412, "which comes first (section 13.2.2)"
        assert asked(If_None_Match=tag, Range="bytes=0-1").status_code == 304
    assert len(tags) == 6, "each form of a resource has a tag of its own"


def test_another_version_has_another_tag(service: Service) -> None:
    ds = image()
    accept = f"{DICOM}; transfer-syntax=*"
    first = service.get(stored(service, ds), accept)
    assert service.get(stored(service, ds), accept).headers["etag"] == first.headers["etag"], "a duplicate is none"
    ds.PatientComments = "another"
    second = service.get(stored(service, ds), accept)
    assert second.headers["etag"] != first.headers["etag"]
    resumed = {"Accept": accept, "Range": "bytes=200-", "If-Range": first.headers["etag"]}
    whole = service.client.get(path_of(ds), headers=resumed)
    assert (whole.status_code, whole.content) == (200, second.content)


def test_a_copy_from_another_sender_comes_whole(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group 0002 names the sender, and so is not as long in the copy as in the file whose place it takes."""
    ds = image()
    accept = f"{DICOM}; transfer-syntax=*"
    first = service.get(stored(service, ds), accept)
    [file] = files_of(service, ds)
    for sender in ("A", "A_LONGER_AETITLE"):
        monkeypatch.setattr(store, "CALLER", sender)
        file.unlink()
        answer = service.get(stored(service, ds), accept)
        assert answer.content == file.read_bytes()
        assert answer.headers["content-length"] == str(len(answer.content)) != first.headers["content-length"]
        assert answer.headers["etag"] != first.headers["etag"]
        assert service.get(f"{path_of(ds)}", "*/*").status_code == 200, "among parts"


def test_what_is_not_to_be_read_now_is_not_gone(service: Service) -> None:
    ds = image()
    path = stored(service, ds)
    [file] = files_of(service, ds)
    with unmounted(file):
        assert service.get(path).status_code == 503
    assert service.get(path).status_code == 200


def test_a_range_is_given_of_the_representation_it_is_asked_of(service: Service) -> None:
    """RFC 9110 section 13.1.5."""
    ds = compressed()
    for url, accept in singles(service, ds).items():
        got = service.get(url, accept)
        tag, head = got.headers["etag"], {"Accept": accept, "Range": "bytes=100-299"}
        if "accept-ranges" not in got.headers:
            assert url.endswith("?"), "made as it goes, or a codestream"
            assert service.client.get(url, headers=head | {"If-Range": tag}).content == got.content
            continue
        assert got.headers["content-length"] == str(len(got.content))
        for validator in ({}, {"If-Range": tag}):
            answer = service.client.get(url, headers=head | validator)
            assert (answer.status_code, answer.content) == (206, got.content[100:300])
            assert answer.headers["content-range"] == f"bytes 100-299/{len(got.content)}"
            assert answer.headers["etag"] == tag
        for other in (f"W/{tag}", '"x"', "Sat, 21 Nov 2026 19:00:00 GMT"):
            answer = service.client.get(url, headers=head | {"If-Range": other})
            assert (answer.status_code, answer.content) == (200, got.content), other
        told = service.client.head(url, headers=head)
        assert (told.status_code, told.headers["content-length"]) == (200, str(len(got.content)))


def test_pieces_of_native_frames(service: Service) -> None:
    """Frames of a megabyte and more, and those that begin inside bytes."""
    rng = np.random.default_rng(5)
    large = rng.integers(0, 4096, (2, 1100, 1000), np.uint16)
    bits = rng.integers(0, 256, (3 * 5 * 5 + 7) // 8 + 1, np.uint8).tobytes()
    depth = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    one = image(shape=large.shape[1:], NumberOfFrames=2, PixelData=large.tobytes(), **depth)
    depth = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    two = image(shape=(5, 5), NumberOfFrames=3, PixelData=bits, **depth)
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    second = np.packbits(flat[25:50], bitorder="little").tobytes()
    for ds, frame in ((one, large[1].tobytes()), (two, second)):
        url = f"{stored(service, ds)}/frames/2"
        assert service.get(url, BYTES).content == frame
        for start, end in ((0, 1), (1, 3), (len(frame) - 2, len(frame))):
            answer = service.client.get(url, headers={"Accept": BYTES, "Range": f"bytes={start}-{end - 1}"})
            assert (answer.status_code, answer.content) == (206, frame[start:end])
