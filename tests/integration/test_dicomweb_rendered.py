"""Rendered resources: decoding in sandbox children, the parameters of PS3.18 section 8.3.5, what is no image."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless, generate_uid

from chexnode.settings.limits import LimitSettings
from support.dicomweb import Service, part10_of, parts_of, path_of, read_all, serving
from support.radiographs import radiograph
from support.receivers import a_settings

CHILD = "chexnode.web.dicomweb.child"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(a_settings(tmp_path_factory.mktemp("rendered"))) as service:
        yield service


def image(**attributes: Any) -> Dataset:
    uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return radiograph(**(uids | attributes))


def stored(service: Service, *datasets: Dataset) -> str:
    answer = service.store(*map(part10_of, datasets))
    assert answer.status_code == 200, answer.text
    return path_of(datasets[0])


def children() -> list[psutil.Process]:
    found = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in found if CHILD in child.cmdline()[:3]]


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


HOSTILE: dict[str, dict[str, Any]] = {
    "more pixels than there may be": {"Rows": 65535, "Columns": 65535},
    "more rows than pixels": {"Rows": 97},
    "impossible bits": {"BitsAllocated": 12},
    "a palette that is none": {"PhotometricInterpretation": "PALETTE COLOR"},
    "no columns": {"Columns": 0},
    "a million frames": {"NumberOfFrames": 10**6},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_image_gets_a_code_and_the_role_lives(service: Service, what: str) -> None:
    path = stored(service, image(**HOSTILE[what]))
    for end in ("rendered", "thumbnail", "frames/1/rendered"):
        answer = service.get(f"{path}/{end}")
        assert answer.status_code == 406, (end, answer.text)
        assert answer.json()["detail"]
    assert service.get(f"{stored(service, image())}/rendered").status_code == 200


def test_a_number_of_frames_that_is_none(service: Service) -> None:
    ds = image()
    ds[0x00280008] = DataElement(0x00280008, "FD", math.inf)
    path = stored(service, ds)
    for end in ("frames/1", "rendered", "pixeldata", "bulkdata/7FE00010"):
        assert service.get(f"{path}/{end}").status_code in (404, 406), end


def test_what_jpeg_has_no_room_for(service: Service) -> None:
    path = stored(service, image(shape=(65_534, 1), PixelData=bytes(65_534)))
    assert service.get(f"{path}/rendered", "image/jpeg").status_code == 406
    assert service.get(f"{path}/rendered", "image/png").status_code == 200


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, RLELossless])
def test_garbage_codestreams_get_a_code(service: Service, syntax: str) -> None:
    rng = np.random.default_rng(0)
    for length in (2, 100, 5000):
        ds = image(PixelData=encapsulate([rng.bytes(length)]))
        ds.file_meta.TransferSyntaxUID = syntax
        path = stored(service, ds)
        assert service.get(f"{path}/rendered").status_code == 406
        assert service.get(f"{path}/frames/1", "application/octet-stream").status_code == 406
        assert service.get(f"{path}/frames/1", "*/*; transfer-syntax=*").status_code in (200, 406)
        assert service.get(path, "application/dicom; transfer-syntax=1.2.840.10008.1.2.1").status_code == 406
        assert service.get(path, "application/dicom").status_code == 200, "as it is stored, where nothing else will do"
    assert service.get("/studies").status_code == 200


@pytest.mark.shared
def test_every_hostile_file_is_decoded_away_from_the_role(service: Service, shared: Path) -> None:
    for file in read_all(shared / "data" / "dicom" / "malformed"):
        answer = service.store(file.read_bytes())
        for one in answer.json().get("00081199", {}).get("Value", []):
            if "00081190" in one:
                got = service.client.get(one["00081190"]["Value"][0] + "/rendered")
                assert got.status_code in (200, 406), (file, got.text)
    assert service.get(f"{stored(service, image())}/rendered").status_code == 200
    assert 1 <= len(children()) <= 2


def test_a_decoder_that_dies_takes_nothing_along(service: Service) -> None:
    path = stored(service, image())
    first = service.get(f"{path}/rendered").content
    killed = children()
    for child in killed:
        child.kill()
    assert killed
    assert service.get(f"{path}/rendered").content == first


def test_many_at_once_wait_for_their_turn(service: Service) -> None:
    path = stored(service, image())
    with ThreadPoolExecutor(48) as pool:
        answers = [pool.submit(service.get, f"{path}/thumbnail") for _ in range(96)]
        others = [pool.submit(service.get, "/studies", limit="1") for _ in range(8)]
        assert {one.result().status_code for one in [*answers, *others]} == {200}


def test_decoding_that_takes_too_long_or_too_much_is_ended(tmp_path: Path) -> None:
    limits = LimitSettings(decode_memory_mb=256, decode_seconds=20)
    settings = a_settings(tmp_path).model_copy(update={"limits": limits})
    before = {child.pid for child in children()}
    with serving(settings) as service:
        large = stored(service, image(shape=(8, 8), Rows=7000, Columns=7000, PixelData=bytes(49_000_000)))
        assert service.get(f"{large}/rendered").status_code == 406
        assert service.get(f"{stored(service, image())}/rendered").status_code == 200
        assert {child.pid for child in children()} - before
    assert {child.pid for child in children()} <= before, "they end with the role"


def test_annotations_are_burned_in(service: Service) -> None:
    ds = image(shape=(200, 200), PixelData=bytes(40_000), WindowCenter="1000", WindowWidth="100")
    path = stored(service, ds)
    plain = np.asarray(picture(service.get(f"{path}/rendered", "image/png").content))
    patient = np.asarray(picture(service.get(f"{path}/rendered", "image/png", annotation="patient").content))
    both = np.asarray(picture(service.get(f"{path}/rendered", "image/png", annotation="patient,technique").content))
    assert 0 < np.sum(patient != plain) < np.sum(both != plain)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"annotation": "patient"}, 200),
        ({"annotation": ""}, 400),
        ({"annotation": "everything"}, 400),
        ({"quality": "1"}, 200),
        ({"quality": "100"}, 200),
        ({"quality": "101"}, 400),
        ({"quality": "best"}, 400),
        ({"viewport": "100,50"}, 200),
        ({"viewport": "100,50,,,,"}, 200),
        ({"viewport": "100,50,10,10,20,-20"}, 200),
        ({"viewport": "100,50,1"}, 400),
        ({"viewport": "100,50,5000,5000,10,10"}, 400),
        ({"viewport": "a,b"}, 400),
        ({"viewport": "100,50,1e999,,,"}, 400),
        ({"viewport": "100,50,,,1e308,-1e308"}, 200),
        ({"window": "100,50,linear"}, 200),
        ({"window": "100,50,sigmoid"}, 200),
        ({"window": "100,0.5,linear-exact"}, 200),
        ({"window": "100,50,cubic"}, 400),
        ({"window": "100"}, 400),
        ({"iccprofile": "no"}, 200),
        ({"iccprofile": "srgb"}, 200),
        ({"iccprofile": "nonsense"}, 400),
        ({"unknown": "parameter"}, 200),
    ],
)
def test_parameters(service: Service, query: dict[str, str], status: int) -> None:
    path = stored(service, image())
    for end in ("rendered", "thumbnail"):
        assert service.get(f"{path}/{end}", **query).status_code == status


def test_what_is_not_done_is_told(service: Service) -> None:
    answer = service.get(f"{stored(service, image())}/rendered", iccprofile="adobergb")
    assert answer.status_code == 200
    assert answer.headers["warning"].startswith(f"299 {service.url} ")


def test_a_colour_profile(service: Service) -> None:
    values = np.arange(30 * 20 * 3, dtype=np.uint32).astype(np.uint8)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = stored(service, image(shape=(30, 20), PixelData=values.tobytes(), **colour))
    for kind in ("image/jpeg", "image/png"):
        assert "icc_profile" in picture(service.get(f"{path}/rendered", kind, iccprofile="srgb").content).info
        assert "icc_profile" not in picture(service.get(f"{path}/rendered", kind, iccprofile="no").content).info


def test_multi_frame_images(service: Service) -> None:
    frames = np.random.default_rng(1).integers(0, 255, (3, 32, 16), np.uint8)
    path = stored(service, image(shape=(32, 16), NumberOfFrames=3, PixelData=frames.tobytes()))
    assert picture(service.get(f"{path}/rendered", "image/png").content).size == (16, 32)
    assert len(parts_of(service.get(f"{path}/rendered", 'multipart/related; type="image/png"'))) == 3
    moving = picture(service.get(f"{path}/rendered", "image/gif").content)
    assert moving.n_frames == 3
    assert len(parts_of(service.get(f"{path}/frames/3,1/rendered", 'multipart/related; type="image/png"'))) == 2
    third = service.get(f"{path}/frames/3/thumbnail", "image/png").content
    assert third != service.get(f"{path}/frames/1/thumbnail", "image/png").content
    assert service.get(f"{path}/frames/4/rendered").status_code == 404
    assert service.get(f"{path}/frames/0/thumbnail").status_code == 400


def test_an_answer_holds_so_many_pictures_and_bytes(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(2).integers(0, 255, (5, 32, 16), np.uint8)
    path = stored(service, image(shape=(32, 16), NumberOfFrames=5, PixelData=frames.tobytes()))
    several = 'multipart/related; type="image/png"'
    assert service.get(f"{path}/frames/{','.join(['1'] * 101)}/rendered").status_code == 400
    monkeypatch.setattr("chexnode.web.dicomweb.rendered._MOST_RENDERED", 3)
    answer = service.get(f"{path}/rendered", several)
    assert (answer.status_code, len(parts_of(answer))) == (206, 3)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert service.get(f"{path}/rendered", "image/gif").status_code == 206
    assert service.get(f"{path}/rendered", "image/png").status_code == 200
    monkeypatch.setattr("chexnode.web.dicomweb.rendered._MOST_BYTES", 1000)
    assert service.get(f"{path}/frames/1/rendered", "image/png").status_code == 200
    assert service.get(f"{path}/frames/1,2,3/rendered", several).status_code == 406


def report() -> Dataset:
    ds = image(Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(ds, keyword)

    def code(meaning: str) -> Sequence:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", meaning
        return Sequence([item])

    ds.ValueType, ds.ConceptNameCodeSequence = "CONTAINER", code("Imaging <Report>")
    text, number, measured = Dataset(), Dataset(), Dataset()
    text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", "Größe & mehr"
    text.ConceptNameCodeSequence = code("Finding")
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12.5", code("mm")
    number.ValueType, number.MeasuredValueSequence = "NUM", Sequence([measured])
    number.ConceptNameCodeSequence = code("Length")
    text.ContentSequence = Sequence([number])
    ds.ContentSequence = Sequence([text])
    return ds


def test_a_report_is_text(service: Service) -> None:
    path = stored(service, report())
    html = service.get(f"{path}/rendered")
    assert html.headers["content-type"].startswith("text/html")
    assert "Imaging &lt;Report&gt;" in html.text
    assert "Finding: Größe &amp; mehr" in html.text
    assert "style=" not in html.text, "the policy of every answer forbids it"
    plain = service.get(f"{path}/rendered", "text/plain")
    assert "Length: 12.5 mm" in plain.text
    assert service.get(f"{path}/rendered", "image/jpeg").status_code == 406
    assert service.get(f"{path}/thumbnail").status_code == 406


def test_what_is_neither_image_nor_report_is_406(service: Service) -> None:
    ds = image(Modality="PR", SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1")
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    del ds.PixelData
    path = stored(service, ds)
    for end in ("rendered", "thumbnail", "frames/1", "frames/1/rendered"):
        assert service.get(f"{path}/{end}").status_code == 406


def test_an_independent_client_renders(service: Service) -> None:
    ds = image(shape=(40, 30))
    stored(service, ds)
    client = DICOMwebClient(service.url)
    uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    for kind in ("image/jpeg", "image/png", "image/gif"):
        one = client.retrieve_instance_rendered(
            *uids, media_types=(kind,), params={"viewport": "15,20", "window": "128,256,linear", "quality": 50}
        )
        assert picture(one).size == (15, 20)
