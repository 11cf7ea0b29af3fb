"""The kinds of result objects, and the forms that each can have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

SegProfile = Literal["planar", "full", "none"]
"""Which functional groups a Segmentation carries for the plane of the image: what viewers need differs."""
ScEncoding = Literal["rgb", "jpeg"]
"""Pixel Data of a Secondary Capture: native RGB, or JPEG Baseline."""
SrClass = Literal["comprehensive3d", "comprehensive"]
"""Comprehensive 3D SR, or Comprehensive SR for older archives."""
SrOutline = Literal["box", "contour"]
"""How a report draws a region."""

_NO_SEG = "noseg"


class ResultKind(StrEnum):
    """The DICOM objects a job can produce."""

    SEG = "seg"
    """Segmentation (PS3.3 A.51)."""
    SC = "sc"
    """Secondary Capture (A.8): the picture with the outlines drawn in, or the heat map."""
    SR = "sr"
    """Structured Report (A.35)."""
    GSPS = "gsps"
    """Grayscale Softcopy Presentation State (A.33)."""
    KO = "ko"
    """Key Object Selection (A.35.4): the note by which results that a destination may have are withdrawn."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A result object as one destination wants it."""

    kind: ResultKind
    form: str
    """Such as "planar" (SEG), "jpeg" (SC), "outline" (GSPS), or the text of an :class:`SrForm`."""
    label: str = ""
    """What the destination's results are marked with, such as RESEARCH. Empty: nothing."""

    def __str__(self) -> str:
        """Form and label in one word, as the ledger keeps them: ``planar@RESEARCH``."""
        return f"{self.form}@{self.label}" if self.label else self.form


@dataclass(frozen=True, slots=True)
class SrForm:
    """What one destination's reports are like."""

    sr_class: SrClass = "comprehensive3d"
    outline: SrOutline = "box"
    seg_profile: SegProfile | None = None
    """Profile of the Segmentation that the report points to. None: the destination has none."""

    def __str__(self) -> str:
        return f"{self.sr_class}-{self.outline}-{self.seg_profile or _NO_SEG}"

    @classmethod
    def parse(cls, text: str) -> SrForm:
        """Read what ``str`` wrote. Raises ValueError for anything else."""
        for form in SR_FORMS:
            if str(form) == text:
                return form
        raise ValueError(f"there is no sr of form {text!r}")


SR_FORMS = tuple(
    SrForm(sr_class, outline, profile)
    for sr_class in get_args(SrClass)
    for outline in get_args(SrOutline)
    for profile in (*get_args(SegProfile), None)
)
