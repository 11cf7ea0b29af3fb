"""In which forms things can be had: media types, transfer syntaxes, XML, ranges, HEAD, capabilities (PS3.18, 8)."""

from __future__ import annotations

import base64
import copy
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from chexnode.dicomweb.xml_model import NAMESPACE, from_xml
from support.dicomweb import DICOM, Service, part10_of, parts_of, path_of, serving
from support.radiographs import radiograph
from support.receivers import a_settings
from support.servers import find_tool

BYTES, JSON, XML = "application/octet-stream", "application/dicom+json", "application/dicom+xml"
EXPLICIT = str(ExplicitVRLittleEndian)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(a_settings(tmp_path_factory.mktemp("forms"))) as service:
        yield service


def image(**attributes: Any) -> Dataset:
    uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return radiograph(**({"shape": (64, 48)} | uids | attributes))


def stored(service: Service, *datasets: Dataset) -> str:
    answer = service.store(*map(part10_of, datasets))
    assert answer.status_code == 200, answer.text
    return path_of(datasets[0])


def deep() -> Dataset:
    """16 bits, and words and numbers of every size, at the top and in a sequence."""
    pixels = np.random.default_rng(3).integers(0, 4096, (64, 48), np.uint16)
    ds = image(BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=pixels.tobytes())
    item = Dataset()
    item.add_new(0x00090010, "LO", "CHEX TEST")
    item.add_new(0x00091001, "OW", np.arange(4000, dtype="<u2").tobytes())
    item.add_new(0x00091002, "FD", [1.5] * 1000)
    item.add_new(0x00091003, "UT", "ü" * 5000)
    ds.ReferencedImageSequence = Sequence([Dataset(), item])
    ds.RedPaletteColorLookupTableData = np.arange(256, dtype="<u2").tobytes()
    ds.SpecificCharacterSet = "ISO_IR 192"
    return ds


