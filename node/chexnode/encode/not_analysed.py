"""The report of what a study holds that was not analysed, and why, so that a missing answer never looks like a normal.

A TID 1500 Measurement Report like the findings', with one group (TID 1501) for each instance: Summary of Analyses is
Not Attempted or Failed (CID 6042), and the reason is a code of our own scheme and a sentence for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Literal

from highdicom import ContributingEquipment
from highdicom.sr import (
    CompositeContentItem,
    ContentItem,
    ImageContentItem,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from chexnode.encode.provenance import (
    DISCLAIMER,
    MANUFACTURER,
    SCHEME,
    derived_uid,
    long_string,
    private_scheme,
    result_uid,
)
from chexnode.encode.report import Device, Group, Naming, Reference, report
from chexnode.encode.source import Source
from chexnode.encode.verify import modules
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.series import OUR_NAMES, SeriesNames
from chexnode.vocabulary.states import JobState
from chexnode.vocabulary.variants import NotAnalysedForm, SrClass, Variant

Cause = Reason | Literal[JobState.FAILED, JobState.CANCELLED]

#: For this there is no public code.
REASON = Code("reason", SCHEME, "Reason for the absence of an analysis")
#: Code meanings by code value, at most 64 characters (LO).
MEANINGS: Mapping[Cause, str] = {
    Reason.MODALITY: "Modality is not CR, DX or RG",
    Reason.SOP_CLASS: "Not an object that holds one radiograph",
    Reason.FOR_PROCESSING: "Raw image, not for presentation",
    Reason.COLOUR: "Colour image",
    Reason.MULTI_FRAME: "More than one frame",
    Reason.NO_PIXEL_DATA: "No pixel data",
    Reason.SITE_RULE: "Left out by a rule of the site",
    Reason.LATERAL_VIEW: "Lateral view",
    Reason.OBLIQUE_VIEW: "Oblique view",
    Reason.BODY_PART: "Not of the chest",
    Reason.NON_HUMAN: "Not of a human being",
    Reason.AI_RESULT: "Made by an algorithm",
    Reason.PROCESSED: "Processed or quality control image",
    Reason.UNDER_AGE: "Patient too young",
    Reason.VIEW_UNKNOWN: "View not stated",
    Reason.BODY_PART_UNKNOWN: "Body part not stated",
    Reason.MALFORMED: "Data set cannot be read to its end",
    Reason.INVALID_UID: "Invalid UID",
    Reason.SOP_CLASS_MISMATCH: "Not of the SOP class it was sent as",
    Reason.IMAGE_ATTRIBUTES: "Description of the pixels is absent or contradictory",
    Reason.TOO_DEEP: "Data set nested too deeply or too large",
    Reason.UNDECODABLE: "Pixel data cannot be decoded",
    Reason.PIXEL_SIZE: "Pixel data has another size than stated",
    Reason.DECODE_LIMIT: "Decoding took too much time or memory",
    Reason.CONSTANT: "Picture is blank",
    Reason.NOISE: "Picture is noise, not a radiograph",
    Reason.OUT_OF_SCOPE: "Not a radiograph of the chest",
    Reason.TOO_SMALL: "Picture is too small",
    Reason.SOURCE_MISSING: "Stored image was lost before it was analysed",
    Reason.SAME_IMAGE: "The same image has results",
    Reason.LATER_VERSION: "A later version of the image has results",
    JobState.FAILED: "Analysis failed",
    JobState.CANCELLED: "Analysis was cancelled",
}
SUMMARY, FAILED, NOT_ATTEMPTED = codes.DCM.SummaryOfAnalyses, codes.DCM.Failed, codes.DCM.NotAttempted

_CONTAINS = RelationshipTypeValues.CONTAINS


@dataclass(frozen=True, slots=True)
class NotAnalysed:
    """One instance of the study without an analysis."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    """If one of the three is no valid UID (PS3.5 section 9.1) the instance is told of, but not referred to."""
    cause: Cause
    words: str = ""
    """What more is to be said, such as the offending value; one line, no patient data."""

    @property
    def reason(self) -> Code:
        """The cause as a code."""
        return Code(self.cause.value.lower(), SCHEME, MEANINGS[self.cause])


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the report says of its making."""

    software_version: str
    created_at: datetime
    """Aware; the one moment that all times in the report come from."""
    series: SeriesNames = OUR_NAMES
    label: str = ""
    """What the destination's results are marked with; part of the UIDs. Empty: nothing."""


