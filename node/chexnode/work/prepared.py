"""One image made ready for the model: what the sandbox hands back, and what makes it inside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from chexmodels.dicom.decode import decode
from chexmodels.dicom.greyscale import Choice, Window
from chexmodels.dicom.overlays import drawn_groups
from chexmodels.dicom.part10 import Part10, ReadLimits
from chexmodels.pixels import Geometry, Mode, Radiograph, Reading, reduced, to_display
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
    window: Window | None = None
    """That shows the pixels where the header has no window that serves; in the units of the modality transformation."""
    overlays: tuple[int, ...] = ()
    """Groups (60xx) of the overlay planes that viewers draw."""


def prepare_image(
    image: Radiograph, size: int, mode: Mode, header: Dataset, display: NDArray[np.uint8] | None = None
) -> Prepared:
    """Fit one image into the model's square of ``size``. ``display``: for eyes; None: as the model sees it."""
    rows, columns = image.pixels.shape
    geometry = Geometry(rows, columns, size, mode)
    return Prepared(
        geometry.forward(image.pixels),
        geometry,
        to_display(image.pixels) if display is None else display,
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
    pixel_array = decode(ds, limits.max_pixels)
    reading = Reading(ds, pixel_array)
    prepared = prepare_image(reading.image(), size, mode, part10.header, reduced(reading.screen()))
    return replace(prepared, window=reading.window, overlays=drawn_groups(ds, *pixel_array.shape))
