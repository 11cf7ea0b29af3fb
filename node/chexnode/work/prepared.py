"""One image made ready for the model: what the sandbox hands back, and what makes it inside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from chexmodels.dicom.decode import decode
from chexmodels.dicom.greyscale import Choice
from chexmodels.dicom.part10 import Part10, ReadLimits
from chexmodels.pixels import Geometry, Image, Mode, to_display, to_image
from chexmodels.stats import PixelStats, measure


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything the pipeline needs of one source image."""

    image: NDArray[np.float32]
    """(S, S) float32 in [0, 1], the model's input."""
    geometry: Geometry
    """The way back to source pixels."""
    display: NDArray[np.uint8]
    """(h, w), longest side at most 2048, for the Secondary Capture."""
    stats: PixelStats
    notes: tuple[str, ...]
    """Codes of what was present in the header but invalid and so ignored."""
    header: Dataset
    """The data set without Pixel Data and without elements longer than 64 KiB; empty for a picture file."""
    choice: Choice
    """The grey-scale transformations of the header that served the pixels."""


def prepare_image(image: Image, size: int, mode: Mode, header: Dataset) -> Prepared:
    """Fit one image into the model's square of ``size``."""
    rows, columns = image.pixels.shape
    geometry = Geometry(rows, columns, size, mode)
    return Prepared(
        geometry.forward(image.pixels),
        geometry,
        to_display(image.pixels),
        measure(image),
        image.notes,
        header,
        image.choice,
    )


def prepare_file(part10: Part10, size: int, mode: Mode, limits: ReadLimits) -> Prepared:
    """Decode and fit one DICOM file in this process.

    Raises :class:`chexmodels.dicom.part10.DecodeError`. Strangers' files belong in the sandbox, which calls this.
    """
    ds = part10.dataset()
    return prepare_image(to_image(ds, decode(ds, limits.max_pixels)), size, mode, part10.header)