def encode_not_analysed(
    study: Source, images: Sequence[NotAnalysed], identity: str, node: NodeFacts, sr_class: SrClass = "comprehensive3d"
) -> Dataset:
    """Return the report of ``images``, at least one, in the order given; all are of the study of ``study``.

    ``study`` is the sanitised header of any image of the study: only its patient and study are used. ``identity`` is
    what the UIDs derive from: the same for the same study, images and causes, another one as soon as they change.
    Raises ValueError without images.
    """
    if not images:
        raise ValueError("there is no report of nothing")
    variant = Variant(NotAnalysedForm(sr_class), node.label)

    def uid(part: str) -> str:
        return result_uid(identity, variant, part)

    name = node.series.not_analysed
    referable = [image for image in images if _is_referable(image)]
    evidence = [Reference(i.sop_class_uid, i.sop_instance_uid, i.series_instance_uid) for i in referable]
    ds = report(
        study,
        Naming(uid("instance"), uid("series"), name.number, " ".join(filter(None, (node.label, name.description)))),
        _device(node),
        node.created_at,
        sr_class,
        [_group(image, number, uid(f"tracking {number}")) for number, image in enumerate(images, 1)],
        (DISCLAIMER, *_sentences(images)),
        evidence or [Reference(study.ds.SOPClassUID, study.ds.SOPInstanceUID, study.ds.SeriesInstanceUID)],
    )
    ds.CodingSchemeIdentificationSequence = [private_scheme()]
    return ds


def _sentences(images: Iterable[NotAnalysed]) -> Iterable[str]:
    for number, image in enumerate(images, 1):
        said = f" ({image.words.strip()})" if image.words.strip() else ""
        yield f"Image {number} NOT ANALYSED: {MEANINGS[image.cause]}{said}. SOP Instance UID {image.sop_instance_uid}"


def _group(image: NotAnalysed, number: int, tracking_uid: str) -> Group:
    summary = FAILED if image.cause is JobState.FAILED else NOT_ATTEMPTED
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking_uid, f"Image {number}"),
        qualitative_evaluations=[QualitativeEvaluation(SUMMARY, summary), QualitativeEvaluation(REASON, image.reason)],
    )
    if _is_referable(image):
        group[0].ContentSequence.append(_reference(image))
    return group


def _reference(image: NotAnalysed) -> ContentItem:
    """Return an IMAGE item where the SOP class is known to be one of images, else a COMPOSITE item."""
    kind = ImageContentItem if _has_pixels(image.sop_class_uid) else CompositeContentItem
    return kind(codes.DCM.SourceOfMeasurement, image.sop_class_uid, image.sop_instance_uid, relationship_type=_CONTAINS)


def _has_pixels(sop_class_uid: str) -> bool:
    try:
        return any(module.name == "image-pixel" for module in modules(sop_class_uid))
    except KeyError:  # private, retired or newer than the tables
        return False


def _is_referable(image: NotAnalysed) -> bool:
    return all(UID(u).is_valid for u in (image.sop_class_uid, image.sop_instance_uid, image.series_instance_uid))


def _device(node: NodeFacts) -> Device:
    software = long_string(f"{MANUFACTURER} {node.software_version}")
    return Device(
        uid=derived_uid(sha256(f"node\0{node.software_version}".encode()).digest()),
        model_name=MANUFACTURER,
        software_versions=[software],
        serial_number=None,
        equipment=ContributingEquipment(
            manufacturer=MANUFACTURER,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=MANUFACTURER,
            software_versions=[software],
            contribution_datetime=node.created_at.strftime("%Y%m%d%H%M%S.%f%z"),
            contribution_description=f"Decided which images are analysed. {DISCLAIMER}.",
        ),
    )
