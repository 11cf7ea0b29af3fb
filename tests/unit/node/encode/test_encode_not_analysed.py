"""Reports of what was not analysed: every image with its reason, as a code and in words, and never as a normal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO

import pytest
from highdicom.sr import MeasurementReport, MeasurementsAndQualitativeEvaluations, srread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    BasicTextSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
)

from chexnode.encode import verify as rules
from chexnode.encode.not_analysed import MEANINGS, REASON, SUMMARY, NodeFacts, NotAnalysed, encode_not_analysed
from chexnode.encode.objects import to_bytes
from chexnode.encode.provenance import DISCLAIMER, MANUFACTURER
from chexnode.encode.source import sanitise
from chexnode.encode.sr import PRESENCE
from chexnode.encode.verify import InvalidResult
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.states import JobState
from support.radiographs import parsed, part10, radiograph
from support.reports import check_not_analysed
from support.validators import dciodvfy, dicom_sr_validator, unexplained

STUDY = sanitise(parsed(radiograph()))
NODE = NodeFacts("0.1.0", datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC))
ROOT = "1.2.826.0.1.3680043.8.498"
PRIVATE = "1.3.46.670589.11.0.0.12.1"
LATERAL = NotAnalysed(
    DigitalXRayImageStorageForPresentation, f"{ROOT}.8", f"{ROOT}.2", Reason.LATERAL_VIEW, "View Position LL"
)
NO_UID = NotAnalysed(CTImageStorage, "", "", Reason.INVALID_UID)
IMAGES = (
    LATERAL,
    NotAnalysed(CTImageStorage, f"{ROOT}.9", f"{ROOT}.20", Reason.MODALITY),
    NotAnalysed(BasicTextSRStorage, f"{ROOT}.10", f"{ROOT}.21", Reason.SOP_CLASS_MISMATCH),
    NotAnalysed(PRIVATE, f"{ROOT}.11", f"{ROOT}.22", Reason.UNDECODABLE, "JPEG 2000 is cut off"),
    NotAnalysed(DigitalXRayImageStorageForPresentation, f"{ROOT}.12", f"{ROOT}.2", JobState.FAILED),
    NO_UID,
)


def written(images: tuple[NotAnalysed, ...] = IMAGES, identity: str = "a1", node: NodeFacts = NODE) -> bytes:
    data = to_bytes(encode_not_analysed(STUDY, images, identity, node))
    check_not_analysed(dcmread(BytesIO(data)), images)
    return data


def groups(data: bytes) -> list[MeasurementsAndQualitativeEvaluations]:
    report = srread(BytesIO(data)).content
    assert isinstance(report, MeasurementReport)
    return report.get_image_measurement_groups()


def test_every_cause_has_a_meaning_of_its_own() -> None:
    assert set(MEANINGS) == {*Reason, JobState.FAILED, JobState.CANCELLED}
    assert len(set(MEANINGS.values())) == len(MEANINGS)
    assert max(map(len, MEANINGS.values())) <= 64


def test_every_image_has_its_reason_as_a_code() -> None:
    data = written()
    said = [
        [evaluation.value for name in (SUMMARY, REASON) for evaluation in group.get_qualitative_evaluations(name)]
        for group in groups(data)
    ]
    attempts = [codes.DCM.NotAttempted] * 4 + [codes.DCM.Failed, codes.DCM.NotAttempted]
    values = ["lateral-view", "modality", "sop-class-mismatch", "undecodable", "failed", "invalid-uid"]
    assert said == [
        [attempt, Code(value, "99CHEXNODE", MEANINGS[image.cause])]
        for attempt, value, image in zip(attempts, values, IMAGES, strict=True)
    ]
    assert not any(group.get_qualitative_evaluations(PRESENCE) for group in groups(data))
    (scheme,) = dcmread(BytesIO(data)).CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99CHEXNODE"


def test_every_image_is_referred_to_unless_it_has_no_uid() -> None:
    data = written()
    references = [
        [(item.ValueType, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for item in group[0].ContentSequence
         if "ReferencedSOPSequence" in item]
        for group in groups(data)
    ]  # fmt: skip
    assert references == [
        [("IMAGE", f"{ROOT}.8")], [("IMAGE", f"{ROOT}.9")], [("COMPOSITE", f"{ROOT}.10")],
        [("COMPOSITE", f"{ROOT}.11")], [("IMAGE", f"{ROOT}.12")], [],
    ]  # fmt: skip
    evidence = {tuple(map(str, each)) for each in srread(BytesIO(data)).get_evidence()}
    assert evidence == {
        (STUDY.ds.StudyInstanceUID, i.series_instance_uid, i.sop_instance_uid, i.sop_class_uid) for i in IMAGES[:-1]
    }


def test_only_images_without_uid_can_be_told_of_too() -> None:
    data = written((NO_UID,))
    assert [each[2] for each in srread(BytesIO(data)).get_evidence()] == [STUDY.ds.SOPInstanceUID]
    assert dciodvfy(data) == dciodvfy(written((LATERAL,)))


def test_the_words_name_every_image_and_why() -> None:
    root = dcmread(BytesIO(written()))
    lines = [item.TextValue for item in root.ContentSequence[-1].ContentSequence]
    assert lines[0] == DISCLAIMER
    assert lines[1] == f"Image 1 NOT ANALYSED: Lateral view (View Position LL). SOP Instance UID {ROOT}.8"
    assert lines[5] == f"Image 5 NOT ANALYSED: Analysis failed. SOP Instance UID {ROOT}.12"
    assert len(lines) == 1 + len(IMAGES)
    assert not any("finding" in line.lower() for line in lines)


def test_it_belongs_to_the_study_and_to_a_series_of_its_own() -> None:
    ds = dcmread(BytesIO(written()))
    assert (ds.StudyInstanceUID, ds.PatientID) == (STUDY.ds.StudyInstanceUID, STUDY.ds.PatientID)
    assert (ds.Manufacturer, ds.Modality, ds.SeriesNumber) == (MANUFACTURER, "SR", 9102)
    assert "Not Analysed" in ds.SeriesDescription
    assert (ds.CompletionFlag, ds.PreliminaryFlag, ds.VerificationFlag) == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
    assert ds.ContentTime == "050607.000089"
    assert rules.faults(ds) == []
    comprehensive = encode_not_analysed(STUDY, IMAGES, "a1", NODE, "comprehensive")
    assert comprehensive.SOPClassUID == ComprehensiveSRStorage
    assert comprehensive.SOPInstanceUID != ds.SOPInstanceUID


def test_the_same_identity_gives_the_same_bytes_and_another_another_report() -> None:
    labelled = dataclasses.replace(NODE, label="RESEARCH")
    assert written() == written()
    reports = [dcmread(BytesIO(each)) for each in (written(), written(identity="b2"), written(node=labelled))]
    assert len({ds.SOPInstanceUID for ds in reports}) == len({ds.SeriesInstanceUID for ds in reports}) == 3
    assert reports[2].SeriesDescription.startswith("RESEARCH ")


def test_there_is_no_report_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        encode_not_analysed(STUDY, (), "a1", NODE)


def test_the_carrier_may_be_one_of_the_images_and_of_a_private_class() -> None:
    header = radiograph("CR", SOPClassUID=PRIVATE)
    image = NotAnalysed(PRIVATE, header.SOPInstanceUID, header.SeriesInstanceUID, Reason.SOP_CLASS)
    ds = encode_not_analysed(sanitise(parsed(header)), (image,), "a1", NODE)
    assert [each[3] for each in srread(BytesIO(to_bytes(ds))).get_evidence()] == [PRIVATE]
    assert unexplained(to_bytes(ds), part10(header)) == []


def _final(ds: Dataset) -> None:
    ds.PreliminaryFlag = "FINAL"


def _other_reason(ds: Dataset) -> None:
    for element in ds.iterall():
        if element.keyword == "CodeValue" and element.value == "lateral-view":
            element.value = "colour"


def _one_less(ds: Dataset) -> None:
    (measurements,) = (i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    del measurements.ContentSequence[-1]


@pytest.mark.parametrize("damage", [_final, _other_reason, _one_less])
def test_what_is_wrong_does_not_pass(damage: Callable[[Dataset], None]) -> None:
    ds = dcmread(BytesIO(written()))
    damage(ds)
    with pytest.raises(InvalidResult):
        check_not_analysed(ds, IMAGES)


def test_validators_find_no_error() -> None:
    images = tuple(
        dataclasses.replace(LATERAL, sop_instance_uid=f"{ROOT}.{n}", cause=c) for n, c in enumerate(MEANINGS)
    )
    for each in (IMAGES, images):
        assert unexplained(written(each), part10(radiograph())) == []
    ds = dcmread(BytesIO(written(IMAGES)))
    # It takes CID 7021 for the whole list of titles, and looks no further below another one.
    title = codes.cid7021.ImagingMeasurementReport
    ds.ConceptNameCodeSequence[0].CodeValue, ds.ConceptNameCodeSequence[0].CodeMeaning = title.value, title.meaning
    assert dicom_sr_validator(to_bytes(ds)) == []
