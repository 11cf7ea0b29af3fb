"""Whether images or answers drift away: figures of a day, and the recent stream against a window that was fixed.

Of images as they came: what is analysed again says nothing about the stream. By model, station and calling AE title.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select

from chexnode.ledger.database import Database
from chexnode.ledger.rows import JOB_OF_VERSION
from chexnode.ledger.schema import instances, jobs, markers
from chexnode.ledger.stability import BINS, chance, counted, cuts, psi
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.purposes import Urgency
from chexnode.vocabulary.reports import Baseline, DailyFigures, Drift
from chexnode.vocabulary.states import InstanceState, JobState

FRESH_SECONDS = 300.0
"""How old figures may be for whoever looks often: they are of days."""
_BASELINE = "drift-baseline"
_MEASURED = ("score", "area", "brightness", "contrast")
OUTCOME = "outcome"
"""Statistic of what became of an image: abnormal, normal, not evaluated or refused, with the reason."""
_LEVEL = 0.001
"""How probable a false alarm is in one look at all statistics of all groups."""

_Group = tuple[str, str | None, str | None]
"""Model, Station Name and calling AE title; both None: all images of the model."""


@dataclass(frozen=True, slots=True)
class DriftWindow:
    """What is compared with the baseline, and how."""

    days: float
    """The latest."""
    images: int
    """That a group must have, here and in the baseline."""
    psi: float
    """Above it something has shifted, unless chance alone explains it."""


class Drifts:
    """Queries, and the baseline."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._latest: tuple[float, DriftWindow, list[Drift]] | None = None
        self._latest_days: tuple[float, timedelta, list[DailyFigures]] | None = None

    def fix_baseline(self, since: datetime, until: datetime, images: int) -> Baseline:
        """Take the images received from ``since`` to before ``until`` for normal, in place of what was.

        Raises Usage where no model has analysed ``images`` of them.
        """
        now = self._db.clock()
        groups = []
        for group, rows in _grouped(self._rows(since, until)).items():
            if len(rows) >= images:
                groups.append({"group": group, "images": len(rows), "statistics": dict(_histograms(rows))})
        if not groups:
            raise Usage(f"no model has analysed {images} images in that time")
        fixed = {"since": since.isoformat(), "until": until.isoformat(), "at": now.isoformat(), "groups": groups}
        with self._db.write() as conn:
            conn.execute(delete(markers).where(markers.c.name == _BASELINE))
            conn.execute(insert(markers).values(name=_BASELINE, value=json.dumps(fixed)))
        self._latest = None
        return _baseline(fixed)

    def baseline(self) -> Baseline | None:
        """What is taken for normal; None where nobody has fixed it."""
        fixed = self._fixed()
        return None if fixed is None else _baseline(fixed)

    def look(self, window: DriftWindow, most_age: float = 0) -> list[Drift]:
        """Every statistic of every group that has images enough, the greatest shift first; none without a baseline.

        ``most_age``: an answer may be this many seconds old.
        """
        if self._latest and self._latest[1] == window and time.monotonic() - self._latest[0] < most_age:
            return self._latest[2]
        fixed, now = self._fixed(), self._db.clock()
        found: list[Drift] = []
        if fixed is not None:
            recent = _grouped(self._rows(now - timedelta(days=window.days), now + timedelta(seconds=1)))
            found = list(_compared(fixed["groups"], recent, window))
        found.sort(key=lambda one: -one.psi)
        self._latest = (time.monotonic(), window, found)
        return found

    def daily(self, since: datetime, until: datetime, most_age: float = 0) -> list[DailyFigures]:
        """The figures of each day (of UTC) by model, station and calling AE title; images that the header alone refused
        have no model.

        ``most_age``: an answer for as long a time may be this many seconds old.
        """
        last = self._latest_days
        if last and last[1] == until - since and time.monotonic() - last[0] < most_age:
            return last[2]
        lines = []
        by_day: dict[tuple[str, str, str | None, str | None], list[Row[Any]]] = defaultdict(list)
        for row in self._rows(since, until):
            by_day[f"{row.received_at:%Y-%m-%d}", row.model, row.station_name, row.calling_ae_title].append(row)
        refused: dict[tuple[str, str, str | None, str | None], Counter[str]] = defaultdict(Counter)
        of_header = (
            instances.c.received_at,
            instances.c.station_name,
            instances.c.calling_ae_title,
            instances.c.reason,
        )
        is_refused = instances.c.state == InstanceState.NOT_ANALYSED
        window = (instances.c.received_at >= since, instances.c.received_at < until)
        with self._db.read() as conn:
            for at, station, calling, reason in conn.execute(select(*of_header).where(is_refused, *window)):
                refused[f"{at:%Y-%m-%d}", "", station, calling][str(reason)] += 1
        for key, reasons in refused.items():
            lines.append(DailyFigures(*key, sum(reasons.values()), dict(reasons), None, (0,) * BINS, None, None, None))
        lines += [_figures(key, rows) for key, rows in by_day.items()]
        lines.sort(key=lambda line: (line.day, line.model, line.station or "", line.calling_ae_title or ""))
        if most_age:
            self._latest_days = (time.monotonic(), until - since, lines)
        return lines

    def _rows(self, since: datetime, until: datetime) -> list[Row[Any]]:
        columns = (
            *(jobs.c[name] for name in ("model", "state", "reason", "abnormal", *_MEASURED)),
            *(instances.c[name] for name in ("station_name", "calling_ae_title", "received_at")),
        )
        query = (
            select(*columns)
            .join_from(instances, jobs, JOB_OF_VERSION)
            .where(
                instances.c.received_at >= since,
                instances.c.received_at < until,
                jobs.c.urgency <= Urgency.SHADOW,
                jobs.c.state.in_((JobState.DELIVERING, JobState.DONE, JobState.REFUSED)),
            )
        )
        with self._db.read() as conn:
            return list(conn.execute(query).all())

    def _fixed(self) -> dict[str, Any] | None:
        with self._db.read() as conn:
            value = conn.execute(select(markers.c.value).where(markers.c.name == _BASELINE)).scalar_one_or_none()
        return None if value is None else dict(json.loads(value))


