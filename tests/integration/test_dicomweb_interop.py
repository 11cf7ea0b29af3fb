"""What other people's DICOMweb clients send and expect: each kind of fault that they met here, with the right value.

The public reports that were tried against the node, and where each is held; D is DICOMweb's own list.

    01, 20, D01  holes in pages             here, test_dicomweb_pages
    02           one reading of a name      unit/node/encode/test_one_reading, unit/node/receive/test_receive_header
    03, 04       titles, items, contexts    unit/node/dimse/test_pdus, test_receive_protocol
    05           Implicit VR only           test_deliver, unit/node/deliver/test_implicit
    06           status 0213H               unit/node/deliver/test_delivery_status, unit/node/dimse/test_pdus
    07           group 0002                 test_receive
    08, D02, D04 lists of modalities        here, test_dicomweb_search
    09           awkward values             unit/node/dicomweb/test_awkward_values
    10           unknown parameters         test_dicomweb_search, unit/node/dicomweb/test_dicomweb_wire
    12           Number of Frames 0         unit/node/triage/test_gate
    13           a few bytes too many       unit/models/dicom/test_elements
    14, D05      gzip, "", file meta        here
    15           commitment to nothing      test_commitment
    16           a page cut short           test_pull
    17           409 without proof          test_stow, unit/node/dicomweb/test_stow_answer
    18           a context without syntax   unit/node/dimse/test_pdus, test_deliver
    19           padding                    unit/models/dicom/test_decode, unit/node/web/test_dicomweb_pixels
    D03, D06-12  statuses, slashes, forms   here, test_dicomweb_forms
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from chexnode.ledger.ledger import Ledger
from chexnode.vocabulary.records import Arrival
from support.dicomweb import BOUNDARY, DICOM, Service, holding, part10_of, parts_of, path_of, related, serving
from support.ledgers import arrival, record
from support.radiographs import radiograph
from support.receivers import a_settings

MULTI = f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}'
JPEG = "image/jpeg"


@pytest.fixture
def service(ledger: Ledger, tmp_path: Path) -> Iterator[Service]:
    with serving(a_settings(tmp_path), ledger) as service:
        yield service


def image(**change: object) -> Dataset:
    ds = radiograph()
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = generate_uid(), generate_uid(), generate_uid()
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def row(number: int, study: str | None = None, uid: str | None = None, digest: str = "") -> Arrival:
    """An image in a study of its own: of the number, or another."""
    study = f"1.2.{number}" if study is None else study
    one = replace(
        arrival(uid or f"1.9.{number}"),
        study_instance_uid=study,
        series_instance_uid=f"{study or '1.7'}.1",
        study={"study_date": f"2024{number // 28 + 1:02}{number % 28 + 1:02}", "patient_id": f"P{number % 3}"},
        series={"modality": "CR", "series_number": 1},
        instance={"instance_number": number},
    )
    return replace(one, digest=digest) if digest else one


def holes(ledger: Ledger) -> None:
    """Studies that hold nothing any more, above, between and below those that do; an image that is in no study."""
    for number in (1, 5, 6, 7, 12):
        record(ledger, row(number))
    for number in (0, 2, 3, 8, 9, 13):
        record(ledger, row(number, uid=f"1.9.{100 + number}"))
        record(ledger, row(number, study="1.2.5", uid=f"1.9.{100 + number}", digest=f"{number:064x}"))
    record(ledger, row(20, study=""))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def with_holes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that holds :func:`holes`; tests only ask."""
    with holding(request, tmp_path_factory) as service:
        holes(service.ledger)
        yield service


@pytest.mark.parametrize("path", ["/studies", "/series", "/instances", "/studies/1.2.5/instances"])
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_all_pages_together_are_the_whole(with_holes: Service, path: str, limit: int) -> None:
    service = with_holes
    tag = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}[path.rsplit("/", 1)[1]]
    whole = [one[tag]["Value"][0] for one in service.get(path).json()]
    assert len(whole) == len(set(whole)) > 4
    pages: list[str] = []
    for _ in range(len(whole) + 1):
        answer = service.get(path, limit=str(limit), offset=str(len(pages)))
        page = [one[tag]["Value"][0] for one in answer.json()]
        assert len(page) == min(limit, len(whole) - len(pages))
        pages += page
        assert ("warning" in answer.headers) == (len(pages) < len(whole))
        if not page:
            break
    assert pages == whole


def test_a_search_without_a_match_is_an_empty_list(service: Service) -> None:
    for path in ("/studies", "/series", "/instances", "/studies/1.2.3/series"):
        answer = service.get(path, "application/dicom+json")
        assert (answer.status_code, answer.json()) == (200, [])
    assert service.get("/studies", 'multipart/related; type="application/dicom+xml"').status_code == 204


