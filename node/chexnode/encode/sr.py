"""The findings as a Structured Report: TID 1500 Measurement Report (PS3.16), as IHE AI Results asks for.

Each region is a TID 1410 group of its own: finding, site, algorithm, certainty, and its outline as a closed polyline in
the source's pixels, which is what viewers draw. If the destination has the Segmentation too, a second group of the same
Tracking UID points to it, because OHIF puts groups together by that UID and fails over what then has no coordinates.
Several regions share the one segment, which has a Tracking UID of its own: it stands below the reference.

Without a finding the report says Absent, and without an answer that the analysis failed and why; neither looks like the
other. Only groups with an outline hold numbers, because OHIF looks for coordinates beside each number.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    FindingSite,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegmentationFrame,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    SourceImageForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from chexmodels.finding import Box, Findings, Region
from chexnode.encode.caption import caption, has_finding, present
from chexnode.encode.class_codes import class_code
from chexnode.encode.contours import outline
from chexnode.encode.provenance import (
    ABNORMALITY,
    ARTIFICIAL_INTELLIGENCE,
    CATEGORY,
    MANUFACTURER,
    SCHEME,
    THORAX,
    Provenance,
    derived_uid,
    equipment,
    long_string,
    private_scheme,
    software_versions,
    tracking_uid,
)
from chexnode.encode.report import Device, Group, Naming, Reference, report
from chexnode.encode.seg import segment_tracking_uid
from chexnode.encode.source import Source
from chexnode.vocabulary.variants import SegForm, SrForm, SrOutline

LATERALITY = {"left": codes.cid244.Left, "right": codes.cid244.Right}
#: Score of the image as a whole and what decides on it, both in per cent of the same scale; DCM has no such concepts.
#: Of the image as a whole: its score, and the score from which it is called abnormal.
IMAGE_SCORE, IMAGE_THRESHOLD = codes.DCM.CertaintyOfImpression, codes.DCM.ThresholdValue
PRESENCE = Code("705057003", "SCT", "Presence")
#: Status of Results (CID 6042) of an image that was analysed without an answer.
SUMMARY, FAILED = codes.DCM.SummaryOfAnalyses, codes.DCM.Failed

#: Acquisition Modality (CID 29) of what may be analysed.
MODALITIES = {
    "CR": codes.cid29.ComputedRadiography,
    "DX": codes.cid29.DigitalRadiography,
    "RG": codes.cid29.RadiographicImaging,
}
SOURCE = Code("260753009", "SCT", "Source")
PIXELS = Code("{pixels}", "UCUM", "Pixels")

_ACQUISITION, _CONTAINS = RelationshipTypeValues.HAS_ACQ_CONTEXT, RelationshipTypeValues.CONTAINS

Side = Literal["left", "right"]

#: Share of the image's width on either side of its middle where the patient's midline may well be. A region that
#: reaches into it has no side: patients stand off centre, and the heart and the mediastinum are of neither lung.
MIDLINE = 0.05


REPLACES = "This report replaces an earlier one of the same image."


def encode_sr(source: Source, findings: Findings, provenance: Provenance, form: SrForm) -> Dataset:
    """Return the report of ``findings``; its mask is (rows, columns) bool in source pixels.

    Raises ValueError if the mask is not of the source's size or has not the regions that it should have.
    """
    image = Reference(source.ds.SOPClassUID, source.ds.SOPInstanceUID, source.ds.SeriesInstanceUID)
    evidence = [image]
    groups: list[Group] = []
    if has_finding(findings) and findings.regions:
        assert findings.mask is not None
        if findings.mask.shape != (source.rows, source.columns):
            raise ValueError(f"mask is {findings.mask.shape}, the source image {(source.rows, source.columns)}")
        for number, region in enumerate(findings.regions, 1):
            points = polyline(findings.mask, region, form.outline)
            groups.append(_region_group(source, provenance, number, region, points))
        if form.seg_profile is not None:
            segmentation = Reference(
                SegmentationStorage,
                provenance.uid(SegForm(form.seg_profile)),
                provenance.uid(SegForm(form.seg_profile), "series"),
            )
            evidence.append(segmentation)
            groups.extend(
                _segment_group(image, findings, provenance, number, segmentation)
                for number, _region in enumerate(findings.regions, 1)
            )
    else:
        groups.append(_image_group(image, findings, provenance))
    texts = caption(findings, provenance)
    replaced = [REPLACES] if provenance.predecessors else []
    classes = class_evaluations(findings, provenance)
    ds = report(
        source,
        Naming(
            provenance.uid(form),
            provenance.uid(form, "series"),
            source.numbered(provenance.series.sr.number),
            provenance.series_description(provenance.series.sr, source.mark),
        ),
        _device(provenance),
        provenance.created_at,
        form.sr_class,
        groups,
        [*(line.text for line in (*texts.below, *texts.above)), *replaced],
        evidence,
        image_library(source),
        [*image_numbers(findings, provenance), *classes],
        provenance.predecessors,
    )
    if any(item.name.scheme_designator == SCHEME for item in classes):
        ds.CodingSchemeIdentificationSequence = [private_scheme()]
    return ds


def image_numbers(findings: Findings, provenance: Provenance) -> list[NumContentItem]:
    """Return the image's score and the threshold that decided, in per cent; nothing where there is no answer."""
    if findings.abnormal is None:
        return []
    numbers = [(IMAGE_SCORE, findings.score), (IMAGE_THRESHOLD, provenance.image_threshold)]
    return [
        NumContentItem(name, round(value * 100, 2), codes.UCUM.Percent, relationship_type=_CONTAINS)
        for name, value in numbers
        if value is not None
    ]


