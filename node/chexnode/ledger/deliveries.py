"""Deliveries: one result to one destination, with the breaker that keeps a dead destination from blocking others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, tuple_, union_all, update

from chexnode.ledger.database import Database, add_missing, in_chunks, note_event, record_events
from chexnode.ledger.jobs import finish_delivered
from chexnode.ledger.rows import COMMITTING
from chexnode.ledger.schema import deliveries, destinations, jobs, results
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.records import DeliveryClaim, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.variants import ResultKind

LEASE = timedelta(seconds=60)
"""A courier that does not renew for this long has lost its deliveries: somebody else may send them again."""

_OPEN = (DeliveryState.PENDING, DeliveryState.WAITING)


@dataclass(frozen=True, slots=True)
class Breaker:
    """What the ledger knows of a destination's health."""

    failures: int = 0
    """Failures in a row of the destination as a whole."""
    open_until: datetime | None = None
    """Nothing is tried before; None: closed."""
    last_error: str | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None


class Deliveries:
    """The delivering side of the ledger."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def claim(self, destination: str, limit: int) -> list[DeliveryClaim]:
        """Put up to ``limit`` due deliveries to ``destination`` under a lease, oldest first; none while its breaker
        is open."""
        now = self._db.clock()
        with self._db.write() as conn:
            held = conn.execute(
                select(destinations.c.open_until).where(destinations.c.name == destination)
            ).scalar_one_or_none()
            if held is not None and held > now:
                return []
            ids = list(
                conn.execute(
                    select(deliveries.c.id)
                    .where(deliveries.c.destination == destination, _due(now))
                    .order_by(deliveries.c.id)
                    .limit(limit)
                    .with_for_update(skip_locked=True)
                ).scalars()
            )
            if not ids:
                return []
            conn.execute(
                update(deliveries)
                .where(deliveries.c.id.in_(ids))
                .values(fence=deliveries.c.fence + 1, lease_until=now + LEASE)
            )
            rows = conn.execute(
                select(
                    deliveries.c.id,
                    deliveries.c.fence,
                    deliveries.c.job_id,
                    deliveries.c.attempts,
                    deliveries.c.error,
                    deliveries.c.created_at,
                    results.c.kind,
                    results.c.uid,
                    results.c.sop_class_uid,
                    results.c.path,
                    results.c.sha256,
                    results.c.size,
                )
                .join(results, results.c.uid == deliveries.c.result_uid)
                .where(deliveries.c.id.in_(ids))
                .order_by(deliveries.c.id)
            ).all()
        return [
            DeliveryClaim(
                id=row.id,
                fence=row.fence,
                job=row.job_id,
                destination=destination,
                kind=ResultKind(row.kind),
                sop_instance_uid=row.uid,
                sop_class_uid=row.sop_class_uid,
                path=row.path,
                sha256=row.sha256,
                size=row.size,
                attempts=row.attempts,
                error=row.error or "",
                created_at=row.created_at,
            )
            for row in rows
        ]

    def renew(self, claims: Sequence[DeliveryClaim]) -> None:
        """Extend the leases of claims not yet settled."""
        now = self._db.clock()
        if not claims:
            return
        with self._db.write() as conn:
            conn.execute(
                update(deliveries)
                .where(tuple_(deliveries.c.id, deliveries.c.fence).in_([(c.id, c.fence) for c in claims]))
                .values(lease_until=now + LEASE)
            )

    def release(self, claims: Sequence[DeliveryClaim]) -> None:
        """Give claims back untried."""
        if not claims:
            return
        with self._db.write() as conn:
            conn.execute(
                update(deliveries)
                .where(tuple_(deliveries.c.id, deliveries.c.fence).in_([(c.id, c.fence) for c in claims]))
                .values(lease_until=None)
            )

    def release_all(self) -> None:
        """Give every claim back, for a start when no courier can be alive."""
        with self._db.write() as conn:
            conn.execute(
                update(deliveries)
                .where(deliveries.c.lease_until.is_not(None))
                .values(lease_until=None, fence=deliveries.c.fence + 1)
            )

    def settle(self, outcomes: Sequence[DeliveryOutcome]) -> int:
        """Write what became of claimed deliveries and finish their jobs; outcomes of lost leases are left out.

        Returns how many were written. One transaction, so that a job and its last delivery move together.
        """
        now = self._db.clock()
        written = 0
        with self._db.write() as conn:
            job_ids = sorted({o.claim.job for o in outcomes if o.claim.job is not None})
            # Two couriers settling one job's last deliveries must see each other: the job's row is the meeting point.
            lock_jobs(conn, job_ids)
            history = []
            for outcome in outcomes:
                claim = outcome.claim
                where = and_(deliveries.c.id == claim.id, deliveries.c.fence == claim.fence)
                state = conn.execute(
                    select(deliveries.c.state).where(where, deliveries.c.state.in_(_OPEN)).with_for_update()
                ).scalar_one_or_none()
                if state is None:
                    continue
                conn.execute(
                    update(deliveries)
                    .where(where)
                    .values(
                        state=outcome.state,
                        attempts=deliveries.c.attempts + 1,
                        lease_until=None,
                        next_attempt=outcome.next_attempt,
                        commit_at=now if outcome.to_be_committed else None,
                        error=outcome.error or None,
                        finished_at=None if outcome.state in _OPEN or outcome.to_be_committed else now,
                    )
                )
                history.append(
                    note_event(
                        "delivery",
                        claim.id,
                        outcome.state.lower(),
                        now,
                        DeliveryState(state),
                        outcome.state,
                        outcome.error or None,
                    )
                )
                written += 1
            record_events(conn, history)
            finish_delivered(conn, job_ids, now)
        return written

    def replay(self, *, ids: Sequence[int] = (), destination: str | None = None, dead_only: bool = False) -> int:
        """Send again: terminal deliveries become PENDING, of ``ids``, of a destination, or all; return how many.

        Raises Usage for an id that does not exist or whose file retention has deleted.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            states = (
                [DeliveryState.DEAD]
                if dead_only
                else [DeliveryState.DEAD, DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.WAITING]
            )
            where: Any = and_(deliveries.c.state.in_(states), results.c.path.is_not(None))
            if ids:
                where = and_(where, deliveries.c.id.in_(ids))
            if destination is not None:
                where = and_(where, deliveries.c.destination == destination)
            wanted = (
                select(deliveries.c.id, deliveries.c.job_id, deliveries.c.result_uid, deliveries.c.state)
                .join(results, results.c.uid == deliveries.c.result_uid)
                .where(where)
                .order_by(deliveries.c.job_id, deliveries.c.id)
            )
            found = conn.execute(wanted).all()
            replayed: set[int] = set()
            for some in in_chunks(found):
                # The jobs' rows first, as when settling: couriers and retention wait, and the look below is the truth.
                lock_jobs(conn, _jobs_of(some))
                lock_reports(conn, [row.result_uid for row in some if row.job_id is None])
                rows = conn.execute(wanted.where(deliveries.c.id.in_([row.id for row in some]))).all()
                conn.execute(
                    update(deliveries)
                    .where(deliveries.c.id.in_([row.id for row in rows]))
                    .values(
                        state=DeliveryState.PENDING,
                        next_attempt=None,
                        finished_at=None,
                        lease_until=None,
                        commit_at=None,
                        created_at=now,
                        fence=deliveries.c.fence + 1,
                    )
                )
                reopened = conn.execute(
                    update(jobs)
                    .where(jobs.c.id.in_(_jobs_of(rows)), jobs.c.state == JobState.DONE)
                    .values(state=JobState.DELIVERING, finished_at=None)
                    .returning(jobs.c.id)
                ).scalars()
                history = [note_event("job", i, "replayed", now, JobState.DONE, JobState.DELIVERING) for i in reopened]
                history += [
                    note_event("delivery", row.id, "replayed", now, DeliveryState(row.state), DeliveryState.PENDING)
                    for row in rows
                ]
                record_events(conn, history)
                replayed |= {row.id for row in rows}
            missing = set(ids) - replayed
            if missing:
                raise Usage(f"no delivery to replay: {', '.join(str(i) for i in sorted(missing))}")
        return len(replayed)

    def past_retention(self, destination: str | None = None) -> int:
        """How many deliveries no replay can send again, because retention has deleted their files."""
        gone = select(func.count()).select_from(deliveries.join(results, results.c.uid == deliveries.c.result_uid))
        gone = gone.where(results.c.path.is_(None))
        if destination is not None:
            gone = gone.where(deliveries.c.destination == destination)
        with self._db.read() as conn:
            return int(conn.execute(gone).scalar_one())

    def due(self) -> dict[str, int]:
        """Destination -> deliveries that could be tried now, breakers considered."""
        now = self._db.clock()
        with self._db.read() as conn:
            counts = conn.execute(
                select(deliveries.c.destination, func.count())
                .outerjoin(destinations, destinations.c.name == deliveries.c.destination)
                .where(
                    or_(_due(now), to_be_committed(now)),
                    or_(destinations.c.open_until.is_(None), destinations.c.open_until <= now),
                )
                .group_by(deliveries.c.destination)
            )
            return {name: int(count) for name, count in counts}

    def give_up(self, known_destinations: Sequence[str]) -> int:
        """Make DEAD what waits for a destination that the settings no longer have; return how many."""
        now = self._db.clock()
        with self._db.write() as conn:
            # One search for each kind of unfinished: together SQLite would read all rows in the order of their ids.
            elsewhere = deliveries.c.destination.not_in(list(known_destinations))
            unfinished = (deliveries.c.state.in_(_OPEN), COMMITTING)
            ids = union_all(*(select(deliveries.c.id).where(one, elsewhere) for one in unfinished))
            lost = (
                select(deliveries.c.id, deliveries.c.job_id, deliveries.c.state)
                .where(deliveries.c.id.in_(ids))
                .order_by(deliveries.c.id)
                .limit(500)  # the next tick goes on
            )
            lock_jobs(conn, _jobs_of(conn.execute(lost).all()))
            rows = conn.execute(lost.with_for_update()).all()
            if not rows:
                return 0
            error = "the destination is no longer in the settings"
            conn.execute(
                update(deliveries)
                .where(deliveries.c.id.in_([row.id for row in rows]))
                .values(state=DeliveryState.DEAD, error=error, finished_at=now, lease_until=None, commit_at=None)
            )
            record_events(
                conn,
                [
                    note_event("delivery", r.id, "dead", now, DeliveryState(r.state), DeliveryState.DEAD, error)
                    for r in rows
                ],
            )
            finish_delivered(conn, _jobs_of(rows), now)
        return len(rows)

    def breaker(self, destination: str) -> Breaker:
        """The destination's health."""
        with self._db.read() as conn:
            row = conn.execute(select(destinations).where(destinations.c.name == destination)).one_or_none()
        if row is None:
            return Breaker()
        return Breaker(row.failures, row.open_until, row.last_error, row.last_success_at, row.last_failure_at)

    def destination_failed(self, destination: str, error: str, open_until: datetime) -> None:
        """The destination as a whole failed: nothing is tried before ``open_until``."""
        now = self._db.clock()
        with self._db.write() as conn:
            add_missing(conn, destinations, [{"name": destination, "failures": 0}])
            conn.execute(
                update(destinations)
                .where(destinations.c.name == destination)
                .values(
                    failures=destinations.c.failures + 1, open_until=open_until, last_error=error, last_failure_at=now
                )
            )

    def destination_succeeded(self, destination: str) -> None:
        """The destination answered: close its breaker."""
        now = self._db.clock()
        with self._db.write() as conn:
            add_missing(conn, destinations, [{"name": destination, "failures": 0}])
            conn.execute(
                update(destinations)
                .where(destinations.c.name == destination)
                .values(failures=0, open_until=None, last_success_at=now)
            )


def _jobs_of(rows: Sequence[Any]) -> list[str]:
    """Their jobs; a study's report has none."""
    return sorted({row.job_id for row in rows if row.job_id is not None})


def lock_reports(conn: Connection, uids: Sequence[str]) -> None:
    """Wait for, and keep out, who would replay or delete these reports of studies."""
    conn.execute(select(results.c.uid).where(results.c.uid.in_(uids)).order_by(results.c.uid).with_for_update()).all()


def lock_jobs(conn: Connection, job_ids: Sequence[str]) -> None:
    """Wait for, and keep out, whoever else moves these jobs' deliveries; in one order, so that nobody deadlocks."""
    conn.execute(select(jobs.c.id).where(jobs.c.id.in_(job_ids)).order_by(jobs.c.id).with_for_update()).all()


def to_be_committed(now: datetime) -> ColumnElement[bool]:
    """Deliveries whose storage commitment is to be asked for."""
    return deliveries.c.commit_at <= now


def _due(now: datetime) -> Any:
    return and_(
        deliveries.c.state.in_(_OPEN),
        or_(deliveries.c.next_attempt.is_(None), deliveries.c.next_attempt <= now),
        or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now),
    )