def test_modalities_are_left_out_where_there_are_none(service: Service) -> None:
    record(service.ledger, replace(row(1), series={"series_number": 1}), row(2))
    with_modality, without = service.get("/studies").json()
    assert with_modality["00080061"]["Value"] == ["CR"]
    assert "00080061" not in without


def test_a_repeated_parameter_is_a_list(service: Service) -> None:
    record(service.ledger, row(1), row(2), row(3))
    keys = [("StudyInstanceUID", "1.2.1"), ("StudyInstanceUID", "1.2.3")]
    found = service.client.get("/studies", params=keys).json()
    assert [one["0020000D"]["Value"][0] for one in found] == ["1.2.3", "1.2.1"]
    both = [("ModalitiesInStudy", "DX"), ("ModalitiesInStudy", "CR")]
    assert len(service.client.get("/studies", params=both).json()) == 3


def test_a_viewers_study_list_is_narrowed_by_modality(service: Service) -> None:
    """What OHIF asks for, and what it reads of each study: what is given as empty leaves its whole list blank."""
    bare = {"series_number": 1}
    kinds = [{**bare, "modality": kind} for kind in ("CR", "DX", "MR")] + [bare]
    record(service.ledger, *(replace(row(number + 1), series=kind) for number, kind in enumerate(kinds)))

    def listed(**filters: str) -> list[str]:
        asked = {"limit": "101", "offset": "0", "fuzzymatching": "false", "includefield": "00081030,00080060"}
        found = service.client.get("/studies", params=asked | filters).json()
        assert all(
            one.get("Value", True) and None not in one.get("Value", []) for study in found for one in study.values()
        )
        return [",".join(study.get("00080061", {}).get("Value", [])) for study in found]

    assert listed() == ["", "MR", "DX", "CR"]
    assert listed(ModalitiesInStudy="CR,DX") == ["DX", "CR"]
    assert listed(ModalitiesInStudy="SR") == []


def test_slashes_too_many_mean_nothing(service: Service) -> None:
    ds = image()
    assert service.store(part10_of(ds)).status_code == 200
    root = service.url.removesuffix("/dicom-web")
    for url in ("/dicom-web//studies", "//dicom-web/studies/", f"/dicom-web/{path_of(ds)}//metadata/"):
        answer = service.client.get(root + url)
        assert (answer.status_code, len(answer.json())) == (200, 1), url
    kind = {"Content-Type": MULTI}
    assert service.client.post(f"{service.url}//studies/", content=related([(DICOM, part10_of(ds))]), headers=kind)


def test_xml_asked_for_by_itself_comes_in_parts(service: Service) -> None:
    assert service.store(part10_of(image())).status_code == 200
    (part,) = parts_of(service.get("/studies", "application/dicom+xml"))
    assert part[0]["content-type"] == "application/dicom+xml"