def polyline(mask: NDArray[np.bool_], region: Region, shape: SrOutline) -> NDArray[np.float32]:
    """Return the closed outline of ``region``: (points, 2) float32 column and row, in PS3.3 C.18.6.1.2's coordinates.

    The corners of the pixels' own squares count: (0, 0) is the top left of the image's first pixel.
    """
    if shape == "box":
        x0, y0, x1, y1 = region.box.x0, region.box.y0, region.box.x1, region.box.y1
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], np.float32)
    return outline(mask, region)


def _region_group(
    source: Source, provenance: Provenance, number: int, region: Region, points: NDArray[np.float32]
) -> Group:
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking_uid(provenance.job_key, number), f"Abnormality {number}"),
        referenced_region=ImageRegion(
            "POLYLINE", points, SourceImageForRegion(source.ds.SOPClassUID, source.ds.SOPInstanceUID)
        ),
        finding_category=CATEGORY,
        finding_type=ABNORMALITY,
        finding_sites=[_site(source, region)],
        algorithm_id=_algorithm(provenance),
        measurements=measurements(source, region),
    )


def _site(source: Source, region: Region) -> FindingSite:
    """Return the thorax, and its side where that is known; in which organ it lies nobody said."""
    known = side(source, region.box)
    return FindingSite(THORAX) if known is None else FindingSite(THORAX, LATERALITY[known])


def side(source: Source, box: Box) -> Side | None:
    """Return the patient's side that ``box`` is wholly on, by Patient Orientation (PS3.3 C.7.6.1.1.1).

    Of a frontal radiograph, flipped or turned by a right angle or not: one direction must run mainly to the patient's
    left or right and the other mainly to head or feet. None for any other view, without an orientation, and near the
    middle of the image.
    """
    directions = [str(direction) for direction in source.ds.get("PatientOrientation") or ()]
    if len(directions) != 2:
        return None
    row, column = (direction[0] for direction in directions)
    if row in "LR" and column in "HF":
        towards, low, high = row, box.x0 / source.columns, box.x1 / source.columns
    elif column in "LR" and row in "HF":
        towards, low, high = column, box.y0 / source.rows, box.y1 / source.rows
    else:
        return None
    if low >= 0.5 + MIDLINE:
        return "left" if towards == "L" else "right"
    if high <= 0.5 - MIDLINE:
        return "right" if towards == "L" else "left"
    return None


def measurements(source: Source, region: Region) -> list[Measurement]:
    """Return the certainty, and the area where the image is calibrated to the size of what it shows.

    Without that, millimetres would be those on the detector, where a lesion is magnified by nobody knows how much.
    """
    found = [Measurement(codes.DCM.CertaintyOfFinding, round(region.peak * 100, 2), codes.UCUM.Percent)]
    if source.calibrated_spacing is not None:
        row, column = source.calibrated_spacing
        found.append(Measurement(codes.SCT.Area, round(region.area * row * column, 2), codes.UCUM.SquareMillimeter))
    return found


def _segment_group(
    image: Reference, findings: Findings, provenance: Provenance, number: int, segmentation: Reference
) -> Group:
    frame = ReferencedSegmentationFrame(
        segmentation.sop_class_uid,
        segmentation.sop_instance_uid,
        frame_number=1,
        segment_number=1,
        source_image=SourceImageForSegmentation(image.sop_class_uid, image.sop_instance_uid),
    )
    # highdicom writes both numbers; only one may be there (PS3.3 table 10-3).
    del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    if len(findings.regions) > 1:
        frame[0].ContentSequence = ContentSequence(
            [
                UIDRefContentItem(
                    codes.DCM.TrackingUniqueIdentifier,
                    segment_tracking_uid(findings, provenance),
                    RelationshipTypeValues.HAS_ACQ_CONTEXT,
                )
            ]
        )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking_uid(provenance.job_key, number), f"Abnormality {number}"),
        referenced_segment=frame,
        finding_category=CATEGORY,
        finding_type=ABNORMALITY,
    )


