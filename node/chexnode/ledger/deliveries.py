"""Deliveries: one result to one destination, with the breaker that keeps a dead destination from blocking others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, tuple_, union_all, update

from chexnode.ledger.database import Database, add_missing, in_chunks
from chexnode.ledger.moves import finish_delivered, locked, move, move_each, new_fence
from chexnode.ledger.narrowing import of_deliveries
from chexnode.ledger.rows import COMMITTING, TO_BE_SENT, delivery_claims
from chexnode.ledger.schema import deliveries, destinations, jobs, results
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.filters import EVERYTHING, Filter
from chexnode.vocabulary.records import DeliveryClaim, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, JobState, Uncommitted

LEASE = timedelta(seconds=60)
"""A courier that does not renew for this long has lost its deliveries: somebody else may send them again."""

FORGOTTEN_AFTER = timedelta(minutes=15)
"""A destination that no host knows for this long is gone from the settings: during a rolling upgrade hosts differ."""

_TO_RESULT = results.c.uid == deliveries.c.result_uid
_STATE = (deliveries.c.id, deliveries.c.job_id, deliveries.c.state)

NO_ERROR: dict[str, Any] = {"error": None, "comment": None, "uncommitted": None}
"""What of a delivery says why it is not done, where nothing does."""


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
        is open or it is paused."""
        now = self._db.clock()
        closed = select(destinations.c.name).where(destinations.c.name == destination, ~is_open(now))
        with self._db.write() as conn:
            if conn.execute(closed).first() is not None:
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
            lease = {"fence": new_fence(), "lease_until": now + LEASE}
            conn.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(**lease))
            return delivery_claims(conn, ids)

    def renew(self, claims: Sequence[DeliveryClaim]) -> None:
        """Extend the leases of claims not yet settled."""
        self._lease(claims, self._db.clock() + LEASE)

    def release(self, claims: Sequence[DeliveryClaim]) -> None:
        """Give claims back untried."""
        self._lease(claims, None)

    def _lease(self, claims: Sequence[DeliveryClaim], until: datetime | None) -> None:
        if claims:
            with self._db.write() as conn:
                conn.execute(update(deliveries).where(_under(claims)).values(lease_until=until))

    def release_all(self) -> None:
        """Give every claim back, for a start when no courier can be alive."""
        given = update(deliveries).where(deliveries.c.lease_until.is_not(None))
        with self._db.write() as conn:
            conn.execute(given.values(lease_until=None, fence=new_fence()))

    def settle(self, outcomes: Sequence[DeliveryOutcome]) -> int:
        """Write what became of claimed deliveries and finish their jobs; outcomes of lost leases are left out.

        Returns how many were written. One transaction, so that a job and its last delivery move together.
        """
        now = self._db.clock()
        job_ids = sorted({o.claim.job for o in outcomes if o.claim.job is not None})
        alike: dict[Any, list[int]] = defaultdict(list)
        for o in outcomes:
            alike[o.state, o.why or None, o.error or None, o.comment or None, o.next_attempt, o.to_be_committed].append(
                o.claim.id
            )
        with self._db.write() as conn:
            # Two couriers settling one job's last deliveries must see each other: the job's row is the meeting point.
            lock_jobs(conn, job_ids)
            ours = and_(_under([o.claim for o in outcomes]), deliveries.c.state.in_(TO_BE_SENT))
            rows = {row.id: row for row in locked(conn, deliveries, ours, *_STATE)}
            for (state, why, error, comment, next_attempt, to_be_committed), ids in alike.items():
                move_each(
                    conn,
                    deliveries,
                    [rows[i] for i in ids if i in rows],
                    state,
                    Event(state.lower()),
                    now,
                    why,
                    attempts=deliveries.c.attempts + 1,
                    lease_until=None,
                    next_attempt=next_attempt,
                    commit_at=now if to_be_committed else None,
                    error=error,
                    comment=comment,
                    uncommitted=None,
                    finished_at=None if state in TO_BE_SENT or to_be_committed else now,
                )
            finish_delivered(conn, job_ids, now)
        return len(rows)

    def replay(
        self,
        *,
        ids: Sequence[int] = (),
        destination: str | None = None,
        dead_only: bool = False,
        wanted: Filter = EVERYTHING,
        by: str | None = None,
    ) -> int:
        """Send again: terminal deliveries become PENDING, of ``ids``, of a destination, or all; return how many.

        Raises Usage for an id that does not exist or whose file retention has deleted.
        """
        now = self._db.clock()
        accepted = () if dead_only else (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.WAITING)
        where: list[ColumnElement[bool]] = [
            deliveries.c.state.in_((DeliveryState.DEAD, *accepted)),
            results.c.path.is_not(None),
            results.c.superseded.is_(None),
        ]
        if ids:
            where.append(deliveries.c.id.in_(ids))
        if destination is not None:
            where.append(deliveries.c.destination == destination)
        where += of_deliveries(wanted)
        query = select(*_STATE, deliveries.c.result_uid).join(results, _TO_RESULT).where(*where)
        query = query.order_by(deliveries.c.job_id, deliveries.c.id)
        replayed: set[int] = set()
        with self._db.write() as conn:
            for some in in_chunks(conn.execute(query).all()):
                # The jobs' rows first, as when settling: couriers and retention wait, and the look below is the truth.
                lock_jobs(conn, jobs_of(some))
                lock_reports(conn, [row.result_uid for row in some if row.job_id is None])
                rows = conn.execute(query.where(deliveries.c.id.in_([row.id for row in some]))).all()
                replayed |= set(
                    move_each(
                        conn,
                        deliveries,
                        rows,
                        DeliveryState.PENDING,
                        Event.REPLAYED,
                        now,
                        by,
                        next_attempt=None,
                        finished_at=None,
                        lease_until=None,
                        commit_at=None,
                        created_at=now,
                        fence=new_fence(),
                    )
                )
                again = (JobState.DONE, JobState.DELIVERING, Event.REPLAYED)
                move(conn, jobs, *again, now, jobs.c.id.in_(jobs_of(rows)), finished_at=None)
            if missing := set(ids) - replayed:
                raise Usage(f"no delivery to replay: {', '.join(str(i) for i in sorted(missing))}")
        return len(replayed)

    def past_retention(self, destination: str | None = None) -> int:
        """How many deliveries no replay can send again, because retention has deleted their files."""
        gone = select(func.count()).select_from(deliveries.join(results, _TO_RESULT)).where(results.c.path.is_(None))
        if destination is not None:
            gone = gone.where(deliveries.c.destination == destination)
        with self._db.read() as conn:
            return int(conn.execute(gone).scalar_one())

    def due(self) -> dict[str, int]:
        """Destination -> deliveries that could be tried now, breakers considered."""
        now = self._db.clock()
        query = (
            select(deliveries.c.destination, func.count())
            .outerjoin(destinations, destinations.c.name == deliveries.c.destination)
            .where(
                or_(_due(now), to_be_committed(now)),
                or_(destinations.c.name.is_(None), is_open(now)),
            )
            .group_by(deliveries.c.destination)
        )
        with self._db.read() as conn:
            return {name: int(count) for name, count in conn.execute(query)}

    def know(self, names: Sequence[str]) -> None:
        """Say that a host has these destinations in its settings."""
        now = self._db.clock()
        with self._db.write() as conn:
            add_missing(conn, destinations, [{"name": name, "failures": 0} for name in sorted(names)])
            conn.execute(update(destinations).where(destinations.c.name.in_(names)).values(known_at=now))

    def give_up(self, known_destinations: Sequence[str], grace: timedelta = FORGOTTEN_AFTER) -> int:
        """Make DEAD what waits for a destination that no host has had in its settings for ``grace``.

        ``known_destinations``: those of this host's settings. Returns how many.
        """
        now = self._db.clock()
        known = select(destinations.c.name).where(destinations.c.known_at > now - grace)
        # One search for each kind of unfinished: together SQLite would read all rows in the order of their ids.
        elsewhere: ColumnElement[bool] = deliveries.c.destination.not_in(list(known_destinations))
        elsewhere = and_(elsewhere, deliveries.c.destination.not_in(known), deliveries.c.created_at <= now - grace)
        unfinished = (deliveries.c.state.in_(TO_BE_SENT), COMMITTING)
        ids = union_all(*(select(deliveries.c.id).where(kind, elsewhere) for kind in unfinished))
        # The next tick goes on.
        lost = select(*_STATE).where(deliveries.c.id.in_(ids)).order_by(deliveries.c.id).limit(500)
        with self._db.write() as conn:
            lock_jobs(conn, jobs_of(conn.execute(lost).all()))
            rows = conn.execute(lost.with_for_update()).all()
            return bury(conn, rows, "the destination is no longer in the settings", now)

    def breaker(self, destination: str) -> Breaker:
        """The destination's health."""
        with self._db.read() as conn:
            row = conn.execute(select(destinations).where(destinations.c.name == destination)).one_or_none()
        if row is None:
            return Breaker()
        return Breaker(row.failures, row.open_until, row.last_error, row.last_success_at, row.last_failure_at)

    def destination_failed(self, destination: str, error: str, open_until: datetime) -> None:
        """The destination as a whole failed: nothing is tried before ``open_until``."""
        failures = destinations.c.failures + 1
        now = self._db.clock()
        self._answered(destination, failures=failures, open_until=open_until, last_error=error, last_failure_at=now)

    def destination_succeeded(self, destination: str) -> None:
        """The destination answered: close its breaker."""
        self._answered(destination, failures=0, open_until=None, last_success_at=self._db.clock())

    def _answered(self, destination: str, **facts: Any) -> None:
        with self._db.write() as conn:
            add_missing(conn, destinations, [{"name": destination, "failures": 0}])
            conn.execute(update(destinations).where(destinations.c.name == destination).values(**facts))


