"""Outside judges: dciodvfy on every variant of every source, dcentvfy on source and results together, DCMTK reading."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from chexnode.encode.attributes import OPTIONAL, TYPE_2
from chexnode.encode.objects import Encoded, encode
from chexnode.encode.source import sanitise
from chexnode.vocabulary.variants import FORMS, GspsForm, ResultKind, Variant
from support.radiographs import GEOMETRY, PROVENANCE, Kind, hot, lesion, parsed, part10, picture, radiograph
from support.validators import dcentvfy, dciodvfy, unexplained

EVERYTHING = [
    *(Variant(form) for form in FORMS if form.kind in (ResultKind.SEG, ResultKind.SC)),
    Variant.parse(ResultKind.SR, "comprehensive3d-box-planar"),
    Variant.parse(ResultKind.SR, "comprehensive-contour-noseg"),
    Variant(GspsForm()),
]
CHEST = (
    "nih_dx_implicit", "rg1_cr_pa_j2k_lossy", "rg1_cr_pa_jpegls_near", "rsna_cr_ap_jpeg_baseline",
    "siim_cr_fake_monochrome1", "siim_cr_pa_jpeg_baseline",
)  # fmt: skip


def results(header: Dataset, abnormal: bool | None = True) -> list[Encoded]:
    source = sanitise(header)
    shape = (source.rows, source.columns)
    findings = hot(shape) if abnormal else lesion(shape, abnormal)
    return encode(source, picture(shape), findings, PROVENANCE, EVERYTHING)


@pytest.mark.parametrize("stem", CHEST)
def test_real_radiographs_have_valid_results(stem: str, shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "dicom" / "chest" / f"{stem}.dcm"
    files = [path]
    header = dcmread(path, stop_before_pixels=True)
    encoded = results(header)
    assert [each.variant for each in encoded] == EVERYTHING
    for each in encoded:
        assert unexplained(each.data, path.read_bytes()) == [], each.variant
        files.append(tmp_path / f"{each.variant.kind}-{each.variant}.dcm")
        files[-1].write_bytes(each.data)
    repaired = {k for k in (*TYPE_2, *OPTIONAL) if (k in header) != (k in sanitise(header).ds)}
    excused = [f"present in one instance but not the other - Element=<{keyword}>" for keyword in repaired]
    assert [line for line in dcentvfy(files) if not any(excuse in line for excuse in excused)] == []


def test_no_chest_file_is_left_out(shared: Path) -> None:
    assert sorted(path.stem for path in (shared / "data" / "dicom" / "chest").glob("*.dcm")) == sorted(CHEST)


CLEAN: dict[str, dict[str, Any]] = {
    "plain": {},
    "spacing of pixels": {"ImagerPixelSpacing": None, "PixelSpacing": [0.17, 0.17]},
    "no orientation": {"PatientOrientation": ""},
    "lossy": {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 9.5,
        "LossyImageCompressionMethod": "ISO_10918_1",
    },
    "burned in": {"BurnedInAnnotation": "YES"},
}


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
def test_clean_sources_have_results_without_a_complaint(kind: Kind, photometric_interpretation: str, name: str) -> None:
    header = radiograph(kind, (97, 83), photometric_interpretation, **CLEAN[name])
    for each in results(parsed(header)):
        assert dciodvfy(each.data) == [], each.variant


DIRTY: dict[str, dict[str, Any]] = {
    "spacing zero": {"ImagerPixelSpacing": None, "PixelSpacing": [0, 0]},
    "spacing both": {"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.2, 0.2]},
    "spacing none": {"ImagerPixelSpacing": None},
    "geometry": dict(GEOMETRY),
    "frame of reference": {"FrameOfReferenceUID": "1.2.3.4"},
    "half a geometry": {**GEOMETRY, "ImageOrientationPatient": None},
    "empty frame of reference": {"FrameOfReferenceUID": ""},
    "identity missing": dict.fromkeys(
        ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
         "AccessionNumber", "ReferringPhysicianName", "Modality", "PatientOrientation", "BodyPartExamined"]
    ),
    "identity wrong": {
        "PatientSex": "U", "StudyDate": "2026-01-02", "StudyTime": "10:15:00", "PatientBirthDate": "1950",
        "PatientAge": "81", "PatientID": "P" * 70, "AccessionNumber": "A\r\n1", "PatientName": "single",
        "StudyDescription": "D" * 90,
    },
    "body part in free text": {"BodyPartExamined": "PORT CHEST"},
    "lossy without particulars": {"LossyImageCompression": "01"},
    "manufacturer": {"Manufacturer": "M" * 90, "StationName": "S" * 20},
    "private class": {"SOPClassUID": "1.3.46.670589.11.0.0.12.1"},
    "character set": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", DIRTY)
@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
def test_dirty_sources_have_results_without_a_new_complaint(kind: Kind, name: str) -> None:
    header = radiograph(kind, **DIRTY[name])
    for each in results(parsed(header)):
        assert unexplained(each.data, part10(header)) == [], each.variant


@pytest.mark.parametrize("abnormal", [False, None])
def test_no_finding_and_not_evaluated_are_valid(abnormal: bool | None) -> None:
    encoded = results(parsed(radiograph()), abnormal)
    assert [each.variant.kind for each in encoded] == [ResultKind.SC] * 2 + [ResultKind.SR] * 2
    for each in encoded:
        assert dciodvfy(each.data) == []


def test_the_judge_does_complain(tmp_path: Path) -> None:
    header = radiograph("CR")
    assert dciodvfy(part10(header)) == []
    broken = radiograph("CR", PhotometricInterpretation=None, ImageType=["X", "Y"])
    assert len(unexplained(part10(broken), part10(header))) >= 2


def test_the_judge_of_several_files_does_complain(tmp_path: Path) -> None:
    header = radiograph("CR", PatientName="Mueller^Joerg")  # it compares bytes, and ours are UTF-8
    (tmp_path / "source.dcm").write_bytes(part10(header))
    files = [tmp_path / "source.dcm"]
    for each in results(parsed(header)):
        files.append(tmp_path / f"{each.variant.kind}-{each.variant}.dcm")
        files[-1].write_bytes(each.data)
    assert dcentvfy(files) == []
    ds = dcmread(files[-1])
    ds.PatientName = "Somebody^Else"
    ds.save_as(files[-1])
    assert len(dcentvfy(files)) >= 1


def test_dcmtk_reads_every_result(tmp_path: Path) -> None:
    if shutil.which("dcmdump") is None:
        pytest.skip("dcmdump (dcmtk) is not installed")
    for number, each in enumerate(results(parsed(radiograph(shape=(97, 83))))):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(each.data)
        done = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, check=False)
        assert done.returncode == 0
        assert b"E:" not in done.stderr
        assert b"W:" not in done.stderr
