"""Section ``reanalysis``: how images are analysed again."""

from __future__ import annotations

from datetime import datetime, time
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from chexnode.settings.base import Section


def _hours(value: str) -> str:
    """Check a span of the day, such as 20:00-06:00; empty is the whole day."""
    if value:
        begin, dash, end = value.partition("-")
        try:
            same = time.fromisoformat(begin.strip()) == time.fromisoformat(end.strip())
        except ValueError:
            raise ValueError(f"{value!r} is no span of the day, such as 20:00-06:00") from None
        if same or not dash:
            raise ValueError(f"{value!r} begins when it ends")
    return value


class ReanalysisSettings(Section):
    """How images are analysed again (`chexnode reanalyse`): after what has just come, and not too many at a time."""

    hours: Annotated[str, AfterValidator(_hours)] = Field(
        "", description="Only between these local times of a day, such as `20:00-06:00`; empty: at any time."
    )
    per_minute: float = Field(30, ge=0, description="At most this many images a minute; 0: no limit.")
    sets: Literal["replace", "beside"] = Field(
        "replace", description="New results take the place of the old ones, which are withdrawn, or stand beside them."
    )

    def are_open(self, now: datetime) -> bool:
        """Whether ``now``, an aware time, is in the hours."""
        if not self.hours:
            return True
        begin, _, end = self.hours.partition("-")
        first, last = time.fromisoformat(begin.strip()), time.fromisoformat(end.strip())
        at = now.astimezone().time()
        return first <= at < last if first < last else at >= first or at < last
