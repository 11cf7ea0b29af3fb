"""Section ``retention``: how long files and names are kept."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from chexnode.settings.base import Section


class RetentionSettings(Section):
    """How long files and names are kept."""

    days: float = Field(30, gt=0, description="Files of finished, delivered work are deleted after this many days.")
    identity_days: float = Field(
        365,
        gt=0,
        description="Names, IDs and free texts are deleted from the rows of studies that have no files any more and "
        "got no image for this many days; what remains is counted, under its UIDs.",
    )

    @model_validator(mode="after")
    def _names_outlive_files(self) -> Self:
        if self.identity_days < self.days:
            raise ValueError("retention.identity_days is less than retention.days: files would name who rows do not")
        return self
