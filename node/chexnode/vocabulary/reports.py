"""What commands and the HTTP interface report besides jobs and deliveries; field names are the keys of their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
    """Path, as it was given on the command line."""
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


@dataclass(frozen=True, slots=True)
class Reanalysis:
    """What ``chexnode reanalyse`` says."""

    model: str
    """Name and version of the model that analyses the images; of a rollback, of each that does, with commas."""
    queued: int
    """Images that are now queued, or would be in a dry run."""
    retried: int
    """Those of them whose reanalysis had failed or been cancelled before."""
    without_source: int
    """Images that were meant and cannot be analysed: retention has deleted their files."""
    not_offered: Mapping[str, int]
    """Of a rollback: earlier models that no worker has, and how many images each would have."""
    last_due_at: datetime | None
    """When the last of them may be taken up, by the pace that the settings give; None where there are none."""
    is_dry_run: bool


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is of a patient or a study; what ``chexnode erase --dry-run`` says."""

    studies: int
    images: int
    """Versions of images, whatever became of them."""
    results: int
    """Objects of ours, the notes that withdraw others among them."""
    deliveries: int
    unfinished: int
    """Images that wait or are being analysed: they are cancelled."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What ``chexnode erase`` says: what went, and what is still elsewhere. Names nobody."""

    erased: Extent
    """What there was; in a dry run, what there is."""
    files: int
    """Deleted from the spool."""
    audit_messages: int
    """Deleted here: before the collector had them, or kept to be searched."""
    withdrawn: Mapping[str, int]
    """Destination -> notes that it took."""
    not_withdrawn: Mapping[str, str]
    """Destination -> why it may still have results."""
    scrubbed: bool
    """Whether the database's own files hold no remains; if not, erase again when the node is quiet."""
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Discordance:
    """An image of which two models say different things."""

    accession_number: str | None
    study_instance_uid: str
    sop_instance_uid: str
    abnormal_a: bool
    abnormal_b: bool
    score_a: float | None
    score_b: float | None
    job_a: str
    job_b: str
    link: str | None
    """Where the viewer shows the study; None where there is no viewer."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``chexnode compare`` says of two models: over the images that both have answered."""

    model_a: str
    """Name and version."""
    model_b: str
    images: int
    """That both have answered, and of which both could say whether they are abnormal."""
    not_evaluated: int
    """Images that both have answered, and of which one or both could not say; in none of the other figures."""
    both: int
    """Abnormal by both."""
    only_a: int
    """Abnormal by the first alone."""
    only_b: int
    """Abnormal by the second alone."""
    neither: int
    """Abnormal by none."""
    agreement: float | None
    """Share of images of which both say the same; None without images."""
    kappa: float | None
    """Cohen's kappa (Educ Psychol Meas 20:37, 1960); None where chance alone makes them agree on all."""
    pearson: float | None
    """Correlation of the scores; None with fewer than two images, or where one model always gives the same score."""
    spearman: float | None
    """Correlation of the scores' ranks, likewise."""
    discordant: tuple[Discordance, ...]
    """The images of which they say different things, those with the greatest difference of scores first."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The images that the watch over drift takes for normal, as ``chexnode drift baseline`` fixed them."""

    since: datetime
    until: datetime
    fixed_at: datetime
    images: Mapping[str, int]
    """Model -> images that it analysed."""
    groups: int
    """How many models, and stations and callers of each, have images enough to be watched."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One statistic of recent images against the baseline: one line of ``chexnode drift``."""

    model: str
    """Name and version."""
    station: str | None
    """Station Name, empty where images have none; None: all images of the model."""
    calling_ae_title: str | None
    """None: all images of the model."""
    statistic: str
    """``outcome``, ``score``, ``area`` of the regions, ``brightness`` or ``contrast`` of what the model was given."""
    psi: float
    """Population stability index."""
    by_chance: float
    """What the index of so many images of an unchanged stream hardly ever exceeds."""
    images: int
    """Recent ones."""
    baseline_images: int
    is_shifted: bool
    """Above both ``[drift] psi`` and chance."""


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What ``chexnode drift`` says."""

    baseline: Baseline | None
    """None where nobody has fixed one."""
    drift: Sequence[Drift]


@dataclass(frozen=True, slots=True)
class DailyFigures:
    """A day of one model, station and calling AE title: one line of ``chexnode drift daily``."""

    day: str
    """Of UTC, as 2026-01-31."""
    model: str
    """Name and version; empty: images that were refused by their header alone."""
    station: str | None
    calling_ae_title: str | None
    images: int
    refused: Mapping[str, int]
    """Reason -> images."""
    abnormal: float | None
    """Share of the images that could be evaluated; None without any."""
    scores: tuple[int, ...]
    """Images by tenths of the score."""
    area: float | None
    """Mean share of the image that is in regions."""
    brightness: float | None
    """Mean of what the model was given, in [0, 1]."""
    contrast: float | None
    """Mean of its standard deviation."""
