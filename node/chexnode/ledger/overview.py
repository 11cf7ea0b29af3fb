"""How the node does at this moment, for a page that is read from across a room: counted by indexes alone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, false, func, select

from chexnode.ledger.database import Database
from chexnode.ledger.schema import deliveries, destinations, instances, jobs
from chexnode.vocabulary.purposes import AWAITED
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState, Uncommitted

RECENT = 500
"""Turnaround and the share of abnormal images are of this many analyses, the latest."""
SCORES = 4000
"""Scores are of this many analyses, the latest."""
MINUTES = 60
"""Of which images are counted minute by minute."""
_SOURCES = 12
_WEEKS, _USUAL = 4, 3
"""A station usually sends at a time when it did in all but one of so many weeks, so many images at least."""
_LATE_COMMIT = timedelta(minutes=10)
"""A row is seen no later than this after the moment that it is of."""


@dataclass(frozen=True, slots=True)
class SourceView:
    """Who sends images, and when last."""

    calling_ae_title: str
    station_name: str | None
    """Station Name (0008,1010); None where the image has none."""
    last_at: datetime


@dataclass(frozen=True, slots=True)
class DestinationView:
    """A destination's health and what waits for it."""

    name: str
    waiting: int = 0
    """Deliveries that are to be sent."""
    dead: int = 0
    """Deliveries that were given up."""
    waiting_since: datetime | None = None
    """When the oldest that waits was made."""
    failures: int = 0
    """In a row, of the destination as a whole."""
    open_until: datetime | None = None
    """Its breaker is open: nothing is tried before."""
    last_error: str | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    paused_at: datetime | None = None
    """Since when nothing is sent to it, because a person wants it so; None: it is not paused."""


@dataclass(frozen=True, slots=True)
class RefusalCounts:
    """Images that were not analysed, of those that came in the last hour, and in the week before it."""

    received: int = 0
    refused: int = 0
    usually_received: int = 0
    usually_refused: int = 0


@dataclass(frozen=True, slots=True)
class Overview:
    """One look."""

    at: datetime
    states: Counter[str]
    """State -> images received since midnight: of the job, or of the instance where there is none."""
    reasons: Counter[str]
    """Why not analysed -> images received since midnight."""
    queued: int
    running: int
    oldest_queued_at: datetime | None
    turnarounds: Sequence[float]
    """Seconds from arrival to the last delivery of recent analyses, ascending."""
    evaluated: int
    """Recent analyses with an answer."""
    abnormal: int
    """Those of them that say abnormal."""
    inference_seconds: float | None
    """Of an image in a batch, the mean of recent analyses; None while it was not measured."""
    per_minute: Sequence[int]
    """Images received in each of the last minutes, the present one last."""
    sources: Sequence[SourceView]
    """The latest first."""
    destinations: Sequence[DestinationView] = field(default_factory=tuple)
    """By name."""

    @property
    def received(self) -> int:
        """Images since midnight."""
        return self.states.total()

    def turnaround(self, share: float) -> float | None:
        """The quantile ``share``, in (0, 1), of the recent turnarounds in seconds; None while there is none."""
        if not self.turnarounds:
            return None
        return self.turnarounds[min(len(self.turnarounds) - 1, int(share * len(self.turnarounds)))]