def _image_group(image: Reference, findings: Findings, provenance: Provenance) -> Group:
    """Return what is said of the image as a whole: absent, present but nowhere, or not evaluated and why."""
    if findings.abnormal is None:
        evaluation = QualitativeEvaluation(SUMMARY, FAILED)  # why is said in words, under Qualitative Evaluations
    else:
        presence = codes.cid240.Present if findings.abnormal else codes.cid240.Absent
        evaluation = QualitativeEvaluation(PRESENCE, presence)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking_uid(provenance.job_key), "Abnormality"),
        finding_category=CATEGORY if findings.abnormal else None,
        finding_type=ABNORMALITY if findings.abnormal else None,
        finding_sites=[FindingSite(THORAX)],
        algorithm_id=_algorithm(provenance),
        qualitative_evaluations=[evaluation],
        source_images=[SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_instance_uid)],
    )


def class_evaluations(findings: Findings, provenance: Provenance) -> list[CodeContentItem]:
    """Return which classes the model calls present and which absent, highest score first.

    They stand beside the image's numbers, not in a group: OHIF looks for coordinates in every group.
    """
    return [
        CodeContentItem(class_code(name), codes.cid240.Present if is_there else codes.cid240.Absent, _CONTAINS)
        for name, is_there in present(findings, provenance).items()
    ]


def _algorithm(provenance: Provenance) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        name=long_string(provenance.model_name),
        version=long_string(provenance.model_version),
        manufacturer=MANUFACTURER,
        parameters=[
            f"operating_point={provenance.operating_point}",
            f"threshold={provenance.threshold:.4g}",
            f"weights_sha256={provenance.model_digest}",
        ],
        family=ARTIFICIAL_INTELLIGENCE,
    )


def _device(provenance: Provenance) -> Device:
    return Device(
        uid=derived_uid(sha256(f"model\0{provenance.model_digest}".encode()).digest()),
        model_name=long_string(provenance.model_name),
        software_versions=software_versions(provenance),
        serial_number=long_string(provenance.model_digest),
        equipment=equipment(provenance),
    )


def image_library(source: Source) -> ContainerContentItem:
    """Return the Image Library of the one image of ``source``, with its descriptors (TID 1602 and 1603).

    highdicom's own cannot describe a radiograph that lacks Imager Pixel Spacing or Patient Orientation.
    """
    ds = source.ds
    known: list[ContentItem] = []
    if ds.Modality in MODALITIES:
        known.append(CodeContentItem(codes.DCM.Modality, MODALITIES[ds.Modality], _ACQUISITION))
    if "FrameOfReferenceUID" in ds:
        known.append(UIDRefContentItem(codes.DCM.FrameOfReferenceUID, ds.FrameOfReferenceUID, _ACQUISITION))
    known += [_number(codes.DCM.PixelDataRows, source.rows, PIXELS)]
    known += [_number(codes.DCM.PixelDataColumns, source.columns, PIXELS)]
    if "PatientOrientation" in ds:
        row, column = ds.PatientOrientation
        known += [TextContentItem(codes.DCM.PatientOrientationRow, row, _ACQUISITION)]
        known += [TextContentItem(codes.DCM.PatientOrientationColumn, column, _ACQUISITION)]
    if source.spacing:
        vertical, horizontal = source.spacing
        known += [_number(codes.DCM.HorizontalPixelSpacing, horizontal, codes.UCUM.Millimeter)]
        known += [_number(codes.DCM.VerticalPixelSpacing, vertical, codes.UCUM.Millimeter)]
    image = ImageContentItem(SOURCE, ds.SOPClassUID, ds.SOPInstanceUID, relationship_type=_CONTAINS)
    image.ContentSequence = ContentSequence(known)
    return _container(codes.DCM.ImageLibrary, _container(codes.DCM.ImageLibraryGroup, image))


def _number(name: Code, value: float, unit: Code) -> NumContentItem:
    return NumContentItem(name, value, unit, relationship_type=_ACQUISITION)


def _container(name: Code, content: ContentItem) -> ContainerContentItem:
    container = ContainerContentItem(name, relationship_type=_CONTAINS)
    container.ContentSequence = ContentSequence([content])
    return container
