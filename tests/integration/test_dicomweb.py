"""STOW-RS in, WADO-RS out: what is stored comes back as it was, in every form that is offered."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)
from sqlalchemy import update

from chexnode.ledger.schema import instances
from chexnode.spool.spool import Spool
from support.dicomweb import DICOM, EXPLICIT, Service, part10_of, parts_of, path_of, read_all, serving
from support.radiographs import radiograph
from support.receivers import a_settings, dcmtk, spooled
from support.senders import take_apart

BYTES = "application/octet-stream"
AS_STORED = f"{DICOM}; transfer-syntax=*"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(a_settings(tmp_path)) as service:
        yield service


def image(**attributes: Any) -> Dataset:
    """A radiograph with UIDs of its own."""
    uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return radiograph(**(uids | attributes))


def stored(service: Service, *datasets: Dataset) -> None:
    answer = service.store(*map(part10_of, datasets))
    assert answer.status_code == 200, answer.text


def modelled(ds: Dataset) -> dict[str, Any]:
    """pydicom's JSON model without what a server leaves out: group lengths, and what follows the pixels."""
    model = ds.to_json_dict(bulk_data_threshold=4096, bulk_data_element_handler=lambda one: "bulk")
    model = {tag: one for tag, one in model.items() if not tag.endswith("0000") and tag != "FFFCFFFC"}
    return with_nulls(model)


def with_nulls(model: dict[str, Any]) -> dict[str, Any]:
    """As PS3.18 F.2.5 has it, where pydicom says "" for an empty value among others, and [] for a sequence of none."""
    found: dict[str, Any] = {}
    for tag, one in model.items():
        values = [with_nulls(v) if one["vr"] == "SQ" else None if v == "" else v for v in one.get("Value", ())]
        found[tag] = {
            key: values if key == "Value" else value for key, value in one.items() if key != "Value" or values
        }
    return found


def without_bulk(model: Any) -> Any:
    """The model with every BulkDataURI alike; pixels are always one here, in pydicom's model only if they are many."""
    if isinstance(model, dict):
        if "7FE00010" in model:
            model = model | {"7FE00010": {"BulkDataURI": ""}}
        if "BulkDataURI" in model:
            return {"BulkDataURI": "..."}
        return {key: without_bulk(value) for key, value in model.items()}
    return [without_bulk(one) for one in model] if isinstance(model, list) else model


def test_what_is_stored_is_there_at_once_and_analysed(service: Service) -> None:
    ds = image()
    answer = service.store(part10_of(ds))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    (reference,) = answer.json()["00081199"]["Value"]
    assert reference["00081155"]["Value"] == [ds.SOPInstanceUID]
    assert reference["00081190"]["Value"] == [service.url + path_of(ds)]
    assert "00081198" not in answer.json()
    assert service.bell.rings == ["infer"]
    (job,) = service.ledger.views.jobs()
    assert job.sop_instance_uid == ds.SOPInstanceUID
    assert service.get(path_of(ds)).status_code == 200


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_round_trip(service: Service, syntax: str | None) -> None:
    ds = image(shape=(64, 48))
    pixels = ds.pixel_array.copy()
    if syntax is not None:
        ds.compress(syntax, generate_instance_uid=False)
    content = part10_of(ds)
    assert service.store(content).status_code == 200
    check_round_trip(service, pydicom.dcmread(io.BytesIO(content)), take_apart(content).data)
    converted = service.get(path_of(ds), f"{DICOM}; transfer-syntax={EXPLICIT}")
    assert converted.headers["content-type"] == f"{DICOM};transfer-syntax={EXPLICIT}"
    back = pydicom.dcmread(io.BytesIO(converted.content))
    assert back.file_meta.TransferSyntaxUID == EXPLICIT
    assert np.array_equal(back.pixel_array, pixels)


@pytest.mark.shared
def test_round_trip_of_every_real_file(service: Service, shared: Path) -> None:
    tried = 0
    seen: set[str] = set()
    for path in read_all(shared / "data" / "dicom"):
        content = path.read_bytes()
        part = take_apart(content)
        if "malformed" in path.parts or content[128:132] != b"DICM" or part.sop_instance_uid in seen:
            continue
        answer = service.store(content)
        ds = pydicom.dcmread(path)
        if ds.get("SOPInstanceUID") != ds.file_meta.MediaStorageSOPInstanceUID:
            assert answer.status_code == (202 if "SOPInstanceUID" in ds else 409), path
            continue
        assert answer.status_code == 200, (path, answer.text)
        seen.add(part.sop_instance_uid)
        check_round_trip(service, ds, part.data)
        tried += 1
    assert tried > 40


