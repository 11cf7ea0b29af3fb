"""Reports of findings: what they say and where, read back by highdicom and judged by dciodvfy and DicomSRValidator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from highdicom.sr import CodedConcept, MeasurementReport, PlanarROIMeasurementsAndQualitativeEvaluations, srread
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage
from scipy import ndimage

from chexmodels.finding import Box, Findings, Region
from chexmodels.postprocess import label
from chexnode.encode.contours import outline
from chexnode.encode.objects import to_bytes
from chexnode.encode.provenance import DISCLAIMER, MANUFACTURER, Provenance, tracking_uid
from chexnode.encode.seg import encode_seg
from chexnode.encode.source import sanitise
from chexnode.encode.sr import FAILED, PRESENCE, SUMMARY, Side, encode_sr, side
from chexnode.encode.verify import InvalidResult
from chexnode.vocabulary.variants import FORMS, SegProfile, SrForm
from support.radiographs import GEOMETRY, PROVENANCE, Kind, lesion, parsed, radiograph
from support.reports import check_sr
from support.validators import dciodvfy, dicom_sr_validator, unexplained

DEFAULT = SrForm(seg_profile="planar")
SR_FORMS = [form for form in FORMS if isinstance(form, SrForm)]
BARE = {"PatientOrientation": None, "ImagerPixelSpacing": None}
SHAPE = (96, 80)


def written(
    header: Dataset,
    findings: Findings | None = None,
    variant: SrForm = DEFAULT,
    provenance: Provenance = PROVENANCE,
) -> bytes:
    source = sanitise(header)
    findings = findings or lesion((source.rows, source.columns))
    data = to_bytes(encode_sr(source, findings, provenance, variant))
    check_sr(dcmread(BytesIO(data)), source, findings, provenance, variant)
    return data


def content(data: bytes) -> MeasurementReport:
    """Return the report as highdicom reads it."""
    report = srread(BytesIO(data)).content
    assert isinstance(report, MeasurementReport)
    return report


def outlined(data: bytes) -> list[PlanarROIMeasurementsAndQualitativeEvaluations]:
    """Return the groups of the regions."""
    groups = content(data).get_planar_roi_measurement_groups()
    return [group for group in groups if group.reference_type == codes.DCM.ImageRegion]


def words(data: bytes) -> list[str]:
    root = dcmread(BytesIO(data))
    (remarks,) = (i for i in root.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "C0034375")
    return [item.TextValue for item in remarks.ContentSequence if item.ValueType == "TEXT"]


def found(mask: NDArray[np.bool_]) -> Findings:
    """Return findings of every component of ``mask``, described as the models do."""
    labels, _count = label(mask)
    regions = []
    for number, (y, x) in enumerate(ndimage.find_objects(labels), 1):
        area = int((labels[y, x] == number).sum())
        regions.append(Region(Box(x.start, y.start, x.stop, y.stop), area, 1 / (1 + number), 0.1))
    return Findings(None, mask, tuple(regions), 0.8, True, "m")


def test_a_report_is_preliminary_of_the_study_and_of_its_own_series() -> None:
    header = radiograph()
    series, instances = set(), set()
    for variant in SR_FORMS:
        ds = dcmread(BytesIO(written(parsed(header), variant=variant)))
        assert (ds.CompletionFlag, ds.PreliminaryFlag, ds.VerificationFlag) == (
            "COMPLETE", "PRELIMINARY", "UNVERIFIED",
        )  # fmt: skip
        assert ds.SOPClassUID == {
            "comprehensive3d": Comprehensive3DSRStorage, "comprehensive": ComprehensiveSRStorage,
        }[variant.sr_class]  # fmt: skip
        for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "AccessionNumber", "StudyDate"):
            assert ds[keyword].value == header[keyword].value
        assert (ds.Modality, ds.Manufacturer, ds.SeriesNumber) == ("SR", MANUFACTURER, 9101)
        assert "NOT FOR DIAGNOSTIC USE" in ds.SeriesDescription
        title = ds.ConceptNameCodeSequence[0]
        assert (title.CodeValue, title.CodingSchemeDesignator) == ("126000", "DCM")
        node = [item for item in ds.ContributingEquipmentSequence if item.Manufacturer == MANUFACTURER]
        assert PROVENANCE.model_digest in node[0].ContributionDescription
        series.add(ds.SeriesInstanceUID)
        instances.add(ds.SOPInstanceUID)
    assert len(series) == len(instances) == len(SR_FORMS)


@pytest.mark.parametrize("abnormal", [True, False, None])
def test_the_same_job_gives_the_same_bytes(abnormal: bool | None) -> None:
    header = parsed(radiograph())
    assert written(header, lesion(SHAPE, abnormal)) == written(header, lesion(SHAPE, abnormal))
    other = dataclasses.replace(PROVENANCE, job_key="6e" * 32)
    uids = [dcmread(BytesIO(written(header, provenance=each))).SOPInstanceUID for each in (PROVENANCE, other)]
    assert uids[0] != uids[1]


def test_the_observer_is_the_device_with_its_model() -> None:
    (observer,) = content(written(parsed(radiograph()))).get_observer_contexts()
    device = observer.observer_identifying_attributes
    assert observer.observer_type == codes.cid270.Device
    assert (device.manufacturer_name, device.model_name) == (MANUFACTURER, "CheX-Nomaly")
    assert device.serial_number == PROVENANCE.model_digest


@pytest.mark.parametrize("variant", [DEFAULT, SrForm("comprehensive", "contour", "none")], ids=str)
def test_highdicom_reads_every_region_back(variant: SrForm) -> None:
    mask = np.zeros((240, 200), bool)
    mask[20:60, 130:170] = True
    mask[100:103, 20:70] = True
    mask[200:220, 90:110] = True
    findings = found(mask)
    data = written(parsed(radiograph("CR", mask.shape)), findings, variant)
    for number, (group, region) in enumerate(zip(outlined(data), findings.regions, strict=True), 1):
        assert group.tracking_uid == tracking_uid(PROVENANCE.job_key, number)
        assert group.tracking_identifier == f"Abnormality {number}"
        assert (group.finding_category, group.finding_type) == (
            codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.MorphologicallyAbnormalStructure,
        )  # fmt: skip
        (certainty,) = group.get_measurements()
        assert (certainty.name, certainty.unit) == (codes.DCM.CertaintyOfFinding, codes.UCUM.Percent)
        assert certainty.value == pytest.approx(100 * region.peak, abs=0.005)
        box = region.box
        if variant.outline == "box":
            corners = [[box.x0, box.y0], [box.x1, box.y0], [box.x1, box.y1], [box.x0, box.y1], [box.x0, box.y0]]
            assert group.roi.value.tolist() == corners
        else:
            assert np.array_equal(group.roi.value, outline(mask, region))
        assert group.roi.graphic_type.value == "POLYLINE"
        sites = [(site.value, site.laterality) for site in group.finding_sites]
        sides = (codes.cid244.Left, codes.cid244.Right, None)
        assert sites == [(codes.SCT.Thorax, sides[number - 1])]


def test_the_algorithm_is_named_with_each_region() -> None:
    for group in outlined(written(parsed(radiograph()))):
        said = {
            item.ConceptNameCodeSequence[0].CodeValue: item.get("TextValue") or item.ConceptCodeSequence[0].CodeMeaning
            for item in group[0].ContentSequence
            if item.ConceptNameCodeSequence[0].CodeValue in ("111000", "111001", "111003")
        }
        assert said == {"111000": "Artificial Intelligence", "111001": "CheX-Nomaly", "111003": "1.2.3"}
        parameters = [item.TextValue for item in group[0].ContentSequence if item.name.value == "111002"]
        assert f"weights_sha256={PROVENANCE.model_digest}" in parameters


@pytest.mark.parametrize("profile", get_args(SegProfile))
@pytest.mark.parametrize("several", [False, True])
def test_the_segment_is_tracked_and_referred_to(profile: Any, several: bool) -> None:
    findings = lesion(SHAPE)
    if several:
        assert findings.mask is not None
        findings.mask[90, 3] = True
        findings = found(findings.mask)
    seg = encode_seg(sanitise(parsed(radiograph())), findings, PROVENANCE, profile)
    data = written(parsed(radiograph()), findings, SrForm(seg_profile=profile))
    for number, _region in enumerate(findings.regions, 1):
        outline, segment = content(data).get_planar_roi_measurement_groups(
            tracking_uid=tracking_uid(PROVENANCE.job_key, number)
        )
        assert outline.reference_type == codes.DCM.ImageRegion
        assert segment.reference_type == codes.DCM.ReferencedSegmentationFrame
        (item, source_image) = segment.referenced_segmentation_frame
        frame = item.ReferencedSOPSequence[0]
        assert (frame.ReferencedSOPInstanceUID, frame.ReferencedFrameNumber) == (seg.SOPInstanceUID, 1)
        assert "ReferencedSegmentNumber" not in frame
        assert source_image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == radiograph().SOPInstanceUID
        of_segment = item.ContentSequence[0].UID if several else segment.tracking_uid
        assert of_segment == seg.SegmentSequence[0].TrackingUID
        assert segment.get_measurements() == []
    assert (seg.StudyInstanceUID, seg.SeriesInstanceUID, seg.SOPInstanceUID, seg.SOPClassUID) in [
        tuple(map(str, each)) for each in srread(BytesIO(data)).get_evidence()
    ]


def test_without_a_segmentation_there_is_no_reference_to_one() -> None:
    data = written(parsed(radiograph()), variant=SrForm())
    assert len(content(data).get_planar_roi_measurement_groups()) == 1
    assert [uid for *_, uid, _class in srread(BytesIO(data)).get_evidence()] == [radiograph().SOPInstanceUID]


@pytest.mark.parametrize(
    ("findings", "name", "value", "said"),
    [
        (lesion(SHAPE, False, 0.12), PRESENCE, codes.cid240.Absent, "NO ABNORMALITY MARKED"),
        (lesion(SHAPE, None), SUMMARY, FAILED, "NOT EVALUATED: unlike the images that the AI learnt from"),
        (
            Findings(None, None, (), 0.9, True, "m"), PRESENCE, codes.cid240.Present,
            "ABNORMAL, but nothing can be outlined",
        ),
    ],
)  # fmt: skip
def test_an_image_without_a_region_is_absent_or_present_or_failed(
    findings: Findings, name: Any, value: Any, said: str
) -> None:
    data = written(parsed(radiograph()), findings)
    assert content(data).get_planar_roi_measurement_groups() == []
    assert dcmread(BytesIO(data)).ConceptNameCodeSequence[0].CodeValue == "112000"  # OHIF shows words then
    (group,) = content(data).get_image_measurement_groups()
    assert [each.value for each in group.get_qualitative_evaluations(name)] == [value]
    assert group.get_qualitative_evaluations({PRESENCE: SUMMARY, SUMMARY: PRESENCE}[name]) == []
    assert [image.value[1] for image in group.source_images] == [radiograph().SOPInstanceUID]
    assert group.get_measurements() == []
    assert said in words(data)


def test_not_evaluated_says_nothing_of_a_finding() -> None:
    data = written(parsed(radiograph()), lesion(SHAPE, None))
    (group,) = content(data).get_image_measurement_groups()
    assert (group.finding_type, group.finding_category) == (None, None)
    assert not any("No finding" in line for line in words(data))


@pytest.mark.parametrize("abnormal", [True, False, None])
def test_every_report_says_that_it_is_not_for_diagnosis(abnormal: bool | None) -> None:
    data = written(parsed(radiograph()), lesion(SHAPE, abnormal))
    answer, *_details, warning, model = words(data)  # what it says comes first
    assert (answer != DISCLAIMER, warning, model[-17:]) == (True, DISCLAIMER, "CheX-Nomaly 1.2.3")
    equipment = dcmread(BytesIO(data)).ContributingEquipmentSequence
    assert any("weights SHA-256 0123456789ab" in str(item.get("ContributionDescription")) for item in equipment)


LEFT_HALF, RIGHT_HALF, MIDDLE, WIDE = Box(2, 10, 30, 30), Box(50, 10, 78, 30), Box(38, 40, 43, 60), Box(20, 5, 60, 20)
UPPER, LOWER = Box(30, 2, 50, 40), Box(30, 60, 50, 90)


@pytest.mark.parametrize(
    ("orientation", "box", "expected"),
    [
        (["L", "F"], LEFT_HALF, "right"),
        (["L", "F"], RIGHT_HALF, "left"),
        (["R", "F"], LEFT_HALF, "left"),  # mirrored
        (["R", "F"], RIGHT_HALF, "right"),
        (["L", "H"], LEFT_HALF, "right"),  # upside down
        (["LA", "FP"], RIGHT_HALF, "left"),  # oblique within its letters
        (["F", "R"], UPPER, "left"),  # lying on its side
        (["F", "R"], LOWER, "right"),
        (["H", "L"], UPPER, "right"),
        (["F", "R"], Box(2, 10, 30, 90), None),
        (["L", "F"], MIDDLE, None),
        (["L", "F"], WIDE, None),
        (["L", "F"], Box(10, 10, 37, 20), None),  # reaches where the midline may be
        (["A", "F"], LEFT_HALF, None),  # a lateral view
        (["L", "P"], LEFT_HALF, None),  # no frontal view
        ([], LEFT_HALF, None),
        (["L"], LEFT_HALF, None),
        (["L", "L"], LEFT_HALF, None),
        (["LR", "F"], LEFT_HALF, None),
        (["X", "Y"], LEFT_HALF, None),
    ],
)
def test_the_side_follows_patient_orientation(orientation: list[str], box: Box, expected: Side | None) -> None:
    source = sanitise(parsed(radiograph("CR", SHAPE, PatientOrientation=orientation or None)))
    assert side(source, box) == expected


@pytest.mark.parametrize(
    ("orientation", "laterality"), [(["L", "F"], codes.cid244.Left), (["R", "F"], codes.cid244.Right), (None, None)]
)
@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [(97, 83), (3000, 2500)])
def test_a_lesion_keeps_its_place_however_the_image_is_turned(
    shape: tuple[int, int], photometric_interpretation: str, orientation: list[str] | None, laterality: Any
) -> None:
    header = radiograph("DX", shape, photometric_interpretation, PatientOrientation=orientation)
    header.ImagerPixelSpacing = [0.1, 0.3]
    box = lesion(shape).regions[0].box
    (group,) = outlined(written(parsed(header), variant=SrForm(outline="contour")))
    assert group.roi.value.min(axis=0).tolist() == [box.x0, box.y0]
    assert group.roi.value.max(axis=0).tolist() == [box.x1, box.y1]
    (site,) = group.finding_sites
    assert site.laterality == laterality
    assert site.value == codes.SCT.Thorax


@pytest.mark.parametrize(
    ("attributes", "area"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.1]}, None),  # of nobody knows what
        ({"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "GEOMETRY"}, 0.02),
        ({"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "FIDUCIAL"}, 0.02),
        ({"PixelSpacing": [0, 0], "PixelSpacingCalibrationType": "FIDUCIAL"}, None),
        ({"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "GUESS"}, None),
        ({"PixelSpacingCalibrationType": "GEOMETRY"}, None),
    ],
)
def test_an_area_needs_a_calibrated_spacing(attributes: dict[str, Any], area: float | None) -> None:
    (group,) = outlined(written(parsed(radiograph("DX", **attributes))))
    areas = group.get_measurements(codes.SCT.Area)
    if area is None:
        assert areas == []
    else:
        assert areas[0].unit == codes.UCUM.SquareMillimeter
        assert areas[0].value == pytest.approx(area * lesion(SHAPE).regions[0].area)


def test_the_library_tells_what_is_known_of_the_image() -> None:
    def known(header: Dataset) -> dict[str, Any]:
        root = dcmread(BytesIO(written(parsed(header))))
        (library,) = (i for i in root.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "111028")
        (image,) = library.ContentSequence[0].ContentSequence
        return {
            item.ConceptNameCodeSequence[0].CodeMeaning: item.get("TextValue")
            or (item.MeasuredValueSequence[0].NumericValue if "MeasuredValueSequence" in item else None)
            or item.ConceptCodeSequence[0].CodeValue
            for item in image.ContentSequence
        }

    assert known(radiograph("DX")) == {
        "Modality": "DX", "Pixel Data Rows": 96, "Pixel Data Columns": 80, "Patient Orientation Row": "L",
        "Patient Orientation Column": "F", "Horizontal Pixel Spacing": 0.14, "Vertical Pixel Spacing": 0.15,
    }  # fmt: skip
    bare = radiograph("CR", ImagerPixelSpacing=None, PatientOrientation=None, Modality="XX")
    assert known(bare) == {"Pixel Data Rows": 96, "Pixel Data Columns": 80}


def test_a_private_class_is_named_everywhere() -> None:
    private = "1.3.46.670589.11.0.0.12.1"
    data = written(parsed(radiograph("CR", SOPClassUID=private)))
    assert {str(c) for *_, c in srread(BytesIO(data)).get_evidence()} == {private, "1.2.840.10008.5.1.4.1.1.66.4"}
    (group,) = outlined(data)
    assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPClassUID == private


@settings(max_examples=20, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(2, 9), st.integers(2, 9))))
def test_any_regions_are_told_and_read_back(mask: NDArray[np.bool_]) -> None:
    if not mask.any():
        mask[0, 0] = True
    findings = found(mask)
    header = parsed(radiograph("CR", mask.shape))
    for variant in (DEFAULT, SrForm(outline="contour")):
        groups = outlined(written(header, findings, variant))
        assert len(groups) == len(findings.regions)
        for group, region in zip(groups, findings.regions, strict=True):
            points = group.roi.value
            assert np.array_equal(points[0], points[-1])
            box = region.box
            assert (points >= (box.x0, box.y0)).all()
            assert (points <= (box.x1, box.y1)).all()


def test_a_mask_that_contradicts_its_regions_or_the_source_is_refused() -> None:
    source, findings = sanitise(parsed(radiograph())), lesion(SHAPE)
    with pytest.raises(ValueError, match="source image"):
        encode_sr(source, lesion((80, 96)), PROVENANCE, DEFAULT)
    elsewhere = dataclasses.replace(findings, regions=(Region(Box(0, 0, 4, 4), 16, 0.9, 0.9),))
    with pytest.raises(ValueError, match="no region"):
        encode_sr(source, elsewhere, PROVENANCE, SrForm(outline="contour"))


def _group(ds: Dataset, number: int = 0) -> Dataset:
    (measurements,) = (i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return measurements.ContentSequence[number]


def _item(ds: Dataset, value_type: str) -> Dataset:
    return next(item for item in _group(ds).ContentSequence if item.ValueType == value_type)


def _final(ds: Dataset) -> None:
    ds.PreliminaryFlag = "FINAL"


def _certain(ds: Dataset) -> None:
    _item(ds, "NUM").MeasuredValueSequence[0].FloatingPointValue = 99.0


def _moved(ds: Dataset) -> None:
    _item(ds, "SCOORD").GraphicData[0] += 1


def _elsewhere(ds: Dataset) -> None:
    _item(ds, "SCOORD").ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _untracked(ds: Dataset) -> None:
    _item(ds, "UIDREF").UID = "1.2.3"


def _without_evidence(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[1]


def _without_region(ds: Dataset) -> None:
    (measurements,) = (i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    del measurements.ContentSequence[0]


@pytest.mark.parametrize(
    "damage", [_final, _certain, _moved, _elsewhere, _untracked, _without_evidence, _without_region]
)
def test_what_is_wrong_does_not_pass(damage: Callable[[Dataset], None]) -> None:
    ds = dcmread(BytesIO(written(parsed(radiograph()))))
    damage(ds)
    with pytest.raises(InvalidResult):
        check_sr(ds, sanitise(parsed(radiograph())), lesion(SHAPE), PROVENANCE, DEFAULT)


@pytest.mark.parametrize("abnormal", [True, False, None])
@pytest.mark.parametrize("other", [True, False, None])
def test_no_answer_passes_for_another(abnormal: bool | None, other: bool | None) -> None:
    ds = dcmread(BytesIO(written(parsed(radiograph()), lesion(SHAPE, abnormal))))
    source = sanitise(parsed(radiograph()))
    if abnormal is other:
        check_sr(ds, source, lesion(SHAPE, other), PROVENANCE, DEFAULT)
    else:
        with pytest.raises(InvalidResult):
            check_sr(ds, source, lesion(SHAPE, other), PROVENANCE, DEFAULT)


@pytest.mark.parametrize("abnormal", [True, False, None])
@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
def test_dciodvfy_has_no_complaint(kind: Kind, abnormal: bool | None) -> None:
    header = parsed(radiograph(kind, (97, 83)))
    for variant in SR_FORMS[::3]:
        assert dciodvfy(written(header, lesion((97, 83), abnormal), variant)) == [], str(variant)


@pytest.mark.parametrize(
    ("abnormal", "attributes", "variant"),
    [
        (True, {}, DEFAULT),
        pytest.param(True, BARE, SrForm("comprehensive", "contour"), marks=pytest.mark.long),
        pytest.param(False, {}, DEFAULT, marks=pytest.mark.long),
    ],
)
def test_dicom_sr_validator_finds_no_error(abnormal: bool | None, attributes: dict[str, Any], variant: SrForm) -> None:
    assert dicom_sr_validator(written(parsed(radiograph("CR", **attributes)), lesion(SHAPE, abnormal), variant)) == []


@pytest.mark.parametrize("abnormal", [pytest.param(False, marks=pytest.mark.long), None])
def test_a_report_in_words_follows_the_template_but_for_its_title(abnormal: bool | None) -> None:
    ds = dcmread(BytesIO(written(parsed(radiograph("CR", **GEOMETRY)), lesion(SHAPE, abnormal))))
    # It takes CID 7021 for the whole list of titles, and looks no further below another one.
    ds.ConceptNameCodeSequence = [CodedConcept.from_code(codes.cid7021.ImagingMeasurementReport)]
    assert dicom_sr_validator(to_bytes(ds)) == []


def test_dicom_sr_validator_does_complain() -> None:
    ds = dcmread(BytesIO(written(parsed(radiograph()))))
    del _item(ds, "SCOORD").ContentSequence
    (error,) = dicom_sr_validator(to_bytes(ds))
    assert "Missing required content item" in error


@pytest.mark.parametrize("abnormal", [False, None])
def test_real_radiographs_without_a_finding_have_valid_reports(abnormal: bool | None, shared: Path) -> None:
    paths = sorted((shared / "data" / "dicom" / "chest").glob("*.dcm"))
    assert paths
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        data = written(header, lesion((header.Rows, header.Columns), abnormal))
        assert unexplained(data, path.read_bytes()) == [], path.name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_in_any_character_set_survive(shared: Path) -> None:
    paths = sorted((shared / "data" / "dicom" / "charset").glob("*.dcm"))
    assert paths
    for path in paths:
        header = dcmread(path, stop_before_pixels=True, force=True)
        name = sanitise(header).ds.PatientName
        header.Rows, header.Columns = SHAPE
        ds = dcmread(BytesIO(written(header)))
        assert (ds.SpecificCharacterSet, ds.PatientName) == ("ISO_IR 192", name), path.name
