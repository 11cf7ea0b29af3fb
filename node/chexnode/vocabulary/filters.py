"""What lists of jobs and deliveries can be narrowed down to, as people write it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum

from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState


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
