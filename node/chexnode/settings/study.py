"""Section ``study``: when a study is complete."""

from __future__ import annotations

from pydantic import Field

from chexnode.settings.base import Section


class StudySettings(Section):
    """The study as an aggregate."""

    quiet_seconds: float = Field(30, gt=0, description="A study closes this long after its last image.")