def check_round_trip(service: Service, ds: Dataset, data: bytes) -> None:
    path, syntax = path_of(ds), str(ds.file_meta.TransferSyntaxUID)
    single = service.get(path, AS_STORED)
    assert take_apart(single.content).data == data
    assert single.headers["content-type"] == f"{DICOM};transfer-syntax={syntax}"
    ((headers, multi),) = parts_of(service.get(path, f'multipart/related; type="{DICOM}"; transfer-syntax=*'))
    assert multi == single.content
    assert headers["content-location"] == service.url + path
    (model,) = service.get(f"{path}/metadata").json()
    assert without_bulk(model) == without_bulk(modelled(ds))
    for uri in bulk_uris(model):
        assert service.client.get(uri).status_code == 200
    if "PixelData" not in ds:
        assert service.get(f"{path}/frames/1").status_code == 406
        return
    decoded = service.get(f"{path}/frames/1", BYTES)
    assert decoded.status_code == 200, decoded.text
    expected = (by_dcmtk(ds) if syntax in (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1) else ds).pixel_array
    first = expected[0] if int(ds.get("NumberOfFrames") or 1) > 1 else expected
    if ds.BitsAllocated == 1:
        assert (
            np.unpackbits(np.frombuffer(decoded.content, np.uint8), bitorder="little")[: first.size].sum()
            == first.sum()
        )
    elif syntax == JPEGExtended12Bit:  # loss leads above Bits Stored, where DCMTK begins at 0 again
        served = np.frombuffer(decoded.content, first.dtype).reshape(first.shape)
        assert np.array_equal(served & (2**ds.BitsStored - 1), first)
        assert np.mean(served != first) < 1e-4
    else:
        little = first.astype(first.dtype.newbyteorder("<"))
        assert decoded.content == (little.transpose(2, 0, 1) if is_planar(ds) else little).tobytes()
    picture = service.get(f"{path}/rendered", "image/png")
    assert Image.open(io.BytesIO(picture.content)).size == (ds.Columns, ds.Rows)


def by_dcmtk(ds: Dataset) -> Dataset:
    """Decoded by DCMTK: pydicom has no decoder of its own for these, and ours is what is tested."""
    with TemporaryDirectory() as folder:
        ds.save_as(f"{folder}/in.dcm")
        dcmtk("dcmdjpeg", f"{folder}/in.dcm", f"{folder}/out.dcm")
        return pydicom.dcmread(io.BytesIO(Path(folder, "out.dcm").read_bytes()))


def is_planar(ds: Dataset) -> bool:
    native = not ds.file_meta.TransferSyntaxUID.is_encapsulated
    return native and ds.get("SamplesPerPixel") == 3 and ds.get("PlanarConfiguration") == 1


def bulk_uris(model: Any) -> list[str]:
    if isinstance(model, dict):
        own = [model["BulkDataURI"]] if "BulkDataURI" in model else []
        return own + [uri for value in model.values() for uri in bulk_uris(value)]
    return [uri for one in model for uri in bulk_uris(one)] if isinstance(model, list) else []


def test_bulk_data_is_the_value(service: Service) -> None:
    ds = image(shape=(40, 30))
    ds.add_new(0x00091001, "OB", bytes(range(256)) * 32)
    ds.add_new(0x00090010, "LO", "CHEX TEST")
    stored(service, ds)
    (model,) = service.get(f"{path_of(ds)}/metadata").json()
    assert (
        service.client.get(model["00091001"]["BulkDataURI"], headers={"Accept": BYTES}).content
        == bytes(range(256)) * 32
    )
    pixels = service.client.get(model["7FE00010"]["BulkDataURI"], headers={"Accept": BYTES}).content
    assert pixels == ds.PixelData[: 40 * 30]
    assert service.get(f"{path_of(ds)}/bulkdata/00091002").status_code == 404
    for path in ("rubbish", "00280010/0", "00100010", "00081140", "-1", "F" * 40):
        assert service.get(f"{path_of(ds)}/bulkdata/{path}").status_code == 404, path


