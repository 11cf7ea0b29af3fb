"""The grey-scale transformations of the source, said again by a presentation state, which else would replace them."""

from __future__ import annotations

import numpy as np
from highdicom import VOILUT, ModalityLUT, ModalityLUTTransformation
from highdicom.pr import SoftcopyVOILUTTransformation
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from chexmodels.dicom.greyscale import Lut, Rescale, Window

_UNSPECIFIED = "US"


def modality_transformation(modality: Lut | Rescale | None) -> ModalityLUTTransformation | None:
    """Modality LUT, or Rescale Slope and Intercept (PS3.3 C.11.1)."""
    if isinstance(modality, Lut):
        lut = _table(modality)
        lut.ModalityLUTType = modality.explanation or _UNSPECIFIED
        return ModalityLUTTransformation(modality_lut=ModalityLUT.from_dataset(lut))
    if modality is None:
        return None
    return ModalityLUTTransformation(modality.intercept, modality.slope, modality.type or _UNSPECIFIED)


def voi_transformations(voi: Lut | Window | None) -> list[SoftcopyVOILUTTransformation] | None:
    """A VOI LUT or a window (PS3.3 C.11.2)."""
    if isinstance(voi, Lut):
        return [SoftcopyVOILUTTransformation(voi_luts=[VOILUT.from_dataset(_table(voi))])]
    if voi is None:
        return None
    return [SoftcopyVOILUTTransformation(voi.center, voi.width, voi_lut_function=voi.function)]


def _table(lut: Lut) -> Dataset:
    """A LUT item (PS3.3 C.11.1.1.1)."""
    count = len(lut.entries)
    # A presentation state has no Pixel Representation that a reader could tell the VR from, so it is told here.
    vr = "SS" if lut.first < 0 else "US"
    wrapped = count - 65536 if vr == "SS" and count > 32767 else count % 65536
    item = Dataset()
    item.add(DataElement("LUTDescriptor", vr, [wrapped, lut.first, lut.bits]))
    raw = lut.entries.astype(np.uint8 if lut.bits == 8 else "<u2").tobytes()
    item.add(DataElement("LUTData", "OW", raw + b"\0" * (len(raw) % 2)))
    return item