def in_syntax(ds: Dataset, syntax: str) -> bytes:
    """``ds`` as a file in another native transfer syntax."""
    if syntax == ExplicitVRBigEndian:
        ds = copy.deepcopy(ds)
        for one in ds.iterall():
            if one.VR in ("OW", "OB or OW"):
                one.value = np.frombuffer(one.value, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    ds.save_as(buffer, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("asked", ["", f"; transfer-syntax={EXPLICIT}", f'; transfer-syntax="{EXPLICIT}"'])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_native_syntaxes_come_in_explicit_little_endian(service: Service, syntax: str, asked: str) -> None:
    ds = deep()
    original = copy.deepcopy(ds)
    answer = service.store(in_syntax(ds, syntax))
    assert answer.status_code == 200, answer.text
    got = service.get(path_of(ds), DICOM + asked)
    assert got.headers["content-type"] == f"{DICOM};transfer-syntax={EXPLICIT}"
    back = pydicom.dcmread(io.BytesIO(got.content))
    assert back.file_meta.TransferSyntaxUID == EXPLICIT
    assert np.array_equal(back.pixel_array, original.pixel_array)
    for element in original:
        if element.VR == "SQ" and syntax == ImplicitVRLittleEndian:
            continue  # what is private in it has lost its VR
        if element.tag != 0x7FE00010:
            assert (back[element.tag].value or None) == (element.value or None), element.keyword
    kept = service.get(path_of(ds), f"{DICOM}; transfer-syntax=*")
    assert pydicom.dcmread(io.BytesIO(kept.content)).file_meta.TransferSyntaxUID == syntax
    assert service.get(f"{path_of(ds)}/frames/1", BYTES).content == original.PixelData


def test_eight_bits_in_big_endian_words(service: Service) -> None:
    ds = image(shape=(15, 9))
    pixels = ds.pixel_array.copy()
    data = pixels.tobytes() + b"\0"
    ds.PixelData = np.frombuffer(data, "<u2").astype(">u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    ds.save_as(buffer, implicit_vr=False, little_endian=False, enforce_file_format=True)
    assert service.store(buffer.getvalue()).status_code == 200
    assert service.get(f"{path_of(ds)}/frames/1", BYTES).content == pixels.tobytes()
    back = pydicom.dcmread(io.BytesIO(service.get(path_of(ds), DICOM).content))
    assert np.array_equal(back.pixel_array, pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_lossless_compression_is_undone_unless_it_is_asked_for(service: Service, syntax: str) -> None:
    ds = image()
    pixels = ds.pixel_array.copy()
    ds.compress(syntax, generate_instance_uid=False, encapsulate_ext=True)
    path = stored(service, ds)
    usual = pydicom.dcmread(io.BytesIO(service.get(path, DICOM).content))
    assert usual.file_meta.TransferSyntaxUID == EXPLICIT
    assert np.array_equal(usual.pixel_array, pixels)
    assert "ExtendedOffsetTable" not in usual, "it is of encapsulated frames only"
    for wanted in ("*", syntax):
        kept = pydicom.dcmread(io.BytesIO(service.get(path, f"{DICOM}; transfer-syntax={wanted}").content))
        assert kept.PixelData == ds.PixelData
    assert service.get(path, f"{DICOM}; transfer-syntax={JPEGLSNearLossless}").status_code == 406


def test_lossy_compression_is_kept_unless_decoding_is_asked_for(service: Service) -> None:
    ds = image()
    ds.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
    path = stored(service, ds)
    assert service.get(path, DICOM).headers["content-type"].endswith(JPEGLSNearLossless)
    assert service.get(path, f"{DICOM}; transfer-syntax={EXPLICIT}").headers["content-type"].endswith(EXPLICIT)
    assert service.get(f"{path}/frames/1", "*/*; q=0.1").status_code == 200
    ((headers, _),) = parts_of(service.get(f"{path}/frames/1"))
    assert headers["content-type"] == f"image/jls;transfer-syntax={JPEGLSNearLossless}"
    ((headers, _),) = parts_of(service.get(f"{path}/frames/1", 'multipart/related; type="image/x-jls"'))
    assert headers["content-type"].startswith("image/x-jls;")


def test_a_study_of_several_syntaxes(service: Service) -> None:
    study = generate_uid()
    one, two, three = (image(StudyInstanceUID=study) for _ in range(3))
    two.compress(RLELossless, generate_instance_uid=False)
    three.PixelData = encapsulate([b"no codestream at all"])
    three.file_meta.TransferSyntaxUID = JPEG2000Lossless
    stored(service, one, two, three)
    usual = service.get(f"/studies/{study}", f'multipart/related; type="{DICOM}"')
    syntaxes = {pydicom.dcmread(io.BytesIO(part)).file_meta.TransferSyntaxUID for _, part in parts_of(usual)}
    assert syntaxes == {EXPLICIT, JPEG2000Lossless}, "what cannot be decoded comes as it is stored"
    only = service.get(f"/studies/{study}", f'multipart/related; type="{DICOM}"; transfer-syntax={RLELossless}')
    assert only.status_code == 206
    assert len(parts_of(only)) == 1


@pytest.mark.parametrize(
    ("path", "accept", "query", "status", "kind"),
    [
        ("/metadata", "*/*", "", 200, JSON),
        ("/metadata", "application/*", "", 200, JSON),
        ("/metadata", "application/json", "", 200, "application/json"),
        ("/metadata", f"{JSON};q=0.1, application/json;q=0.2", "", 200, "application/json"),
        ("/metadata", f'multipart/related; type="{XML}"', "", 200, "multipart/related"),
        ("/metadata", f'multipart/related; type="{XML}";q=0.5, {JSON};q=0.4', "", 200, "multipart/related"),
        ("/metadata", XML, "", 200, "multipart/related"),
        ("/metadata", "text/html", "", 406, ""),
        ("/metadata", f"{JSON};q=0", "", 406, ""),
        ("/metadata", "text/html", f"accept={JSON}", 200, JSON),
        ("/metadata", "text/html", "accept=application/dicom%2Bjson", 200, JSON),
        ("/metadata", JSON, "accept=application/json", 200, "application/json"),
        ("/metadata", JSON, "charset=utf-8", 200, JSON),
        ("", "multipart/*", "", 406, ""),
        ("", f"{DICOM}, */*;q=0.1", "", 200, DICOM),
        ("/frames/1", f'multipart/related; type="{BYTES}"; transfer-syntax={EXPLICIT}', "", 200, "multipart/related"),
        ("/frames/1", f"{BYTES}; transfer-syntax=1.2.840.10008.1.2.4.50", "", 406, ""),
        ("/rendered", "image/*", "", 200, "image/jpeg"),
        ("/rendered", "image/png;q=0.9, image/jpeg;q=0.1", "", 200, "image/png"),
        ("/rendered", "image/jpeg", "accept=image/gif", 200, "image/gif"),
        ("/rendered", "video/mpeg", "", 406, ""),
    ],
)
def test_negotiation(service: Service, path: str, accept: str, query: str, status: int, kind: str) -> None:
    url = f"{stored(service, image())}{path}?{query}"
    answer = service.client.get(url, headers={"Accept": accept})
    assert answer.status_code == status, answer.text
    if status == 406:
        assert answer.json()["detail"]
    else:
        assert answer.headers["content-type"].startswith(kind)


def test_metadata_as_xml_says_what_an_independent_tool_says(service: Service, tmp_path: Path) -> None:
    ds = deep()
    ds.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    ds.StudyDescription = '<&> "quoted"'
    stored(service, ds)
    ((headers, document),) = parts_of(service.get(f"{path_of(ds)}/metadata", f'multipart/related; type="{XML}"'))
    assert headers["content-type"] == XML
    (tmp_path / "image.dcm").write_bytes(part10_of(ds))
    dcm2xml = [find_tool("dcm2xml", "dcmtk"), "--native-format", "--use-xml-namespace", str(tmp_path / "image.dcm")]
    theirs = subprocess.run(dcm2xml, capture_output=True, check=True).stdout
    assert said(document) == said(theirs)
    (model,) = service.get(f"{path_of(ds)}/metadata").json()
    again = from_xml(document)
    assert again.keys() == model.keys()
    assert again["00100010"] == model["00100010"]
    assert again["7FE00010"] == model["7FE00010"]
    assert again["00081140"]["Value"][1] == model["00081140"]["Value"][1]


def said(document: bytes) -> list[tuple[str, ...]]:
    """Every element with its attributes and text, but for values that are bulk data in one and not in the other."""
    found = []
    for one in ElementTree.fromstring(document).iter():
        name = one.tag.removeprefix(f"{{{NAMESPACE}}}")
        if name in ("BulkData", "InlineBinary") or (name == "Value" and len(one.text or "") > 60):
            continue
        attributes = (f"{key}={value}" for key, value in sorted(one.attrib.items()) if key in ("tag", "vr", "keyword"))
        text = (one.text or "").strip()
        found.append((name, *attributes, str(float(text)) if re.fullmatch(r"\d+(\.\d+)?", text) else text))
    return [one for one in found if one != ("Value", "1.5")]


def test_searches_and_studies_as_xml(service: Service) -> None:
    study = generate_uid()
    stored(service, image(StudyInstanceUID=study), image(StudyInstanceUID=study))
    accept = f'multipart/related; type="{XML}"'
    for path in (f"/studies/{study}/instances", f"/studies/{study}/metadata"):
        parts = parts_of(service.get(path, accept))
        assert len(parts) == 2
        assert {from_xml(document)["0020000D"]["Value"][0] for _, document in parts} == {study}
    assert service.get("/studies", accept, StudyInstanceUID="1.2.3.4.5.6").status_code == 204


def test_head_is_get_without_its_body(service: Service) -> None:
    path = stored(service, image())
    for end in ("", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulkdata/7FE00010"):
        told, got = service.client.head(path + end), service.get(path + end)
        assert told.status_code == got.status_code == 200
        assert told.content == b""
        kind = got.headers["content-type"].partition("boundary=")[0]
        assert told.headers["content-type"].partition("boundary=")[0] == kind
        assert told.headers.get("content-length") == got.headers.get("content-length")
    for url, status in (("/studies", 200), ("/studies/1.2.3", 404), ("/nothing", 404)):
        assert service.client.head(url).status_code == status
    assert service.client.get("/studies").status_code == 200, "the connection is good for more"


def test_capabilities(service: Service) -> None:
    for url in (service.url, f"{service.url}/"):
        wadl = service.client.options(url)
        assert wadl.headers["content-type"] == "application/vnd.sun.wadl+xml"
        resources = [one.get("path") for one in ElementTree.fromstring(wadl.content).iter() if one.get("path")]
        assert {"studies/{study}/metadata", "studies", "studies/{study}/bulkdata"} <= set(resources)
        model = service.client.options(url, headers={"Accept": "application/json"}).json()
        assert [one["@path"] for one in model["application"]["resources"][0]["resource"]] == resources
        assert service.client.options(url, headers={"Accept": "text/html"}).status_code == 406
    assert service.client.options("/studies/1.2/metadata").headers["allow"] == "GET, HEAD, OPTIONS"
    refused = service.client.put("/studies/1.2/metadata")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD, OPTIONS"
    for method in ("DELETE", "OPTIONS"):
        answer = service.client.request(method, "/studies")
        assert (answer.status_code, answer.headers["allow"]) == (
            204 if method == "OPTIONS" else 405,
            "GET, HEAD, OPTIONS, POST",
        )


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=100-", 206, 100, None),
        ("bytes=-10", 206, -10, None),
        ("bytes=0-99999999", 206, 0, None),
        ("bytes=5-3", 200, 0, None),
        ("bytes=0-1,3-4", 200, 0, None),
        ("rows=1-2", 200, 0, None),
        ("bytes=99999999-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
def test_ranges_of_bulk_data(service: Service, wanted: str, status: int, start: int, end: int | None) -> None:
    ds = deep()
    path = stored(service, ds)
    nested = np.arange(4000, dtype="<u2").tobytes()
    for uri, value in (("7FE00010", ds.PixelData), ("00081140/1/00091001", nested)):
        answer = service.client.get(f"{path}/bulkdata/{uri}", headers={"Accept": BYTES, "Range": wanted})
        assert answer.status_code == status
        if status == 416:
            assert answer.headers["content-range"] == f"bytes */{len(value)}"
            continue
        assert answer.content == value[start:end]
        assert answer.headers["accept-ranges"] == "bytes"
        if status == 206:
            first = len(value) + start if start < 0 else start
            assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(value)}"


#: VR -> the type of its words, as little endian has them.
WORDS = {"OW": "<u2", "OF": "<f4", "OL": "<u4", "OD": "<f8", "OV": "<u8", "OB": "u1", "UN": "u1"}
NUMBERS = {"US": "<u2", "SS": "<i2", "UL": "<u4", "SL": "<i4", "FL": "<f4", "FD": "<f8", "UV": "<u8", "SV": "<i8"}


@pytest.mark.parametrize("count", [1000, 10])
def test_values_of_big_endian_objects_come_in_little_endian(service: Service, count: int) -> None:
    """Long ones as bulk data, short ones inline, at the top and in a sequence."""
    values, item, ds = {}, Dataset(), image()
    for number, (vr, kind) in enumerate((WORDS | NUMBERS).items()):
        values[f"0009{0x1000 + number:04X}"] = vr, (np.arange(count * 8 // np.dtype(kind).itemsize) + 1).astype(kind)
    for holder in (item, ds):
        holder.add_new(0x00090010, "LO", "CHEX TEST")
        for tag, (vr, array) in values.items():
            swapped = array.astype(array.dtype.newbyteorder(">")).tobytes()
            holder.add_new(int(tag, 16), vr, swapped if vr in WORDS else array.tolist())
    ds.ReferencedImageSequence = Sequence([item])
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    ds.save_as(buffer, implicit_vr=False, little_endian=False, enforce_file_format=True)
    assert service.store(buffer.getvalue()).status_code == 200
    (model,) = service.get(f"{path_of(ds)}/metadata").json()
    back = pydicom.dcmread(io.BytesIO(service.get(path_of(ds), DICOM).content))
    nested = model["00081140"]["Value"][0], "00081140/0/", back.ReferencedImageSequence[0]
    for place, prefix, found in ((model, "", back), nested):
        for tag, (vr, array) in values.items():
            got = service.get(f"{path_of(ds)}/bulkdata/{prefix}{tag}", BYTES)
            assert got.content == array.tobytes(), vr
            said, in_file = place[tag], found[int(tag, 16)].value
            assert said["vr"] == vr
            assert in_file == (array.tobytes() if vr in WORDS else array.tolist())
            if count > 100:
                assert said["BulkDataURI"].endswith(f"/bulkdata/{prefix}{tag}")
            elif vr in WORDS:
                assert base64.b64decode(said["InlineBinary"]) == array.tobytes(), vr
            else:
                assert said["Value"] == array.tolist()


def test_bulk_data_of_every_level(service: Service) -> None:
    ds = deep()
    path = stored(service, ds)
    (model,) = service.get(f"{path}/metadata").json()
    uris = {model["7FE00010"]["BulkDataURI"], *(
        one["BulkDataURI"] for one in model["00081140"]["Value"][1].values() if "BulkDataURI" in one
    )}  # fmt: skip
    assert len(uris) == 4
    study, series = f"/studies/{ds.StudyInstanceUID}", f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
    for place in (study, series, path):
        found = {
            headers["content-location"]: content for headers, content in parts_of(service.get(f"{place}/bulkdata"))
        }
        assert found.keys() == uris
        for uri, content in found.items():
            assert service.client.get(uri, headers={"Accept": BYTES}).content == content
        ((headers, pixels),) = parts_of(service.get(f"{place}/pixeldata"))
        assert headers["content-location"] == model["7FE00010"]["BulkDataURI"]
        assert pixels == ds.PixelData
        assert service.get(f"{place}/bulkdata", BYTES).status_code == 406
    assert service.get("/studies/1.2.3/pixeldata").status_code == 404


def test_compressed_bulk_data_is_decoded(service: Service) -> None:
    frames = np.random.default_rng(4).integers(0, 255, (3, 64, 48), np.uint8)
    ds = image(NumberOfFrames=3, PixelData=frames.tobytes())
    ds.compress(RLELossless, generate_instance_uid=False)
    path = stored(service, ds)
    whole = service.client.get(f"{path}/bulkdata/7FE00010", headers={"Accept": BYTES})
    assert whole.content == frames.tobytes()
    piece = service.client.get(f"{path}/bulkdata/7FE00010", headers={"Accept": BYTES, "Range": "bytes=3000-3999"})
    assert piece.content == frames.tobytes()[3000:4000]
    kept = parts_of(service.get(f"{path}/bulkdata/7FE00010", 'multipart/related; type="image/dicom-rle"'))
    assert [headers["content-location"].rpartition("/")[2] for headers, _ in kept] == ["1", "2", "3"]
    client = DICOMwebClient(service.url)
    uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    got = client.retrieve_instance_frames(*uids, [2, 3])
    assert [np.frombuffer(one, np.uint8).tolist() for one in got] == [frames[n].ravel().tolist() for n in (1, 2)]


def test_more_frames_are_stored_than_the_object_says(service: Service) -> None:
    frames = [bytes([number]) * 100 for number in range(1, 4)]
    ds = image(NumberOfFrames=2, PixelData=encapsulate(frames))
    ds.file_meta.TransferSyntaxUID = RLELossless
    path, kind = stored(service, ds), "image/dicom-rle"
    for wanted, numbers in (("1,2", (1, 2)), ("2,1", (2, 1)), ("2", (2,)), ("1,1", (1, 1))):
        got = parts_of(service.get(f"{path}/frames/{wanted}", f'multipart/related; type="{kind}"'))
        assert [content for _, content in got] == [frames[number - 1] for number in numbers]
    assert service.get(f"{path}/frames/1", kind).content == frames[0]
    assert len(parts_of(service.get(f"{path}/bulkdata/7FE00010", f'multipart/related; type="{kind}"'))) == 2
    assert service.get(f"{path}/frames/3").status_code == 404
    ds.NumberOfFrames = 1
    stored(service, ds)
    assert service.get(f"{path}/frames/1", kind).content == frames[0]


def test_searches_say_what_they_do_not_do(service: Service) -> None:
    stored(service, image())
    for name in ("fuzzymatching", "emptyvaluematching", "multiplevaluematching"):
        answer = service.get("/studies", **{name: "true"})
        assert answer.status_code == 200
        assert ("warning" in answer.headers) == (name == "emptyvaluematching")
        assert "warning" not in service.get("/studies", limit="1000", **{name: "false"}).headers
        assert service.get("/studies", **{name: "perhaps"}).status_code == 400
    assert service.get("/studies", offset="1000000").json() == []
    assert service.get("/studies", limit="0").json() == []
    assert service.get("/studies", limit="-1").status_code == 400
    by_path = service.get("/instances", **{"RequestAttributesSequence.RequestedProcedureID": "1"})
    assert by_path.status_code == 200
    assert "cannot be searched" in by_path.headers["warning"]