def _baseline(fixed: Mapping[str, Any]) -> Baseline:
    whole = {group["group"][0]: group["images"] for group in fixed["groups"] if group["group"][2] is None}
    since, until, at = (datetime.fromisoformat(fixed[name]) for name in ("since", "until", "at"))
    return Baseline(since, until, at, whole, len(fixed["groups"]))


def _grouped(rows: Sequence[Row[Any]]) -> dict[_Group, list[Row[Any]]]:
    groups: dict[_Group, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        groups[row.model, None, None].append(row)
        groups[row.model, row.station_name or "", row.calling_ae_title].append(row)
    return groups


def _histograms(rows: Sequence[Row[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Statistic -> edges of its bins, of which what became of an image has none, and how many values lie in each."""
    yield OUTCOME, {"edges": [], "counts": _outcomes(rows)}
    for name in _MEASURED:
        values = _values(rows, name)
        edges = cuts(values)
        yield name, {"edges": edges, "counts": counted(values, edges)}


def _outcomes(rows: Sequence[Row[Any]]) -> dict[str, int]:
    return dict(Counter(map(_outcome, rows)))


def _outcome(row: Row[Any]) -> str:
    if row.state == JobState.REFUSED:
        return f"refused: {row.reason}"
    return {True: "abnormal", False: "normal", None: "not evaluated"}[row.abnormal]


def _values(rows: Sequence[Row[Any]], name: str) -> list[float]:
    return [value for row in rows if (value := row._mapping[name]) is not None]


def _compared(
    groups: Sequence[Mapping[str, Any]], recent: Mapping[_Group, list[Row[Any]]], window: DriftWindow
) -> Iterator[Drift]:
    level = _LEVEL / max(1, len(groups) * (len(_MEASURED) + 1))
    for group in groups:
        model, station, calling = group["group"]
        rows = recent.get((model, station, calling), [])
        if min(len(rows), group["images"]) < window.images:
            continue
        for name, before in group["statistics"].items():
            counts = _outcomes(rows) if name == OUTCOME else counted(_values(rows, name), before["edges"])
            n, m = sum(before["counts"].values()), sum(counts.values())
            bins = len({*before["counts"], *counts})
            if bins < 2 or min(n, m) < window.images:
                continue
            index, by_chance = psi(before["counts"], counts), chance(bins, n, m, level)
            is_shifted = index > max(window.psi, by_chance)
            yield Drift(model, station, calling, name, index, by_chance, m, n, is_shifted)


def _figures(key: tuple[str, str, str | None, str | None], rows: Sequence[Row[Any]]) -> DailyFigures:
    refused = Counter(str(row.reason) for row in rows if row.state == JobState.REFUSED)
    answers = [row.abnormal for row in rows if row.abnormal is not None]
    scores = [0] * BINS
    for score in _values(rows, "score"):
        scores[min(BINS - 1, max(0, int(score * BINS)))] += 1
    area, brightness, contrast = (
        sum(v) / len(v) if (v := _values(rows, name)) else None for name in ("area", "brightness", "contrast")
    )
    share = sum(answers) / len(answers) if answers else None
    return DailyFigures(*key, len(rows), dict(refused), share, tuple(scores), area, brightness, contrast)
