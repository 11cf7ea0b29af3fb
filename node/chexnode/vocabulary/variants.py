"""The kinds of result objects, and the forms that each can have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal, get_args

from chexnode.vocabulary.supersession import Supersession

SegProfile = Literal["planar", "full", "none"]
"""Which functional groups a Segmentation carries for the plane of the image: what viewers need differs."""
ScEncoding = Literal["rgb", "jpeg"]
"""Pixel Data of a Secondary Capture: native RGB, or JPEG Baseline."""
SrClass = Literal["comprehensive3d", "comprehensive"]
"""Comprehensive 3D SR, or Comprehensive SR for older archives."""
SrOutline = Literal["box", "contour"]
"""How a report draws a region."""


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
class SegForm:
    """How a Segmentation is written."""

    profile: SegProfile = "planar"
    kind: ClassVar[ResultKind] = ResultKind.SEG

    def __str__(self) -> str:
        return self.profile


@dataclass(frozen=True, slots=True)
class ScForm:
    """How a Secondary Capture is written, and what it shows."""

    encoding: ScEncoding = "rgb"
    is_heat_map: bool = False
    """It shows the heat map. False: the outlines."""
    kind: ClassVar[ResultKind] = ResultKind.SC

    def __str__(self) -> str:
        if not self.is_heat_map:
            return self.encoding
        return "heat" if self.encoding == "rgb" else f"heat-{self.encoding}"


@dataclass(frozen=True, slots=True)
class SrForm:
    """What one destination's reports are like."""

    sr_class: SrClass = "comprehensive3d"
    outline: SrOutline = "box"
    seg_profile: SegProfile | None = None
    """Profile of the Segmentation that the report points to. None: the destination has none."""
    kind: ClassVar[ResultKind] = ResultKind.SR

    def __str__(self) -> str:
        return f"{self.sr_class}-{self.outline}-{self.seg_profile or 'noseg'}"


@dataclass(frozen=True, slots=True)
class NotAnalysedForm:
    """The report of what was not analysed in a closed study."""

    sr_class: SrClass = "comprehensive3d"
    kind: ClassVar[ResultKind] = ResultKind.SR

    def __str__(self) -> str:
        return f"not-analysed-{self.sr_class}"


@dataclass(frozen=True, slots=True)
class GspsForm:
    """The presentation state, which has one form."""

    kind: ClassVar[ResultKind] = ResultKind.GSPS

    def __str__(self) -> str:
        return "outline"


@dataclass(frozen=True, slots=True)
class KoForm:
    """The rejection note that says why results are valid no longer."""

    why: Supersession
    kind: ClassVar[ResultKind] = ResultKind.KO

    def __str__(self) -> str:
        return self.why.value


ResultForm = SegForm | ScForm | SrForm | NotAnalysedForm | GspsForm | KoForm

FORMS: tuple[ResultForm, ...] = (
    *map(SegForm, get_args(SegProfile)),
    *(ScForm(encoding, is_heat) for is_heat in (False, True) for encoding in get_args(ScEncoding)),
    *(
        SrForm(sr_class, outline, profile)
        for sr_class in get_args(SrClass)
        for outline in get_args(SrOutline)
        for profile in (*get_args(SegProfile), None)
    ),
    *map(NotAnalysedForm, get_args(SrClass)),
    GspsForm(),
    *map(KoForm, Supersession),
)
"""All there are."""

_BY_TEXT = {(form.kind, str(form)): form for form in FORMS}


@dataclass(frozen=True, slots=True)
class Variant:
    """A result object as one destination wants it."""

    form: ResultForm
    label: str = ""
    """What the destination's results are marked with, such as RESEARCH. Empty: nothing."""

    @property
    def kind(self) -> ResultKind:
        """Which DICOM object it is."""
        return self.form.kind

    def __str__(self) -> str:
        """Form and label in one word, as the ledger keeps them: ``planar@RESEARCH``."""
        return f"{self.form}@{self.label}" if self.label else str(self.form)

    @classmethod
    def parse(cls, kind: ResultKind, text: str) -> Variant:
        """The variant of ``kind`` whose string is ``text``. Raises ValueError where there is none."""
        form, _, label = text.partition("@")
        if (kind, form) not in _BY_TEXT:
            raise ValueError(f"there is no {kind.value} of form {form!r}")
        return cls(_BY_TEXT[kind, form], label)
