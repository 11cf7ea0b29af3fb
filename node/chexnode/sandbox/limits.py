"""The settings' limits as the readers take them."""

from __future__ import annotations

from chexmodels.dicom.part10 import ReadLimits
from chexnode.settings.limits import LimitSettings


def read_limits(limits: LimitSettings) -> ReadLimits:
    """Bounds on one file."""
    return ReadLimits(
        max_elements=limits.max_elements,
        max_nesting=limits.max_nesting,
        inflate_bytes=limits.inflate_mb * 1_000_000,
        max_pixels=limits.max_pixels,
    )
