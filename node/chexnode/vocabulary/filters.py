"""What lists of jobs and deliveries can be narrowed down to, as people write it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum

from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState


@dataclass(frozen=True, slots=True)
class Filter:
    """Which images, jobs and deliveries are meant: all of what is given; None stands for any."""

    accession: str | None = None
    """Accession Number, exactly."""
    patient: str | None = None
    """Patient ID, exactly."""
    issuer: str | None = None
    """Issuer of Patient ID, exactly; empty: none is named."""
    study: str | None = None
    """Study Instance UID."""
    since: datetime | None = None
    """Received, or a delivery made, at this aware time or later."""
    until: datetime | None = None
    """Before this aware time."""
    image: str | None = None
    """SOP Instance UID."""

    @property
    def is_empty(self) -> bool:
        """Whether everything is meant."""
        return self == EVERYTHING


EVERYTHING = Filter()


def moment(text: str, *, end: bool = False, now: datetime | None = None) -> datetime:
    """The aware time that ``text`` means: today, yesterday, 2026-01-31, 2026-01-31T08:30, or 08:30 (of today).

    Without an offset it is local time. A day means its beginning, or with ``end`` the beginning of the next; ``now``
    is for tests. Raises Usage.
    """
    now = now or datetime.now().astimezone()
    word = text.strip().lower()
    day = {"today": now.date(), "yesterday": now.date() - timedelta(days=1)}.get(word)
    try:
        if day is None and ":" in word and "-" not in word.partition("+")[0]:
            return datetime.combine(now.date(), time.fromisoformat(word)).astimezone()
        if day is None and len(word) > 10:
            return datetime.fromisoformat(word.upper()).astimezone()
        day = day or datetime.strptime(word, "%Y-%m-%d").date()
        return datetime.combine(day + timedelta(days=1 if end else 0), time()).astimezone()
    except (ValueError, OverflowError):
        raise Usage(f"{text!r} is no time: today, yesterday, 2026-01-31, 2026-01-31T08:30 or 08:30") from None


def given(
    accession: str | None, patient: str | None, study: str | None, since: str | None, until: str | None
) -> Filter:
    """A filter of what was written; empty texts count as not given. Raises Usage."""
    return Filter(
        accession=accession or None,
        patient=patient or None,
        study=study or None,
        since=moment(since) if since else None,
        until=moment(until, end=True) if until else None,
    )


def job_states(names: Iterable[str]) -> list[str]:
    """States that ``jobs`` can be asked for, any case. Raises Usage with the nearest name."""
    return [_one_of(name, (*JobState, *InstanceState)) for name in names]


def delivery_states(names: Iterable[str]) -> list[str]:
    """States that ``deliveries`` can be asked for, any case. Raises Usage with the nearest name."""
    return [_one_of(name, tuple(DeliveryState)) for name in names]


def _one_of(name: str, states: tuple[StrEnum, ...]) -> str:
    known = [state.value for state in states]
    if name.upper() in known:
        return name.upper()
    close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
    raise Usage(f"no state {name!r}; {f'did you mean {close[0]}?' if close else 'there are ' + ', '.join(known)}")
