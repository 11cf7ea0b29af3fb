"""Section ``disk``: when new images are refused for lack of space."""

from __future__ import annotations

from pydantic import Field

from chexnode.settings.base import Section


class DiskSettings(Section):
    """When to refuse new images for lack of space."""

    watermark: float = Field(0.9, gt=0, le=1, description="Refuse while the disk is fuller than this fraction.")
    reserve_gb: float = Field(5, ge=0, description="Refuse while less than this many GB are free.")
