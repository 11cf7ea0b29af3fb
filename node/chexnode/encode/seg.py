"""The findings as a DICOM Segmentation (PS3.3 A.51): BINARY, one segment, one frame, a series of its own.

Viewers disagree on what a segmentation of a radiograph without patient geometry must hold, so there are three profiles,
all conformant because the Derivation Image functional group is always there:

* ``planar`` (default): Pixel Measures and Plane Orientation, no Plane Position. OHIF needs the first two, Weasis draws
  nothing if there is a position;
* ``full``: a Plane Position at the origin as well, for 3D Slicer;
* ``none``: no plane at all.

A source that does place itself in the patient is followed by ``planar`` and ``full`` alike.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from chexmodels.dicom.values import decimals
from chexmodels.finding import Findings
from chexnode.encode.provenance import (
    ABNORMALITY,
    CATEGORY,
    DISCLAIMER,
    MANUFACTURER,
    THORAX,
    Provenance,
    algorithm,
    equipment,
    long_string,
    shared_uid,
    software_versions,
    stamp,
    tracking_uid,
)
from chexnode.encode.source import Source, attach
from chexnode.vocabulary.variants import SegForm, SegProfile

PROFILES: tuple[SegProfile, ...] = get_args(SegProfile)

#: Recommended display colour, (255, 64, 64) in sRGB; the Secondary Capture's outline has the same.
COLOUR = (255, 64, 64)


def encode_seg(source: Source, findings: Findings, provenance: Provenance, profile: SegProfile) -> Dataset:
    """Return the Segmentation of ``findings.mask``, (rows, columns) bool in source pixels.

    Raises ValueError if the mask is absent, empty or not of the source's size: an image without a finding has no
    Segmentation, its answer is the Secondary Capture.
    """
    mask = findings.mask
    if mask is None or not mask.any():
        raise ValueError("there is no Segmentation of an empty mask")
    if mask.shape != (source.rows, source.columns):
        raise ValueError(f"mask is {mask.shape}, the source image {(source.rows, source.columns)}")
    template = source.template()
    if profile == "none":
        for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient", "PixelSpacing"):
            template.pop(keyword, None)
    uid = provenance.uid(SegForm(profile))
    ds: Dataset = Segmentation(
        source_images=[template],
        pixel_array=mask[np.newaxis].astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription(
                segment_number=1,
                segment_label="Abnormality",
                segmented_property_category=CATEGORY,
                segmented_property_type=ABNORMALITY,
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm(provenance),
                tracking_uid=segment_tracking_uid(findings, provenance),
                tracking_id="Abnormality",
                anatomic_regions=[THORAX],
                display_color=CIELabColor.from_rgb(*COLOUR),
            )
        ],
        series_instance_uid=provenance.uid(SegForm(profile), "series"),
        series_number=source.numbered(provenance.series.seg.number),
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=long_string(provenance.model_name),
        software_versions=software_versions(provenance),  # type: ignore[arg-type]  # it means any number of them
        device_serial_number=long_string(provenance.model_digest),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="ABNORMALITY",
        content_description=DISCLAIMER,
        omit_empty_frames=False,
        contributing_equipment=[equipment(provenance)],
        series_description=provenance.series_description(
            provenance.series.seg, "" if source.spacing else "unscaled", source.mark
        ),
        specific_character_set="ISO_IR 192",
    )
    ds.ContentCreatorName = f"{MANUFACTURER}^"
    ds.PixelData = _pack(mask)
    _number_dimension(ds, provenance.uid(SegForm(profile), "dimensions"))
    shared, frame = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]
    # Weasis looks for the segment in the frame only; highdicom shares it as there is but one.
    frame.SegmentIdentificationSequence = shared.SegmentIdentificationSequence
    del shared.SegmentIdentificationSequence
    if profile == "none":
        if "FrameOfReferenceUID" in source.ds:
            ds.FrameOfReferenceUID = source.ds.FrameOfReferenceUID
            ds.PositionReferenceIndicator = ""
    elif not source.has_geometry:
        _place(ds, source, provenance, with_position=profile == "full")
    attach(ds, source)
    stamp(ds, provenance)
    return ds


def segment_tracking_uid(findings: Findings, provenance: Provenance) -> str:
    """Return the Tracking UID of the segment: that of the one region, or of the union of several."""
    return tracking_uid(provenance.job_key, 1 if len(findings.regions) == 1 else None)


def _pack(mask: NDArray[np.bool_]) -> bytes:
    """Pack bits as PS3.5 8.1.1 says, padded with zero to an even length (highdicom pads with 0x30)."""
    packed = np.packbits(mask, axis=None, bitorder="little").tobytes()
    return packed + b"\0" * (len(packed) % 2)


def _number_dimension(ds: Dataset, uid: str) -> None:
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _place(ds: Dataset, source: Source, provenance: Provenance, *, with_position: bool) -> None:
    """Add the plane groups of an image that has none: its own pixel size, rows along x and columns along y.

    With no known spacing the pixels are 1 x 1 so that viewers work at all; the series description says so.
    """
    if "FrameOfReferenceUID" not in ds:
        ds.FrameOfReferenceUID = shared_uid(provenance.job_key, "frame of reference")
        ds.PositionReferenceIndicator = ""
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing = decimals(source.spacing or (1.0, 1.0))
    measures.SliceThickness = 1  # of no meaning in a projection, but dcmqi and dciodvfy want it
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    if with_position:
        position = Dataset()
        position.ImagePositionPatient = [0, 0, 0]
        ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence = [position]
