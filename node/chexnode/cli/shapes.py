"""The JSON that commands print and the HTTP interface answers: one definition for both.

Keys are the field names of the dataclasses below and of :class:`~chexnode.vocabulary.records.JobView`,
:class:`~chexnode.vocabulary.records.DeliveryView` and :class:`~chexnode.ledger.account.Account`; times are ISO 8601 in
UTC, and what is not a number is null.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from chexnode.ledger.account import Account
from chexnode.ledger.views import JobDetail
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.records import DeliveryView, JobView
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of ``chexnode settings``."""

    key: str
    value: Any
    source: str
    """``default``, the settings file, or the name of the variable."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``chexnode check`` and of ``/health/ready``."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class RegionReport:
    """One region of :class:`FileReport`."""

    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in source pixels, half open."""
    area: int
    """Pixels."""
    peak: float
    """Highest heat in the region, in [0, 1]."""
    mean: float
    """Mean heat in the region, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """What ``chexnode analyze`` says of one file; also the content of its STEM.json."""

    file: str
    """As it was given."""
    sop_instance_uid: str | None
    """None for a PNG or JPEG, and where the file could not be read so far."""
    state: str
    """DONE; or, without a result, NOT_ANALYSED, QUARANTINED, REFUSED or FAILED."""
    reason: str | None
    """Code of why there is no result."""
    error: str | None
    """A sentence about why there is no result."""
    score: float | None
    """Calibrated image score in [0, 1]."""
    abnormal: bool | None
    """None with state DONE: not evaluated, which is not normal."""
    regions: list[RegionReport]
    """Highest peak first."""
    notes: list[str]
    """Codes of what was noticed."""
    model: str
    model_digest: str
    seconds: float
    """This file's share of decoding, inference and encoding."""
    outputs: list[str]
    """Names of the files written to the folder, this JSON left out."""


JOBS = TypeAdapter(list[JobView])
JOB = TypeAdapter(JobDetail)
DELIVERIES = TypeAdapter(list[DeliveryView])
ACCOUNT = TypeAdapter(Account)
SETTINGS = TypeAdapter(list[Setting])
CHECKS = TypeAdapter(list[Check])
REPORT = TypeAdapter(FileReport)
REPORTS = TypeAdapter(list[FileReport])
ANYTHING: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="null"))


def to_json(adapter: TypeAdapter[Any], value: object, indent: int | None = None) -> str:
    """JSON text of ``value``; NaN and infinities become null."""
    return adapter.dump_json(value, indent=indent).decode()


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
