"""The kinds of result objects, and the forms that each can have."""

from __future__ import annotations

from enum import StrEnum


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
