"""All results of one image, encoded and checked: the one call that the worker makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from chexmodels.finding import Findings
from chexnode.encode.caption import has_finding
from chexnode.encode.gsps import encode_gsps
from chexnode.encode.heat import encode_heat, has_heat
from chexnode.encode.provenance import Provenance
from chexnode.encode.sc import encode_sc
from chexnode.encode.seg import encode_seg
from chexnode.encode.source import Source
from chexnode.encode.sr import encode_sr
from chexnode.encode.verify import InvalidResult, verify
from chexnode.vocabulary.records import Attributes
from chexnode.vocabulary.variants import GspsForm, ResultForm, ScForm, SegForm, SrForm, Variant


@dataclass(frozen=True, slots=True)
class Encoded:
    """One result object, ready to be stored."""

    variant: Variant
    uid: str
    sop_class_uid: str
    data: bytes
    """A DICOM file (PS3.10)."""
    series_instance_uid: str = ""
    series: Attributes = field(default_factory=dict)
    instance: Attributes = field(default_factory=dict)
    study_instance_uid: str = ""
    """Empty: that of the image."""

    @classmethod
    def of(cls, variant: Variant, ds: Dataset, data: bytes) -> Encoded:
        """``ds``, encoded as ``data``, with what a search by attributes needs to know of it."""
        return cls(
            variant,
            str(ds.SOPInstanceUID),
            str(ds.SOPClassUID),
            data,
            str(ds.SeriesInstanceUID),
            {
                "modality": ds.Modality,
                "series_number": _number(ds, "SeriesNumber"),
                "series_description": ds.get("SeriesDescription"),
                "body_part_examined": ds.get("BodyPartExamined"),
            },
            {
                "transfer_syntax_uid": str(ds.file_meta.TransferSyntaxUID),
                "instance_number": _number(ds, "InstanceNumber"),
                "rows": _number(ds, "Rows"),
                "columns": _number(ds, "Columns"),
                "bits_allocated": _number(ds, "BitsAllocated"),
                "number_of_frames": _number(ds, "NumberOfFrames"),
            },
        )


def _number(ds: Dataset, keyword: str) -> int | None:
    value = ds.get(keyword)
    return None if value is None else int(value)


def encode(
    source: Source,
    display: NDArray[np.uint8],
    findings: Findings,
    provenance: Provenance,
    wanted: Iterable[Variant],
) -> list[Encoded]:
    """Encode and check each of the ``wanted`` variants, once each and in the order wanted.

    Without a finding there is no Segmentation and no presentation state; the Secondary Capture and the report say so.
    Without heat, or where the image was not evaluated, there is no heat map.
    Raises ValueError for a form that no image has, and InvalidResult, which names the object, if one is
    not as it should be.
    """
    encoded = []
    for variant in dict.fromkeys(wanted):
        marked = replace(provenance, label=variant.label)
        ds = _build(variant.form, source, display, findings, marked)
        if ds is None:
            continue
        data = to_bytes(ds)
        try:
            verify(data, source, findings, marked, variant.form)
        except InvalidResult as error:
            raise InvalidResult(f"{variant.kind.value} {variant}: {error}") from error
        encoded.append(Encoded.of(variant, ds, data))
    return encoded


def _build(
    form: ResultForm,
    source: Source,
    display: NDArray[np.uint8],
    findings: Findings,
    provenance: Provenance,
) -> Dataset | None:
    """Return the object, or None where these findings have none of that kind."""
    match form:
        case SegForm():
            return encode_seg(source, findings, provenance, form.profile) if has_finding(findings) else None
        case ScForm(is_heat_map=False):
            return encode_sc(source, display, findings, provenance, form.encoding)
        case ScForm():
            return encode_heat(source, display, findings, provenance, form.encoding) if has_heat(findings) else None
        case GspsForm():
            return encode_gsps(source, findings, provenance) if has_finding(findings) and findings.regions else None
        case SrForm():
            return encode_sr(source, findings, provenance, form)
    raise ValueError(f"no image has a {form.kind.value} of form {form}")


def to_bytes(ds: Dataset) -> bytes:
    """Return ``ds`` as a DICOM file (PS3.10): preamble, file meta information, data set."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
