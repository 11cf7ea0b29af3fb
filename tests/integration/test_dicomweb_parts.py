"""STOW-RS of metadata and bulk data in separate parts, as JSON and as XML (PS3.18 section 10.5.1.4)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from chexnode.web.dicomweb.native import to_xml
from dicomweb import BOUNDARY, DICOM, Service, part10_of, path_of, serving
from radiographs import radiograph
from receivers import a_settings, spooled

JSON, XML, BYTES = "application/dicom+json", "application/dicom+xml", "application/octet-stream"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(a_settings(tmp_path_factory.mktemp("parts"))) as service:
        yield service


def image(**attributes: Any) -> Dataset:
    uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return radiograph(**({"shape": (64, 48)} | uids | attributes))


def store(
    service: Service, kind: str, metadata: bytes, bulk: Mapping[str, tuple[str, bytes]], study: str = ""
) -> httpx.Response:
    body = f"--{BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n".encode() + metadata
    for location, (bulk_kind, content) in bulk.items():
        body += f"\r\n--{BOUNDARY}\r\nContent-Type: {bulk_kind}\r\nContent-Location: {location}\r\n\r\n".encode()
        body += content
    body += f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f'multipart/related; type="{kind}"; boundary={BOUNDARY}'}
    return service.client.post(f"/studies/{study}" if study else "/studies", content=body, headers=headers)


def model_of(ds: Dataset, pixels: str = "pixels") -> dict[str, Any]:
    model = ds.to_json_dict(bulk_data_threshold=10**9)
    return model | {"7FE00010": {"vr": "OW", "BulkDataURI": pixels}}


def back(service: Service, ds: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(service.get(path_of(ds), f"{DICOM}; transfer-syntax=*").content))


@pytest.mark.parametrize("kind", [JSON, XML])
def test_an_instance_is_put_together(service: Service, kind: str) -> None:
    ds = image(PatientName="Yamada^Tarou=山田^太郎", SpecificCharacterSet="ISO_IR 192")
    ds.add_new(0x00090010, "LO", "CHEX TEST")
    ds.add_new(0x00091001, "OB", bytes(range(256)))
    ds.add_new(0x00091002, "FD", [1.5, 2.5])
    ds.add_new(0x00091003, "UT", "längerer Text")
    model = model_of(ds)
    for tag in ("00091001", "00091002", "00091003"):
        model[tag] = {"vr": model[tag]["vr"], "BulkDataURI": f"bulk/{tag}"}
    bulk = {
        "bulk/00091001": (BYTES, bytes(range(256))),
        "bulk/00091002": (BYTES, np.array([1.5, 2.5], "<f8").tobytes()),
        "bulk/00091003": (BYTES, "längerer Text".encode()),
        "pixels": (BYTES, ds.pixel_array.tobytes()),
    }
    metadata = to_xml(model) if kind == XML else json.dumps([model]).encode()
    answer = store(service, kind, metadata, bulk)
    assert answer.status_code == 200, answer.text
    stored = back(service, ds)
    assert stored.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(stored.pixel_array, ds.pixel_array)
    assert stored.PatientName == ds.PatientName
    for tag in (0x00091001, 0x00091002, 0x00091003):
        assert stored[tag].value == ds[tag].value
    for element in ds:
        if element.tag != 0x7FE00010 and element.tag.group != 9:
            assert (stored[element.tag].value or None) == (element.value or None)
    assert any(job.sop_instance_uid == ds.SOPInstanceUID for job in service.ledger.views.jobs())


@pytest.mark.parametrize(
    ("syntax", "media_type"),
    [(RLELossless, "image/dicom-rle"), (JPEG2000Lossless, "image/jp2"), (JPEGLSLossless, "image/jls")],
)
def test_compressed_pixels_are_kept_and_describe_themselves(service: Service, syntax: str, media_type: str) -> None:
    ds = image()
    pixels = ds.pixel_array.copy()
    model = model_of(ds)
    if syntax != RLELossless:  # whose codestream says nothing
        for keyword in ("00280002", "00280004", "00280010", "00280011", "00280100", "00280101", "00280102", "00280103"):
            model.pop(keyword, None)
    ds.compress(syntax, generate_instance_uid=False)
    (codestream,) = generate_frames(ds.PixelData, number_of_frames=1)
    answer = store(service, JSON, json.dumps([model]).encode(), {"pixels": (media_type, codestream)})
    assert answer.status_code == 200, answer.text
    stored = back(service, ds)
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(stored.pixel_array, pixels)


def test_frames_by_themselves(service: Service) -> None:
    frames = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    depth = {"NumberOfFrames": 3, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    ds = image(shape=(16, 16), PixelData=frames.tobytes(), **depth)
    model = model_of(ds)
    ds.compress(RLELossless, generate_instance_uid=False)
    parts = enumerate(generate_frames(ds.PixelData, number_of_frames=3), 1)
    bulk = {f"pixels/frames/{number}": ("image/dicom-rle", frame) for number, frame in parts}
    assert store(service, JSON, json.dumps([model]).encode(), bulk).status_code == 200
    assert np.array_equal(back(service, ds).pixel_array, frames)


def test_each_instance_has_its_own_outcome(service: Service) -> None:
    good, lost, inline = image(), image(), image()
    pixels = good.pixel_array.tobytes()
    models = [model_of(good), model_of(lost, "nowhere"), inline.to_json_dict(bulk_data_threshold=10**9)]
    answer = store(service, JSON, json.dumps([*models, {"00080018": "x"}]).encode(), {"pixels": (BYTES, pixels)})
    assert answer.status_code == 202
    found = answer.json()
    assert {one["00081155"]["Value"][0] for one in found["00081199"]["Value"]} == {
        good.SOPInstanceUID,
        inline.SOPInstanceUID,
    }
    (failed,) = found["00081198"]["Value"]
    assert failed["00081155"]["Value"] == [lost.SOPInstanceUID]
    assert failed["00081197"]["Value"] == [0xC000]
    assert len(found["0008119A"]["Value"]) == 1
    assert np.array_equal(back(service, inline).pixel_array, inline.pixel_array)


def test_a_study_named_in_the_path_holds(service: Service) -> None:
    ds = image()
    metadata, bulk = json.dumps([model_of(ds)]).encode(), {"pixels": (BYTES, ds.pixel_array.tobytes())}
    refused = store(service, JSON, metadata, bulk, study="1.2.3")
    assert refused.status_code == 409
    assert refused.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]
    assert store(service, JSON, metadata, bulk, study=ds.StudyInstanceUID).status_code == 200


BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<NativeDicomModel>&b;&b;</NativeDicomModel>"
)


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b"[1]"),
        (JSON, b"[" * 100_000),
        (XML, b""),
        (XML, b"<a/>"),
        (XML, BOMB),
        (XML, b"<NativeDicomModel><DicomAttribute tag='x' vr='LO'/></NativeDicomModel>"),
    ],
)
def test_metadata_that_cannot_be_read_is_400(service: Service, kind: str, metadata: bytes) -> None:
    before = len(spooled(service.settings))
    assert store(service, kind, metadata, {}).status_code == 400
    assert len(spooled(service.settings)) == before


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"00080016": {"vr": "UI", "Value": ["1.2"]}},
        {"7FE00010": {"vr": "OW", "BulkDataURI": ["x"]}},
        {"00080016": {"vr": "ZZ", "Value": [1]}},
        {"00080016": {"vr": "UI", "Value": [{"a": []}]}, "00080018": {"vr": "UI", "InlineBinary": 7}},
    ],
)
def test_a_model_that_is_no_instance_is_409(service: Service, model: dict[str, Any]) -> None:
    assert store(service, JSON, json.dumps([model]).encode(), {}).status_code == 409


def test_nothing_is_left_of_the_parts(service: Service) -> None:
    ds = image()
    store(
        service,
        JSON,
        json.dumps([model_of(ds)]).encode(),
        {"pixels": (BYTES, bytes(3_000_000)), "other": (BYTES, bytes(3_000_000))},
    )
    assert [*(service.settings.node.data_dir / "spool" / "tmp").iterdir()] == []


def test_the_answer_may_be_xml(service: Service) -> None:
    ds = image()
    headers = {"Content-Type": DICOM, "Accept": XML}
    answer = service.client.post("/studies", content=part10_of(ds), headers=headers)
    assert answer.headers["content-type"] == XML
    assert f'<Value number="1">{ds.SOPInstanceUID}</Value>' in answer.text


def test_a_body_of_another_type_is_415_and_says_what_is_taken(service: Service) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", 'multipart/related; type="image/png"; boundary=x'):
        answer = service.client.post("/studies", content=b"x", headers={"Content-Type": kind})
        assert answer.status_code == 415
        assert JSON in answer.headers["accept"]
