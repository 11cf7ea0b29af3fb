"""Images that are analysed again: by a newer model, by one on trial, or by the one before, which is a rollback.

Every request makes jobs of the background, some at a time; what is queued or done already is not made again, so that
a request that was cut short is repeated as it was. Until such a job has its results those of before count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Row, Select, and_, exists, func, or_, select

from chexnode.ledger.database import Database, add_rows
from chexnode.ledger.instances import AFRESH, new_job
from chexnode.ledger.moves import happened, locked, move, record
from chexnode.ledger.narrowing import of_instances
from chexnode.ledger.rows import JOB_OF_VERSION, version
from chexnode.ledger.schema import instances, jobs, results
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.purposes import Purpose, Urgency
from chexnode.vocabulary.records import JobSpec
from chexnode.vocabulary.reports import Reanalysis
from chexnode.vocabulary.states import JobState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import ResultKind

_CHUNK = 200
"""Images of one transaction: receivers and workers write in between."""
_ANALYSED = (JobState.DELIVERING, JobState.DONE)
_ENDED = (*_ANALYSED, JobState.REFUSED, JobState.FAILED, JobState.CANCELLED)
_AGAIN = (JobState.FAILED, JobState.CANCELLED)
"""States of a reanalysis that is wanted once more by the same request."""
_REPLACED = (Purpose.REANALYSIS, Purpose.BESIDE)

_Key = tuple[datetime, str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """Which images are analysed again, and how."""

    wanted: Filter
    purpose: Purpose
    """Any but IMAGE."""
    specs: Collection[JobSpec]
    """The analysis; of a rollback, all that workers offer."""
    only_done: bool = False
    """Only images with results; otherwise also those that were refused, failed or were cancelled."""
    per_minute: float = 0
    """How many may be taken up in a minute; 0: no limit."""
    is_dry_run: bool = False


@dataclass(slots=True)
class _Count:
    queued: int = 0
    retried: int = 0
    last_due_at: datetime | None = None


class Reanalyses:
    """Requests."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def request(self, request: Request) -> Reanalysis:
        """Queue what ``request`` means, the latest image first. Raises Transient when the database is away."""
        count, not_offered, models = _Count(), Counter[str](), set[str]()
        with self._db.read() as conn:
            without_source = _count(conn, _candidates(request).where(instances.c.path.is_(None)))
            due_at = max(self._db.clock(), _last_due(conn) or self._db.clock())
        step = timedelta(seconds=60 / request.per_minute) if request.per_minute else timedelta()
        for rows in self._pages(request):
            meant: list[tuple[Row[Any], JobSpec]] = []
            with self._db.read() as conn:
                for row in rows:
                    spec = _spec(conn, row, request)
                    if spec is None:
                        continue
                    if spec in request.specs:
                        meant.append((row, spec))
                    else:
                        not_offered[spec.model] += 1
            models |= {spec.model for _, spec in meant}
            if request.is_dry_run:
                count.queued += len(meant)
                count.last_due_at = due_at + step * (count.queued - 1) if count.queued else None
            elif meant:
                self._queue(request, meant, due_at, step, count)
        return Reanalysis(
            ", ".join(sorted(models or {spec.model for spec in request.specs})),
            count.queued,
            count.retried,
            without_source,
            dict(not_offered),
            count.last_due_at,
            request.is_dry_run,
        )

    def _pages(self, request: Request) -> Iterator[list[Row[Any]]]:
        last: _Key | None = None
        keys = (instances.c.received_at, instances.c.sop_instance_uid, instances.c.digest)
        while True:
            query = _candidates(request).where(instances.c.path.is_not(None))
            if last is not None:
                at, uid, digest = last
                rest = or_(keys[1] < uid, and_(keys[1] == uid, keys[2] < digest))
                query = query.where(keys[0] <= at, or_(keys[0] < at, rest))
            with self._db.read() as conn:
                rows = list(conn.execute(query.order_by(*(key.desc() for key in keys)).limit(_CHUNK)))
            if rows:
                yield rows
            if len(rows) < _CHUNK:
                return
            last = (rows[-1].received_at, rows[-1].sop_instance_uid, rows[-1].digest)

    def _queue(
        self, request: Request, meant: list[tuple[Row[Any], JobSpec]], start: datetime, step: timedelta, count: _Count
    ) -> None:
        now = self._db.clock()
        fresh, created = [], []
        with self._db.write() as conn:
            for row, spec in meant:
                uid, digest = row.sop_instance_uid, row.digest
                # A re-send locks the same: none of both misses what the other made.
                locked(conn, instances, version(uid, digest))
                if _is_made(conn, uid, digest, spec, request.purpose):
                    continue
                due_at = start + step * count.queued
                count.queued, count.last_due_at = count.queued + 1, due_at
                if again := _again(conn, uid, digest, spec, request.purpose):
                    for state in _AGAIN:
                        retried = (state, JobState.QUEUED, Event.RETRIED)
                        move(conn, jobs, *retried, now, jobs.c.id == again, due_at=due_at, **AFRESH)
                    count.retried += 1
                    continue
                number = -1 if request.purpose is Purpose.SHADOW else _number(conn, uid, digest, spec)
                job = new_job(uid, digest, spec, "", now, number, request.purpose, Urgency.BACKGROUND)
                fresh.append(job | {"due_at": due_at})
                created.append(happened("job", job["id"], Event.CREATED, now, None, JobState.QUEUED, request.purpose))
            add_rows(conn, jobs, fresh)
            record(conn, created)


