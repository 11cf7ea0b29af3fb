"""All results of one image, encoded and checked: the one call that the worker makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from highdicom.seg import Segmentation
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import SegmentationStorage

from chexmodels.finding import Findings
from chexnode.encode.attributes import TYPE_2
from chexnode.encode.invalid import InvalidResult as InvalidResult
from chexnode.encode.preview import has_finding
from chexnode.encode.provenance import Provenance
from chexnode.encode.sc import ENCODINGS, encode_sc
from chexnode.encode.seg import PROFILES, encode_seg
from chexnode.encode.source import Source
from chexnode.ledger.records import variant_parts
from chexnode.ledger.states import ResultKind


@dataclass(frozen=True, slots=True)
class Encoded:
    """One result object, ready to be stored."""

    kind: ResultKind
    variant: str
    uid: str
    sop_class_uid: str
    data: bytes
    """A DICOM file (PS3.10)."""


def encode(
    source: Source,
    display: NDArray[np.uint8],
    findings: Findings,
    provenance: Provenance,
    wanted: Iterable[tuple[ResultKind, str]],
) -> list[Encoded]:
    """Encode and check each wanted (kind, variant), once each and in the order wanted.

    Without a finding there is no Segmentation; the Secondary Capture says so. Raises ValueError for a kind or variant
    that does not exist and InvalidResult if an object does not read back.
    """
    encoded = []
    for kind, variant in dict.fromkeys(wanted):
        form, label = variant_parts(variant)
        marked = replace(provenance, label=label)
        if kind is ResultKind.SEG and form in PROFILES:
            if not has_finding(findings):
                continue
            ds = encode_seg(source, findings, marked, form)
        elif kind is ResultKind.SC and form in ENCODINGS:
            ds = encode_sc(source, display, findings, marked, form)
        else:
            raise ValueError(f"there is no {kind.value} of variant {variant!r}")
        data = to_bytes(ds)
        check(data, source, findings)
        encoded.append(Encoded(kind, variant, ds.SOPInstanceUID, ds.SOPClassUID, data))
    return encoded


def to_bytes(ds: Dataset) -> bytes:
    """Return ``ds`` as a DICOM file (PS3.10): preamble, file meta information, data set."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def check(data: bytes, source: Source, findings: Findings) -> None:
    """Read a result back and compare it with what it was made from.

    Raises InvalidResult if the file does not parse, if study or identity differ from the source's, if it does not refer
    to the source image, or if its pixels are not what they should be: for a Segmentation the mask, bit for bit, as
    highdicom reads it; for a Secondary Capture their number or the codestream's size.
    """
    try:
        ds = dcmread(BytesIO(data))
        if ds.file_meta.MediaStorageSOPInstanceUID != ds.SOPInstanceUID:
            raise InvalidResult("file meta information names another instance")
        for keyword in ("StudyInstanceUID", *TYPE_2):
            if ds[keyword].value != source.ds[keyword].value:
                raise InvalidResult(f"{keyword} differs from the source's")
        if ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID != (
            source.ds.SOPInstanceUID
        ):
            raise InvalidResult("it does not refer to the source image")
        if ds.SOPClassUID == SegmentationStorage:
            _check_mask(ds, source, findings)
        elif ds.file_meta.TransferSyntaxUID.is_encapsulated:
            codestream = Image.open(BytesIO(get_frame(ds.PixelData, 0, number_of_frames=1)))
            if codestream.size != (ds.Columns, ds.Rows):
                raise InvalidResult("its codestream has another size")
        elif len(ds.PixelData) < ds.Rows * ds.Columns * 3:
            raise InvalidResult("its pixel data is too short")
    except InvalidResult:
        raise
    except Exception as error:  # whatever a reader trips over, a viewer would too
        raise InvalidResult(f"it cannot be read back: {type(error).__name__}") from error


def _check_mask(ds: Dataset, source: Source, findings: Findings) -> None:
    seg = Segmentation.from_dataset(ds, copy=False)
    pixels = seg.get_pixels_by_source_instance(
        [source.ds.SOPInstanceUID],
        segment_numbers=[1],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    if findings.mask is None or not np.array_equal(pixels[0, :, :, 0], findings.mask):
        raise InvalidResult("its mask is not the mask that was found")