def test_frames_of_a_multi_frame_image(service: Service) -> None:
    frames = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    ds = image(
        shape=(16, 16), NumberOfFrames=3, BitsAllocated=16, BitsStored=16, HighBit=15, PixelData=frames.tobytes()
    )
    native, compressed = ds, copy.deepcopy(ds)
    compressed.SOPInstanceUID = generate_uid()
    compressed.compress(RLELossless, generate_instance_uid=False)
    stored(service, native, compressed)
    for one in (native, compressed):
        parts = parts_of(service.get(f"{path_of(one)}/frames/3,1", f'multipart/related; type="{BYTES}"'))
        assert [content for _, content in parts] == [frames[2].tobytes(), frames[0].tobytes()]
        assert service.get(f"{path_of(one)}/frames/4").status_code == 404
        for wrong in ("0", "a", "1,,2", "-1"):
            assert service.get(f"{path_of(one)}/frames/{wrong}").status_code == 400
    ((_, decoded),) = parts_of(service.get(f"{path_of(compressed)}/frames/1"))
    assert decoded == frames[0].tobytes()
    ((headers, first),) = parts_of(service.get(f"{path_of(compressed)}/frames/1", "*/*; transfer-syntax=*"))
    assert headers["content-type"] == f"image/dicom-rle;transfer-syntax={RLELossless}"
    assert len(first) < 512
    assert service.get(f"{path_of(native)}/frames/1", "image/jpeg").status_code == 406


def test_rendered_with_window_and_viewport(service: Service) -> None:
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    ds = image(
        shape=(64, 64), BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=pixels.tobytes(), WindowCenter=None
    )
    stored(service, ds)

    def rendered(**query: str) -> np.ndarray[Any, Any]:
        answer = service.get(f"{path_of(ds)}/rendered", "image/png", **query)
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(answer.content)))

    narrow = rendered(window="1000,2,linear")
    assert narrow[pixels < 999].max() == 0
    assert narrow[pixels > 1001].min() == 255
    assert rendered(window="2048,4096,sigmoid")[32, 0] == pytest.approx(128, abs=1)
    assert rendered(viewport="32,32").shape == (32, 32)
    cut = rendered(viewport="16,16,0,0,16,16", window="2048,4096,linear-exact")
    assert np.array_equal(cut, rendered(window="2048,4096,linear-exact")[:16, :16])
    jpeg = service.get(f"{path_of(ds)}/rendered", quality="10")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(service.get(f"{path_of(ds)}/thumbnail").content)).size) == 128
    for query in (
        {"window": "1"},
        {"window": "1,0,linear"},
        {"viewport": "0,0"},
        {"quality": "0"},
        {"window": "nan,inf"},
    ):
        assert service.get(f"{path_of(ds)}/rendered", **query).status_code == 400
    assert service.get(f"{path_of(ds)}/rendered", "image/tiff").status_code == 406


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        ("*/*", 200, "multipart/related"),
        ('multipart/related; type="application/dicom"', 200, "multipart/related"),
        ("multipart/related; type=application/dicom; transfer-syntax=*", 200, "multipart/related"),
        ("application/dicom;q=0.5, multipart/related;type=application/dicom;q=0.4", 200, DICOM),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50", 406, ""),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50, application/dicom;q=0.1", 200, DICOM),
        ("application/dicom+json", 406, ""),
        ("image/png", 406, ""),
        ("application/dicom;q=0", 406, ""),
        ("rubbish", 406, ""),
    ],
)
def test_what_is_accepted_decides(service: Service, accept: str, status: int, kind: str) -> None:
    ds = image()
    stored(service, ds)
    answer = service.get(path_of(ds), accept)
    assert answer.status_code == status
    if kind:
        assert answer.headers["content-type"].startswith(kind)


def test_a_study_comes_as_parts_of_one_answer(service: Service) -> None:
    study = generate_uid()
    datasets = [image(StudyInstanceUID=study, InstanceNumber=number) for number in (1, 2, 3)]
    stored(service, *datasets)
    answer = service.get(f"/studies/{study}")
    assert int(answer.headers["content-length"]) == len(answer.content)
    uids = {pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID for _, content in parts_of(answer)}
    assert uids == {ds.SOPInstanceUID for ds in datasets}
    assert len(service.get(f"/studies/{study}/metadata").json()) == 3
    series = f"/studies/{study}/series/{datasets[0].SeriesInstanceUID}"
    assert len(parts_of(service.get(series))) == 1
    assert len(parts_of(service.get(f"/studies/{study}/rendered", 'multipart/related; type="image/png"'))) == 3
    assert service.get(f"/studies/{study}/thumbnail").status_code == 200
    assert service.get(f"/studies/{study}", DICOM).status_code == 406


def test_the_latest_version_is_served(service: Service) -> None:
    ds = image(StudyDescription="first")
    stored(service, ds)
    ds.StudyDescription = "second"
    stored(service, ds)
    assert pydicom.dcmread(io.BytesIO(service.get(path_of(ds), AS_STORED).content)).StudyDescription == "second"
    assert len(service.get("/instances").json()) == 1


