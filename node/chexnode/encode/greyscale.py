"""How the stored values of the source become grey: what a presentation state must say again, or it is lost.

A presentation state replaces the image's own transformations, it does not add to them (PS3.4 N.2): one that is silent
about a window shows the image without it. What is valid in the source's header is repeated, in the order and by the
choice of :mod:`chexmodels.dicom.greyscale`, so that the picture is the one that the model saw; what is not valid is
left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import VOILUT, ModalityLUT, ModalityLUTTransformation
from highdicom.pr import SoftcopyVOILUTTransformation
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian

from chexnode.encode import values

#: Windows narrower than this are refused: LINEAR divides by width - 1 (PS3.3 C.11.2.1.2.1).
_NARROWEST = {"LINEAR": 1.0, "LINEAR_EXACT": 1e-9, "SIGMOID": 1e-9}
_UNSPECIFIED = "US"


@dataclass(frozen=True, slots=True)
class Greyscale:
    """The transformations of PS3.4 N.2 in their order. None: the source has no valid one."""

    modality: ModalityLUTTransformation | None
    voi: SoftcopyVOILUTTransformation | None
    inverse: bool
    """Whether high values are dark: of MONOCHROME1, and of a Presentation LUT Shape that says so."""


def greyscale(header: Dataset) -> Greyscale:
    """Read the transformations of ``header``, a parsed data set. Never raises on a parseable one."""
    return Greyscale(
        modality=_modality(header),
        voi=_voi(header),
        inverse=values.texts(header, "PhotometricInterpretation") == ["MONOCHROME1"]
        or values.texts(header, "PresentationLUTShape") == ["INVERSE"],
    )


def _modality(header: Dataset) -> ModalityLUTTransformation | None:
    """Modality LUT, else Rescale Slope and Intercept (PS3.3 C.11.1)."""
    item = values.first_item(header, "ModalityLUTSequence")
    lut = _table(header, item) if item is not None else None
    if item is not None and lut is not None:
        lut.ModalityLUTType = _units(item, "ModalityLUTType")
        return ModalityLUTTransformation(modality_lut=ModalityLUT.from_dataset(lut))
    rescale = [values.numbers(header, keyword, 1) for keyword in ("RescaleIntercept", "RescaleSlope")]
    if rescale[0] is None or rescale[1] is None or rescale[1][0] == 0:
        return None
    return ModalityLUTTransformation(rescale[0][0], rescale[1][0], _units(header, "RescaleType"))


def _units(ds: Dataset, keyword: str) -> str:
    found = values.texts(ds, keyword)
    return found[0] if len(found) == 1 and len(found[0]) <= 64 and found[0].isascii() else _UNSPECIFIED


def _voi(header: Dataset) -> SoftcopyVOILUTTransformation | None:
    """The first VOI LUT, else the first window (PS3.3 C.11.2): a presentation state has one."""
    item = values.first_item(header, "VOILUTSequence")
    lut = _table(header, item) if item is not None else None
    if lut is not None:
        return SoftcopyVOILUTTransformation(voi_luts=[VOILUT.from_dataset(lut)])
    center, width = (values.first_number(header, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    function = (values.texts(header, "VOILUTFunction") or ["LINEAR"])[0]
    if center is None or width is None or width < _NARROWEST.get(function, np.inf):
        return None
    return SoftcopyVOILUTTransformation(center, width, voi_lut_function=function)


def _table(header: Dataset, item: Dataset) -> Dataset | None:
    """Copy a LUT item (PS3.3 C.11.1.1.1); None where its descriptor and data do not fit together."""
    descriptor = values.integers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    entries, first, bits = descriptor
    entries = entries % 65536 or 65536  # 65536 is written as 0, and a high number may have been read as signed
    table = _entries(values.value(item, "LUTData"), entries, bits, header) if 8 <= bits <= 16 else None
    if entries < 2 or table is None:
        return None
    bits = max(bits, int(table.max()).bit_length())
    if first > 32767 and values.value(header, "PixelRepresentation") == 1:
        first -= 65536  # a signed first value read as unsigned
    # A presentation state has no Pixel Representation that a reader could tell the VR from, so it is told here.
    vr = "SS" if first < 0 else "US"
    wrapped = entries - 65536 if vr == "SS" and entries > 32767 else entries % 65536
    copy = Dataset()
    copy.add(DataElement("LUTDescriptor", vr, [wrapped, first, bits]))
    raw = table.astype("u1" if bits == 8 else "<u2").tobytes()
    copy.add(DataElement("LUTData", "OW", raw + b"\0" * (len(raw) % 2)))
    return copy


def _entries(data: Any, entries: int, bits: int, header: Dataset) -> NDArray[np.integer] | None:
    """Return the ``entries`` values of LUT Data, which are bytes (OW) or numbers (US), one byte each or two."""
    table: NDArray[np.integer]
    if isinstance(data, bytes):
        meta = getattr(header, "file_meta", None)
        big = meta is not None and values.uid(meta, "TransferSyntaxUID") == ExplicitVRBigEndian
        packed = bits == 8 and entries <= len(data) <= entries + 1
        if not packed and len(data) < 2 * entries:
            return None
        table = np.frombuffer(data, "u1" if packed else ">u2" if big else "<u2", entries)
    elif (
        isinstance(data, MultiValue | list) and len(data) >= entries and all(isinstance(number, int) for number in data)
    ):
        table = np.array(data[:entries], np.int64)
    else:
        return None
    return table if table.min() >= 0 and table.max() < 65536 else None