def bury(
    conn: Connection, rows: Sequence[Any], error: str, now: datetime, uncommitted: Uncommitted | None = None
) -> int:
    """Make these deliveries (id, job_id and state; locked, as their jobs are) DEAD; return how many."""
    facts = NO_ERROR | {"error": error, "uncommitted": uncommitted}
    facts |= {"finished_at": now, "lease_until": None, "commit_at": None}
    dead = move_each(conn, deliveries, rows, DeliveryState.DEAD, Event.DEAD, now, error, **facts)
    finish_delivered(conn, jobs_of(rows), now)
    return len(dead)


def jobs_of(rows: Sequence[Any]) -> list[str]:
    """Their jobs; a study's report has none."""
    return sorted({row.job_id for row in rows if row.job_id is not None})


def lock_reports(conn: Connection, uids: Sequence[str]) -> None:
    """Wait for, and keep out, who would replay or delete these reports of studies."""
    locked(conn, results, results.c.uid.in_(uids))


def lock_jobs(conn: Connection, job_ids: Sequence[str]) -> None:
    """Wait for, and keep out, whoever else moves these jobs' deliveries."""
    locked(conn, jobs, jobs.c.id.in_(job_ids))


def is_open(now: datetime) -> ColumnElement[bool]:
    """Destinations to which something may be sent: neither paused nor waited for."""
    waited_for = or_(destinations.c.open_until.is_(None), destinations.c.open_until <= now)
    return and_(destinations.c.paused_at.is_(None), waited_for)


def to_be_committed(now: datetime) -> ColumnElement[bool]:
    """Deliveries whose storage commitment is to be asked for."""
    return deliveries.c.commit_at <= now


def _under(claims: Sequence[DeliveryClaim]) -> ColumnElement[bool]:
    """The deliveries that are still under these claims' leases."""
    return tuple_(deliveries.c.id, deliveries.c.fence).in_([(claim.id, claim.fence) for claim in claims])


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(
        deliveries.c.state.in_(TO_BE_SENT),
        or_(deliveries.c.next_attempt.is_(None), deliveries.c.next_attempt <= now),
        or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now),
    )
