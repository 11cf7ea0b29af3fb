"""The Image Library of a report (TID 1600): the image that it is about, described by what is known of it."""

from __future__ import annotations

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from chexnode.encode.source import Source

#: Acquisition Modality (CID 29) of what may be analysed.
MODALITIES = {
    "CR": codes.cid29.ComputedRadiography,
    "DX": codes.cid29.DigitalRadiography,
    "RG": codes.cid29.RadiographicImaging,
}
SOURCE = Code("260753009", "SCT", "Source")
PIXELS = Code("{pixels}", "UCUM", "Pixels")

_ACQUISITION, _CONTAINS = RelationshipTypeValues.HAS_ACQ_CONTEXT, RelationshipTypeValues.CONTAINS


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