def _candidates(request: Request) -> Select[Any]:
    """Versions whose answer is another one than is wanted, with that answer's analysis."""
    columns = (*(instances.c[name] for name in ("sop_instance_uid", "digest", "received_at")), *_SPEC)
    query = select(*columns).join_from(jobs, instances, JOB_OF_VERSION)
    states = _ANALYSED if request.only_done or request.purpose in (Purpose.ROLLBACK, Purpose.SHADOW) else _ENDED
    rejected = exists().where(results.c.job_id == jobs.c.id, results.c.superseded == Supersession.REJECTED)
    query = query.where(~jobs.c.superseded, ~rejected, jobs.c.state.in_(states), *of_instances(request.wanted))
    if request.purpose is Purpose.SHADOW:
        (spec,) = request.specs
        return query.where(~_others(spec, (Purpose.SHADOW,), tuple(s for s in JobState if s not in _AGAIN)))
    # Results that ended with nothing in their place but those of another version, or because a person wanted it.
    theirs = and_(results.c.job_id == jobs.c.id, results.c.kind != ResultKind.KO)
    ended = select(results.c.uid).where(theirs, results.c.superseded.is_not(None)).exists()
    query = query.where(~ended)
    if request.purpose is Purpose.ROLLBACK:
        return query.where(jobs.c.purpose.in_(_REPLACED), ~_others(None, (Purpose.ROLLBACK,), _UNDER_WAY))
    (spec,) = request.specs
    return query.where(~_is_of(jobs, spec), ~_others(spec, _REPLACED, _STANDING))


_SPEC = (jobs.c.model, jobs.c.model_digest, jobs.c.settings_digest)
_UNDER_WAY = (JobState.QUEUED, JobState.RUNNING, JobState.DELIVERING)
_STANDING = (*_UNDER_WAY, JobState.REFUSED, JobState.SKIPPED)
"""States of a reanalysis that is under way or has ended without results: it is not made again."""


def _is_of(table: FromClause, spec: JobSpec) -> ColumnElement[bool]:
    return and_(table.c.model_digest == spec.model_digest, table.c.settings_digest == spec.settings_digest)


def _others(spec: JobSpec | None, purposes: Collection[Purpose], states: Collection[JobState]) -> ColumnElement[bool]:
    """Whether the version has such a job; ``spec``: None stands for any."""
    other = jobs.alias("other")
    same = and_(other.c.sop_instance_uid == instances.c.sop_instance_uid, other.c.digest == instances.c.digest)
    of = (same, other.c.purpose.in_(list(purposes)), other.c.state.in_(list(states)))
    by = () if spec is None else (_is_of(other, spec),)
    return select(other.c.id).where(*of, *by).correlate(instances).exists()


def _spec(conn: Connection, row: Row[Any], request: Request) -> JobSpec | None:
    """The analysis that this version is to get; of a rollback that of its results before, None where it had none."""
    if request.purpose is not Purpose.ROLLBACK:
        (spec,) = request.specs
        return spec
    before = (
        select(*_SPEC)
        .where(
            jobs.c.sop_instance_uid == row.sop_instance_uid,
            jobs.c.digest == row.digest,
            jobs.c.purpose != Purpose.SHADOW,
            jobs.c.state.in_(_ANALYSED),
            or_(jobs.c.model_digest != row.model_digest, jobs.c.settings_digest != row.settings_digest),
        )
        .order_by(jobs.c.created_at.desc())
        .limit(1)
    )
    found = conn.execute(before).one_or_none()
    return None if found is None else JobSpec(*found)


def _of_request(uid: str, digest: str, spec: JobSpec, purpose: Purpose) -> ColumnElement[bool]:
    purposes = _REPLACED if purpose in _REPLACED else (purpose,)
    of_version = (jobs.c.sop_instance_uid == uid, jobs.c.digest == digest)
    return and_(*of_version, _is_of(jobs, spec), jobs.c.purpose.in_(purposes))


def _is_made(conn: Connection, uid: str, digest: str, spec: JobSpec, purpose: Purpose) -> bool:
    """Whether it is under way, of this request or of one at the same time."""
    query = select(jobs.c.id).where(_of_request(uid, digest, spec, purpose), jobs.c.state.in_(_UNDER_WAY))
    return conn.execute(query.limit(1)).first() is not None


def _again(conn: Connection, uid: str, digest: str, spec: JobSpec, purpose: Purpose) -> str | None:
    query = select(jobs.c.id).where(_of_request(uid, digest, spec, purpose), jobs.c.state.in_(_AGAIN))
    job: str | None = conn.execute(query.order_by(jobs.c.created_at.desc()).limit(1)).scalar_one_or_none()
    return job


def _number(conn: Connection, uid: str, digest: str, spec: JobSpec) -> int:
    """Of its key: 0 where the version was never analysed so, else one that no job of it has."""
    if conn.execute(select(jobs.c.id).where(jobs.c.key == spec.key(uid, digest))).first() is None:
        return 0
    of_version = and_(jobs.c.sop_instance_uid == uid, jobs.c.digest == digest)
    return int(conn.execute(select(func.count()).select_from(jobs).where(of_version)).scalar_one())


def _count(conn: Connection, query: Select[Any]) -> int:
    return int(conn.execute(select(func.count()).select_from(query.subquery())).scalar_one())


def _last_due(conn: Connection) -> datetime | None:
    """When the last of what earlier requests have queued may be taken up: the next one goes on after it."""
    waiting = and_(jobs.c.state == JobState.QUEUED, jobs.c.urgency == Urgency.BACKGROUND)
    last: datetime | None = conn.execute(select(func.max(jobs.c.due_at)).where(waiting)).scalar_one_or_none()
    return last
