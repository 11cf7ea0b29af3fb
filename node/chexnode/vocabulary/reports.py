"""What commands and the HTTP interface report besides jobs and deliveries; field names are the keys of their JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
class Trial:
    """What ``chexnode check --file`` says of one file: what would be done with it, from its header alone."""

    file: str
    state: str
    """ANALYSABLE, NOT_ANALYSED or QUARANTINED."""
    reason: str | None
    detail: str
    """The evidence: what was read of view and part, and by which words; or what speaks against."""
    notes: list[str]
    priority: str
    rule: str | None
    """Name of the site's rule that decides on it."""
    destinations: list[str]
    """Who would get results if there is a finding, or no answer."""
    destinations_without_finding: list[str]


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