def test_what_retention_deleted_is_gone_and_says_so(service: Service) -> None:
    study = generate_uid()
    first, second = image(StudyInstanceUID=study), image(StudyInstanceUID=study)
    stored(service, first, second)
    where = instances.c.sop_instance_uid == first.SOPInstanceUID
    with service.ledger.database.write() as conn:
        conn.execute(update(instances).where(where).values(path=None))
    answer = service.get(path_of(first))
    assert answer.status_code == 410
    assert "retention" in answer.json()["detail"]
    partial = service.get(f"/studies/{study}")
    assert partial.status_code == 206
    assert len(parts_of(partial)) == 1
    (found,) = service.get("/instances", SOPInstanceUID=first.SOPInstanceUID).json()
    assert found["00080056"]["Value"] == ["UNAVAILABLE"]
    assert service.get("/studies/1.2.3.4.5").status_code == 404


def test_duplicates_and_other_studies(service: Service) -> None:
    ds = image()
    stored(service, ds)
    stored(service, ds)
    assert service.ledger.accounts.account().duplicates == 1
    answer = service.store(part10_of(image()), study="1.2.3")
    assert answer.status_code == 409
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]
    assert (
        service.store(part10_of(ds), study=ds.StudyInstanceUID)
        .json()["00081190"]["Value"][0]
        .endswith(ds.StudyInstanceUID)
    )


def test_each_instance_has_its_own_outcome(service: Service) -> None:
    good, other = image(), image()
    true = str(other.SOPInstanceUID)
    content = part10_of(other).replace(true.encode(), f"{true[:-1]}{9 - int(true[-1])}".encode(), 1)
    answer = service.store(part10_of(good), content, b"no DICOM file at all")
    assert answer.status_code == 202
    model = answer.json()
    warned = [(one["00081155"]["Value"], one.get("00081196")) for one in model["00081199"]["Value"]]
    assert warned == [([good.SOPInstanceUID], None), ([true], {"vr": "US", "Value": [0xB007]})]
    assert [one["00081197"]["Value"] for one in model["0008119A"]["Value"]] == [[0xC000]]
    assert len(spooled(service.settings)) == 2


def test_a_single_file_may_be_the_body(service: Service) -> None:
    ds = image()
    answer = service.client.post("/studies", content=part10_of(ds), headers={"Content-Type": DICOM})
    assert answer.status_code == 200
    assert service.get(path_of(ds)).status_code == 200


def test_a_full_disk_is_507(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spool, "has_room", lambda self, disk: False)
    assert service.store(part10_of(image())).status_code == 507
    assert spooled(service.settings) == []


def test_an_independent_client_does_every_call(service: Service) -> None:
    ds = pydicom.dcmread(io.BytesIO(part10_of(image(shape=(32, 32)))))
    study, series, instance = ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID
    client = DICOMwebClient(service.url)
    assert client.store_instances([ds]).ReferencedSOPSequence[0].ReferencedSOPInstanceUID == instance
    assert client.search_for_studies(search_filters={"PatientID": "PID-1"})[0]["0020000D"]["Value"] == [study]
    assert client.search_for_series(study)[0]["0020000E"]["Value"] == [series]
    assert client.search_for_instances(study, series)[0]["00080018"]["Value"] == [instance]
    assert client.search_for_series(limit=1, offset=1) == []
    assert client.retrieve_study(study)[0].SOPInstanceUID == instance
    assert client.retrieve_series(study, series)[0].SOPInstanceUID == instance
    retrieved = client.retrieve_instance(study, series, instance)
    assert retrieved.PixelData == ds.PixelData
    assert retrieved.PatientName == "Müller^Jörg"
    for metadata in (client.retrieve_study_metadata(study), client.retrieve_series_metadata(study, series)):
        assert Dataset.from_json(json.dumps(metadata[0]), lambda *_: b"").PatientName == "Müller^Jörg"
    metadata = client.retrieve_instance_metadata(study, series, instance)
    assert b"".join(client.retrieve_bulkdata(metadata["7FE00010"]["BulkDataURI"])) == ds.PixelData
    assert client.retrieve_instance_frames(study, series, instance, [1]) == [ds.PixelData]
    for media_type in ("image/png", "image/jpeg"):
        one = client.retrieve_instance_rendered(study, series, instance, media_types=(media_type,))
        assert Image.open(io.BytesIO(one)).size == (32, 32)
        one = client.retrieve_instance_frames_rendered(study, series, instance, [1], media_types=(media_type,))
        assert Image.open(io.BytesIO(one)).size == (32, 32)
