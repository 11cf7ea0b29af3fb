"""Section ``drift``: when images or answers have drifted away from what was normal."""

from __future__ import annotations

from pydantic import Field

from chexnode.settings.base import Section


class DriftSettings(Section):
    """When recent images have drifted from the baseline that `chexnode drift baseline` fixed; without one none have."""

    days: float = Field(7, gt=0, description="Recent are images of the last so many days.")
    images: int = Field(
        100, ge=20, description="A model, station or caller with fewer images than this is not watched."
    )
    psi: float = Field(
        0.25, gt=0, description="Population stability index above which something has shifted, if not by chance."
    )
