"""What people write for a time."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import moment

NOW = datetime(2026, 3, 1, 14, 30).astimezone()


@pytest.mark.parametrize(
    ("text", "beginning", "end"),
    [
        ("today", "2026-03-01T00:00", "2026-03-02T00:00"),
        ("Yesterday", "2026-02-28T00:00", "2026-03-01T00:00"),
        ("2026-01-31", "2026-01-31T00:00", "2026-02-01T00:00"),
        ("2026-01-31T08:30", "2026-01-31T08:30", "2026-01-31T08:30"),
        ("2026-01-31 08:30:15", "2026-01-31T08:30:15", "2026-01-31T08:30:15"),
        ("08:30", "2026-03-01T08:30", "2026-03-01T08:30"),
    ],
)
def test_days_and_times_are_local(text: str, beginning: str, end: str) -> None:
    assert moment(text, now=NOW) == datetime.fromisoformat(beginning).astimezone()
    assert moment(text, end=True, now=NOW) == datetime.fromisoformat(end).astimezone()


def test_an_offset_counts() -> None:
    assert moment("2026-01-31T08:30+05:00") == moment("2026-01-31T03:30Z")
    assert moment("2026-01-31T08:30Z").utcoffset() is not None
    assert moment("today", end=True) - moment("today") >= timedelta(hours=23)


@pytest.mark.parametrize(
    "text", ["", "last week", "31.01.2026", "2026-02-30", "25:00", "2026-01", "tomorrow-1", "9999-12-31"]
)
def test_what_is_no_time_is_said_in_one_sentence(text: str) -> None:
    with pytest.raises(Usage, match="is no time: today, yesterday"):
        moment(text, end=True)