def test_metadata_has_an_entity_tag_and_is_compressed(service: Service) -> None:
    ds = image()
    assert service.store(part10_of(ds)).status_code == 200
    url = f"/studies/{ds.StudyInstanceUID}/metadata"
    first = service.client.get(url, headers={"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in first.headers["vary"]
    plain = service.client.get(url, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == first.json()
    unchanged = service.client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    other = service.client.get(url, headers={"Host": "localhost:1", "If-None-Match": first.headers["etag"]})
    assert other.status_code == 200, "its URLs are others"
    assert "http://localhost:1/dicom-web/studies" in other.text
    assert service.store(part10_of(image(StudyInstanceUID=ds.StudyInstanceUID))).status_code == 200
    assert service.client.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_a_compressed_body_is_stored_and_another_coding_refused(service: Service) -> None:
    body = related([(DICOM, part10_of(image()))])
    send = {"Content-Type": MULTI, "Content-Encoding": "gzip"}
    assert service.client.post("/studies", content=gzip.compress(body), headers=send).status_code == 200
    for broken in (gzip.compress(body)[:-20], body):
        assert service.client.post("/studies", content=broken, headers=send).status_code == 400
    refused = service.client.post("/studies", content=body, headers=send | {"Content-Encoding": "br"})
    assert refused.status_code == 415
    assert "gzip" in refused.headers["accept-encoding"]


def test_a_compressed_body_is_not_larger_than_another_may_be(tmp_path: Path, ledger: Ledger) -> None:
    settings = a_settings(tmp_path)
    settings = settings.model_copy(update={"web": settings.web.model_copy(update={"max_request_mb": 1})})
    with serving(settings, ledger) as service:
        send = {"Content-Type": MULTI, "Content-Encoding": "gzip"}
        body = gzip.compress(related([(DICOM, bytes(50_000_000))]))
        assert service.client.post("/studies", content=body, headers=send).status_code == 413


@pytest.mark.parametrize("body", [b"This is not a valid DICOM file", b"", bytes(200)])
def test_what_is_no_dicom_is_400(service: Service, body: bytes) -> None:
    answer = service.client.post("/studies", content=body, headers={"Content-Type": DICOM})
    assert answer.status_code == 400
    assert answer.json()["00081190"] == {"vr": "UR"}
    assert answer.json()["0008119A"]["Value"][0]["00081197"]["Value"] == [0xC000]


def test_every_answer_has_a_retrieve_url(service: Service) -> None:
    one, other = image(), image()
    assert service.store(part10_of(one)).json()["00081190"]["Value"] == [
        f"{service.url}/studies/{one.StudyInstanceUID}"
    ]
    assert service.store(part10_of(one), part10_of(other)).json()["00081190"] == {"vr": "UR"}
    assert service.store(part10_of(other), study="1.2.3").json()["00081190"] == {"vr": "UR"}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian])
def test_a_file_is_what_its_data_set_says(service: Service, missing: bool, syntax: str) -> None:
    ds = image()
    ds.file_meta.TransferSyntaxUID = syntax
    file = part10_of(ds)
    meta = pydicom.dcmread(pydicom.filebase.DicomBytesIO(file)).file_meta
    wrong = generate_uid()[: len(meta.MediaStorageSOPInstanceUID)].ljust(len(meta.MediaStorageSOPInstanceUID), "1")
    if missing:
        tag = b"\x02\x00\x03\x00UI"
        start = file.index(tag)
        length = 8 + int.from_bytes(file[start + 6 : start + 8], "little")
        file = file[:start] + file[start + length :]
    else:
        file = file.replace(meta.MediaStorageSOPInstanceUID.encode(), wrong.encode(), 1)
    answer = service.store(file)
    assert answer.status_code == 202
    (stored,) = answer.json()["00081199"]["Value"]
    assert stored["00081155"]["Value"] == [ds.SOPInstanceUID]
    assert stored["00081196"]["Value"] == [0xB007]
    assert "warning" in answer.headers
    back = pydicom.dcmread(pydicom.filebase.DicomBytesIO(service.get(path_of(ds), DICOM).content))
    assert back.file_meta.MediaStorageSOPInstanceUID == back.SOPInstanceUID == ds.SOPInstanceUID


def test_an_attribute_that_no_element_can_be_made_of_is_named(service: Service) -> None:
    uids = {tag: {"vr": "UI", "Value": [generate_uid()]} for tag in ("00080018", "0020000D", "0020000E")}
    model = {"00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.1"]}, **uids}
    model["00101020"] = {"vr": "DS", "Value": [""]}
    body = related([("application/dicom+json", json.dumps([model]).encode())])
    kind = f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'
    answer = service.client.post("/studies", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 409
    assert "PatientSize" in answer.json()["00081198"]["Value"][0]["00000902"]["Value"][0]


def test_rendered_shows_what_has_a_picture(service: Service) -> None:
    ds = image()
    report = image(StudyInstanceUID=ds.StudyInstanceUID, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22")
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    report.ContentSequence, report.ConceptNameCodeSequence = [], [Dataset()]
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    another = image(StudyInstanceUID=ds.StudyInstanceUID)
    for one in (report, ds, another):
        assert service.store(part10_of(one)).status_code == 200
    url = f"/studies/{ds.StudyInstanceUID}/rendered"
    single = service.get(url, JPEG)
    assert (single.status_code, single.headers["content-type"]) == (200, JPEG)
    several = parts_of(service.get(url, f'multipart/related; type="{JPEG}"'))
    assert [headers["content-type"] for headers, _ in several] == [JPEG, JPEG]


def test_a_name_that_the_node_does_not_have(service: Service) -> None:
    answer = service.client.get("/studies", headers={"Host": "pacs.example:8080"})
    assert answer.status_code == 400
    assert "web.names" in answer.json()["detail"]


def test_behind_a_proxy_urls_are_the_proxys(tmp_path: Path, ledger: Ledger) -> None:
    settings = a_settings(tmp_path)
    forwarded = {
        "X-Forwarded-Host": "pacs.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/chest",
        "X-Forwarded-For": "192.0.2.7",
    }
    for proxies, names in (((), ()), (("127.0.0.0/8",), ("pacs.example",))):
        web = settings.web.model_validate({"proxies": proxies, "names": names})
        with serving(settings.model_copy(update={"web": web}), ledger) as service:
            ds = image()
            assert service.store(part10_of(ds)).status_code == 200
            answer = service.client.get("/studies", params={"PatientID": ds.PatientID}, headers=forwarded)
            url = answer.json()[0]["00081190"]["Value"][0]
            assert url.startswith("https://pacs.example/chest/dicom-web/" if proxies else "http://127.0.0.1")
