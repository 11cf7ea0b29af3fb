"""Drawn radiographs for viewers: one lesion at a known place, a bright frame along the edge, and results made of both.

The frame is what finds the image again in a picture of a screen, and the chest inside it is asymmetric, so that nothing
but the screen itself says where a lesion was shown. The results are encoded from the drawn lesion's own mask, by the
node's encoders; no model is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from chexmodels.finding import Box, Findings, Region
from chexnode.encode.objects import Encoded, encode
from chexnode.encode.provenance import Provenance
from chexnode.encode.source import sanitise
from chexnode.vocabulary.variants import ResultKind, ScEncoding, SegProfile, SrClass, SrForm, SrOutline, Variant
from chextrain.data.phantom import Chest, Lesion, render
from chextrain.data.phantom_dicom import HIGHEST, to_dataset
from support.radiographs import PROVENANCE, parsed

#: Off both axes of symmetry and off both diagonals: no turned or mirrored picture has it at its place.
LESION = Lesion(x=0.72, y=0.35, rx=0.07, ry=0.06, contrast=0.3)
CHEST = Chest(seed=7, shift_x=0, shift_y=0, scale=1, heart=1, lesions=(LESION,))
#: Width of the frame as a fraction of the shorter side.
FRAME = 0.012


@dataclass(frozen=True)
class Case:
    """One radiograph as a modality may send it, and what its destination wants."""

    name: str
    modality: Literal["CR", "DX"]
    photometric_interpretation: Literal["MONOCHROME1", "MONOCHROME2"]
    rows: int
    columns: int
    spacing: tuple[float, float] | None = (0.2, 0.2)
    """Imager Pixel Spacing in mm: between rows, between columns."""
    outline: SrOutline = "box"
    seg_profile: SegProfile = "planar"
    sc_encoding: ScEncoding = "rgb"
    sr_class: SrClass = "comprehensive3d"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def has_square_pixels(self) -> bool:
        """Whether the pixels are as high as wide, or said nothing of."""
        return self.spacing is None or self.spacing[0] == self.spacing[1]

    @property
    def aspect(self) -> float:
        """Height over width of the image as it must look."""
        between_rows, between_columns = self.spacing or (1.0, 1.0)
        return self.rows * between_rows / (self.columns * between_columns)

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """The chest and the frame, ``(rows, columns)`` float32 in [0, 1], MONOCHROME2 sense."""
        image = render(CHEST, *self.shape)
        width = self.frame
        inside = image[width:-width, width:-width].copy()
        image[:] = 1
        image[width:-width, width:-width] = inside
        return image

    @property
    def frame(self) -> int:
        """Width of the frame in pixels."""
        return max(3, round(FRAME * min(self.shape)))

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The lesion, ``(rows, columns)`` bool."""
        y, x = np.mgrid[: self.rows, : self.columns]
        across = ((x + 0.5) / self.columns - LESION.x) / LESION.rx
        down = ((y + 0.5) / self.rows - LESION.y) / LESION.ry
        return np.asarray(across**2 + down**2 < 1)

    @cached_property
    def dataset(self) -> Dataset:
        """The radiograph with pixels and file meta; each case is a patient of its own."""
        ds = to_dataset(CHEST, *self.shape, self.modality, self.photometric_interpretation)
        ds.PatientID = f"PHANTOM-{self.name}"
        values = np.rint(self.image * HIGHEST).astype("<u2")
        inverse = self.photometric_interpretation == "MONOCHROME1"
        ds.PixelData = (HIGHEST - values if inverse else values).tobytes()
        if self.spacing is None:
            del ds.ImagerPixelSpacing
        else:
            ds.ImagerPixelSpacing = list(self.spacing)
        return ds

    @property
    def box(self) -> Box:
        """Half-open bounding box of the lesion, in source pixels."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)

    @property
    def box_mask(self) -> NDArray[np.bool_]:
        """The inside of the box, ``(rows, columns)`` bool."""
        inside = np.zeros(self.shape, bool)
        inside[self.box.y0 : self.box.y1, self.box.x0 : self.box.x1] = True
        return inside

    @property
    def findings(self) -> Findings:
        """What a perfect model would say."""
        region = Region(self.box, int(self.mask.sum()), 0.91, 0.7)
        return Findings(None, self.mask, (region,), 0.87, True, "CheX-Nomaly 1.2.3")

    @property
    def provenance(self) -> Provenance:
        """Of a job of its own, so that no two cases share a UID."""
        return replace(PROVENANCE, job_key=sha256(self.name.encode()).hexdigest())

    def results(self, findings: Findings) -> list[Encoded]:
        """Encode what a destination of the case's settings gets, all four kinds."""
        display = np.rint(self.image * 255).astype(np.uint8)
        wanted = (
            Variant.parse(ResultKind.SEG, self.seg_profile),
            Variant.parse(ResultKind.SC, self.sc_encoding),
            Variant(SrForm(self.sr_class, self.outline, self.seg_profile)),
            Variant.parse(ResultKind.GSPS, "outline"),
        )
        return encode(sanitise(parsed(self.dataset)), display, findings, self.provenance, wanted)


SHORT = (
    Case("dx-monochrome2", "DX", "MONOCHROME2", 1280, 1040),
    Case("cr-monochrome1", "CR", "MONOCHROME1", 900, 1100, outline="contour"),
)
"""Shown in every run of the suite."""
CASES = (
    *SHORT,
    Case("odd-size", "DX", "MONOCHROME1", 701, 599, seg_profile="full"),
    Case("no-spacing", "CR", "MONOCHROME2", 640, 512, spacing=None, sr_class="comprehensive"),
    Case("non-square-pixels", "DX", "MONOCHROME2", 500, 800, spacing=(0.4, 0.2)),
    Case("3000x2500", "CR", "MONOCHROME1", 3000, 2500, (0.143, 0.143), outline="contour", sc_encoding="jpeg"),
)
