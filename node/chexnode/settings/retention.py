"""Section ``retention``: how long files are kept."""

from __future__ import annotations

from pydantic import Field

from chexnode.settings.base import Section


class RetentionSettings(Section):
    """How long files are kept."""

    days: float = Field(30, gt=0, description="Files of finished, delivered work are deleted after this many days.")
