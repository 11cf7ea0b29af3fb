"""STOW-RS of metadata and bulk data in separate parts, as JSON and as XML (PS3.18 section 10.5.1.4)."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from chexnode.dicomweb.xml_model import from_xml, to_xml
from chexnode.settings.limits import LimitSettings
from support.dicomweb import BOUNDARY, DICOM, Service, part10_of, path_of, related, serving
from support.disks import SmallDisk
from support.radiographs import radiograph
from support.receivers import a_settings, spooled

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


def test_text_in_a_part_of_its_own_keeps_its_letters(service: Service) -> None:
    ds = image(PatientName="Doe^Jane", Manufacturer="X", SpecificCharacterSet=None)
    model = model_of(ds) | {"00084000": {"vr": "LT", "BulkDataURI": "text"}}
    bulk = {"text": ("application/octet-stream", "胸部 Thorax für".encode()), "pixels": (BYTES, ds.PixelData)}
    assert store(service, JSON, json.dumps([model]).encode(), bulk).status_code == 200
    assert back(service, ds)[0x00084000].value == "胸部 Thorax für"


def test_many_parts_take_one_file(service: Service) -> None:
    ds = image()
    bulk = {str(number): (BYTES, bytes([number]) * 600_000) for number in range(64)}
    metadata = json.dumps([model_of(ds, "63")]).encode()
    tmp = service.settings.node.data_dir / "spool" / "tmp"
    most = 0
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(store, service, JSON, metadata, bulk)
        while not answer.done():
            most = max(most, len([*tmp.iterdir()]))
    assert answer.result().status_code == 200, answer.result().text
    assert most <= 2, "of the parts, and of what is made of them"
    assert back(service, ds).PixelData == b"?" * 600_000


def test_parts_and_instances_are_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chexnode.receive.http_body.MOST_PARTS", 5)
    metadata = json.dumps([model_of(image(), "0")]).encode()
    for count, status in ((4, 200), (5, 400)):
        bulk = {str(number): (BYTES, bytes(64 * 48)) for number in range(count)}
        assert store(service, JSON, metadata, bulk).status_code == status
    assert store(service, JSON, b"[" + b",".join([b"{}"] * 6) + b"]", {}).status_code == 400


def test_one_part_named_by_many_elements_is_bounded(tmp_path: Path) -> None:
    limits = LimitSettings(max_object_mb=2)
    with serving(a_settings(tmp_path).model_copy(update={"limits": limits})) as service:
        for vr, count, status in (("OB", 2, 200), ("OB", 1000, 409), ("US", 1, 409)):
            ds = image()
            named = {f"0011{0x1000 + number:04X}": {"vr": vr, "BulkDataURI": "much"} for number in range(count)}
            model = model_of(ds) | {"00110010": {"vr": "LO", "Value": ["CHEX TEST"]}} | named
            bulk = {"much": (BYTES, bytes(500_000)), "pixels": (BYTES, ds.PixelData)}
            answer = store(service, JSON, json.dumps([model]).encode(), bulk)
            assert answer.status_code == status, answer.text


def test_a_disk_that_is_full_before_the_parts_are_on_it_is_507(tmp_path: Path) -> None:
    """Half a megabyte goes to the disk when it is first read, more of it as it comes."""
    with SmallDisk.real(tmp_path / "disk", 16) as disk:
        settings = a_settings(tmp_path, node={"port": 0, "data_dir": disk.folder})
        tmp = disk.folder / "spool" / "tmp"

        def post(service: Service, models: list[dict[str, Any]], size: int, *, filling: bool = True) -> httpx.Response:
            def body() -> Iterator[bytes]:
                yield f"--{BOUNDARY}\r\nContent-Type: {BYTES}\r\nContent-Location: large\r\n\r\n".encode()
                yield bytes(300_000)
                if filling:
                    disk.fill(leave=100_000)
                yield bytes(size - 300_000) + related([(JSON, json.dumps(models).encode())])

            kind = f'multipart/related; type="{JSON}"; boundary={BOUNDARY}'
            answer = service.client.post("/studies", content=body(), headers={"Content-Type": kind})
            disk.drain()
            assert [*tmp.iterdir()] == []
            return answer

        with serving(settings) as service:
            inline, first, last = image(), image(), image()
            models = [one.to_json_dict(bulk_data_threshold=10**9) for one in (inline, first, last)]
            for model in models[1:]:
                model["7FE00010"] = {"vr": "OW", "BulkDataURI": "large"}
            broken_off = post(service, models, 3_000_000)
            assert broken_off.status_code == 507, broken_off.text
            [other] = broken_off.json()["0008119A"]["Value"]
            assert other["00081197"]["Value"] == [0xA700]
            none = post(service, models[1:], 300_000)
            assert none.status_code == 507, none.text
            assert reasons(none) == {first.SOPInstanceUID: 0xA700, last.SOPInstanceUID: 0xA700}
            some = post(service, models, 300_000)
            assert some.status_code == 202, some.text
            assert [one["00081155"]["Value"] for one in some.json()["00081199"]["Value"]] == [[inline.SOPInstanceUID]]
            assert reasons(some) == reasons(none)
            assert len(spooled(settings)) == 1
            again = post(service, models, 300_000, filling=False)
            assert again.status_code == 200, again.text
            assert len(spooled(settings)) == 3


def reasons(answer: httpx.Response) -> dict[str, int]:
    """SOP Instance UID -> Failure Reason."""
    failed = answer.json()["00081198"]["Value"]
    return {one["00081155"]["Value"][0]: one["00081197"]["Value"][0] for one in failed}


def test_creators_of_many_groups_are_read_at_once() -> None:
    attribute = '<DicomAttribute tag="{:04X}0001" vr="LO" privateCreator="{}"/>'
    found = (attribute.format(group, creator) for group in range(0x11, 0x211, 2) for creator in range(200))
    began = time.process_time()
    model = from_xml(f"<NativeDicomModel>{''.join(found)}</NativeDicomModel>".encode())
    assert len(model) == 2 * 256 * 200
    assert time.process_time() - began < 20, "it was minutes"


def test_pixels_that_nobody_here_can_read_are_kept_where_they_are_described(service: Service) -> None:
    ds = image()
    syntax = "1.2.840.10008.1.2.4.92"  # JPEG 2000 Part 2
    metadata, bulk = json.dumps([model_of(ds)]).encode(), {"pixels": (f"image/jpx; transfer-syntax={syntax}", b"\0\1")}
    assert store(service, JSON, metadata, bulk).status_code == 200
    assert back(service, ds).file_meta.TransferSyntaxUID == syntax


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