class Overviews:
    """Counts and lists what the overview and the alarms show. Thread safe."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str | None], datetime] = {}
        """(calling AE title, station name) -> its latest image, of all that was read so far."""

    def look(self, midnight: datetime, known_destinations: Sequence[str]) -> Overview:
        """Count in one snapshot; ``known_destinations`` are listed even where nothing was ever sent to them."""
        now = self._db.clock()
        with self._db.read() as conn:
            states, reasons = _of_today(conn, midnight)
            recent = conn.execute(recent_analyses()).all()
            answers = [row.abnormal for row in recent if row.abnormal is not None]
            inferences = [row.inference_seconds for row in recent if row.inference_seconds is not None]
            ended = [row for row in recent if row.finished_at is not None]
            return Overview(
                at=now,
                states=states,
                reasons=reasons,
                queued=_count(conn, jobs.c.state == JobState.QUEUED, jobs.c.urgency <= AWAITED),
                running=_count(conn, jobs.c.state == JobState.RUNNING),
                oldest_queued_at=conn.execute(
                    select(func.min(jobs.c.created_at)).where(
                        jobs.c.state == JobState.QUEUED, jobs.c.urgency <= AWAITED
                    )
                ).scalar_one_or_none(),
                turnarounds=sorted((row.finished_at - row.created_at).total_seconds() for row in ended),
                evaluated=len(answers),
                abnormal=sum(answers),
                inference_seconds=sum(inferences) / len(inferences) if inferences else None,
                per_minute=_per_minute(conn, now),
                sources=self._sources(conn),
                destinations=self._destinations(conn, known_destinations),
            )

    def scores(self, model_digest: str, settings_digest: str) -> list[float]:
        """What an analysis answered, of the latest that are done of all."""
        columns = (jobs.c.score, jobs.c.model_digest, jobs.c.settings_digest)
        query = select(*columns).where(jobs.c.state == JobState.DONE).order_by(jobs.c.created_at.desc())
        with self._db.read() as conn:
            rows = conn.execute(query.limit(SCORES)).all()
        wanted = (model_digest, settings_digest)
        return [float(row.score) for row in rows if row.score is not None and tuple(row[1:]) == wanted]

    def destinations(self, known: Sequence[str]) -> list[DestinationView]:
        """Those that are ``known`` or that something was ever sent to."""
        with self._db.read() as conn:
            return self._destinations(conn, known)

    def silent(self, hours: float) -> list[SourceView]:
        """Who sent nothing in the last ``hours``, but three images or more in the same hours of three of four weeks."""
        now, length = self._db.clock(), timedelta(hours=hours)
        by = (instances.c.calling_ae_title, instances.c.station_name)

        def sent(until: datetime, least: int) -> set[tuple[str, str | None]]:
            within = instances.c.received_at.between(until - length, until)
            query = select(*by).where(within).group_by(*by).having(func.count() >= least)
            return {(caller, station) for caller, station in conn.execute(query)}

        with self._db.read() as conn:
            weeks = Counter(one for week in range(1, _WEEKS + 1) for one in sent(now - timedelta(weeks=week), _USUAL))
            silent = {one for one, count in weeks.items() if count >= _WEEKS - 1} - sent(now, 1) if hours else set()
            found = []
            for caller, station in sorted(silent, key=str):
                theirs = (by[0] == caller, by[1].is_not_distinct_from(station))
                latest = conn.execute(select(func.max(instances.c.received_at)).where(*theirs)).scalar_one()
                found.append(SourceView(caller, station, latest))
        return found

    def refusals(self) -> RefusalCounts:
        """How many images were not analysed: by the gate, because of their pixels, or because their job failed."""
        now = self._db.clock()
        hour, week = now - timedelta(hours=1), now - timedelta(hours=1, weeks=1)
        at, state = instances.c.received_at, instances.c.state
        failed = (JobState.REFUSED, JobState.FAILED)

        def counted(conn: Connection, start: datetime, end: datetime) -> tuple[int, int]:
            received = select(func.count()).where(at >= start, at < end)
            turned = received.where(state.in_((InstanceState.NOT_ANALYSED, InstanceState.QUARANTINED)))
            within = (jobs.c.created_at >= start, jobs.c.created_at < end, jobs.c.urgency <= AWAITED)
            refused = _count(conn, jobs.c.state.in_(failed), *within)
            return conn.execute(received).scalar_one(), conn.execute(turned).scalar_one() + refused

        with self._db.read() as conn:
            return RefusalCounts(*counted(conn, hour, now + _LATE_COMMIT), *counted(conn, week, hour))

    def uncommitted(self, patience: timedelta) -> dict[str, int]:
        """Destination -> results that it refused to commit to, or has had for ``patience`` without committing."""
        refused = and_(deliveries.c.state == DeliveryState.WAITING, deliveries.c.uncommitted == Uncommitted.REFUSED)
        silent = and_(deliveries.c.commit_at.is_not(None), deliveries.c.created_at < self._db.clock() - patience)
        found: Counter[str] = Counter()
        with self._db.read() as conn:
            for condition in (refused, silent):
                query = select(deliveries.c.destination, func.count()).where(condition)
                found.update({name: count for name, count in conn.execute(query.group_by(deliveries.c.destination))})
        return dict(found)

    def sources(self) -> list[SourceView]:
        """Who sent the latest images."""
        with self._db.read() as conn:
            return self._sources(conn)

    def _sources(self, conn: Connection) -> list[SourceView]:
        """All images are looked through once; from then on those that came since, and shortly before."""
        by = (instances.c.calling_ae_title, instances.c.station_name)
        at = instances.c.received_at
        with self._lock:
            if self._last:  # not grouped: the index of the time is the one to take
                query = select(*by, at).where(at >= max(self._last.values()) - _LATE_COMMIT).order_by(at)
            else:
                query = select(*by, func.max(at)).group_by(*by)
            self._last |= {(caller, station): at for caller, station, at in conn.execute(query)}
            latest = sorted(self._last.items(), key=lambda item: item[1], reverse=True)
        return [SourceView(caller, station, at) for (caller, station), at in latest[:_SOURCES]]

    def _destinations(self, conn: Connection, known: Sequence[str]) -> list[DestinationView]:
        counts: dict[tuple[str, str], int] = Counter()
        since: dict[str, datetime] = {}
        by = (deliveries.c.destination, deliveries.c.state)
        open_states = (DeliveryState.PENDING, DeliveryState.WAITING, DeliveryState.DEAD)
        query = select(*by, func.count(), func.min(deliveries.c.created_at)).where(deliveries.c.state.in_(open_states))
        for name, state, count, oldest in conn.execute(query.group_by(*by)):
            counts[name, state] = count
            if state != DeliveryState.DEAD:
                since[name] = min(oldest, since.get(name, oldest))
        rows = {row.name: row for row in conn.execute(select(destinations))}
        paused = [name for name, row in rows.items() if row.paused_at is not None]
        found = []
        for name in sorted({*known, *(name for name, _ in counts), *paused}):
            row = rows.get(name)
            found.append(
                DestinationView(
                    name,
                    counts.get((name, DeliveryState.PENDING), 0) + counts.get((name, DeliveryState.WAITING), 0),
                    counts.get((name, DeliveryState.DEAD), 0),
                    since.get(name),
                    *((row.failures, row.open_until, row.last_error) if row else (0, None, None)),
                    *((row.last_success_at, row.last_failure_at, row.paused_at) if row else (None, None, None)),
                )
            )
        return found


def _of_today(conn: Connection, midnight: datetime) -> tuple[Counter[str], Counter[str]]:
    states, reasons = Counter[str](), Counter[str]()
    for state in JobState:
        # As in the images' list: the index of the day answers this, not that of what counts.
        counts = func.coalesce(jobs.c.superseded, false()) == false()
        of_state = (jobs.c.state == state, jobs.c.created_at >= midnight, counts)
        if count := _count(conn, *of_state):
            states[state] = count
        if state is JobState.REFUSED:
            _add_reasons(conn, reasons, select(jobs.c.reason, func.count()).where(*of_state).group_by(jobs.c.reason))
    for verdict in (InstanceState.NOT_ANALYSED, InstanceState.QUARANTINED):
        of_verdict = (instances.c.state == verdict, instances.c.received_at >= midnight)
        by_reason = select(instances.c.reason, func.count()).where(*of_verdict).group_by(instances.c.reason)
        if count := _add_reasons(conn, reasons, by_reason):
            states[verdict] = count
    return states, reasons


def _add_reasons(conn: Connection, reasons: Counter[str], query: Select[Any]) -> int:
    found = {str(row[0]): int(row[1]) for row in conn.execute(query)}
    reasons.update(found)
    return sum(found.values())


def _count(conn: Connection, *conditions: ColumnElement[bool]) -> int:
    return int(conn.execute(select(func.count()).select_from(jobs).where(*conditions)).scalar_one())


def recent_analyses() -> Select[Any]:
    """The latest analyses that somebody waited for: when they came and were done, and what they say."""
    # Not the bare column: a database would take the index of state and urgency, and sort all that is done.
    is_awaited = func.coalesce(jobs.c.urgency, 0) <= AWAITED
    return (
        select(jobs.c.created_at, jobs.c.finished_at, jobs.c.abnormal, jobs.c.inference_seconds)
        .where(jobs.c.state == JobState.DONE, is_awaited)
        .order_by(jobs.c.created_at.desc())
        .limit(RECENT)
    )


def _per_minute(conn: Connection, now: datetime) -> list[int]:
    first = now.replace(second=0, microsecond=0) - timedelta(minutes=MINUTES - 1)
    counts = [0] * MINUTES
    for at in conn.execute(select(instances.c.received_at).where(instances.c.received_at >= first)).scalars():
        counts[min(MINUTES - 1, int((at - first).total_seconds() // 60))] += 1
    return counts
