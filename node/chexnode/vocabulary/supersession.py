"""Why a set of results is valid no longer, as codes."""

from __future__ import annotations

from enum import StrEnum


class Supersession(StrEnum):
    """Why a set of results is valid no longer. Each is said to destinations by a title of a rejection note."""

    CORRECTED = "corrected"
    """The same image came under another patient, study, series or accession number."""
    ERASED = "erased"
    """The patient or the study was erased."""
    REJECTED = "rejected"
    """A rejection note came that names the image, or the results; or a person withdrew them."""
    REPLACED = "replaced"
    """The image came with other pixels, or was analysed anew: other results take their place."""
