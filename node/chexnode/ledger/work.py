"""What a person may have to see to: results that were given up, and what waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from chexnode.ledger.database import Database
from chexnode.ledger.rows import JOB_OF_VERSION, WHOLE_ERROR
from chexnode.ledger.schema import deliveries, instances, jobs
from chexnode.vocabulary.states import DeliveryState, JobState

MOST = 200
"""Rows of a list."""
_MOST_REPLAYED = 10_000


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Deliveries to one destination that were given up for one reason."""

    destination: str
    error: str
    count: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class QueuedView:
    """A job that waits or is being analysed."""

    id: str
    state: str
    urgent: bool
    created_at: datetime
    due_at: datetime
    attempts: int
    error: str | None
    """Of the last attempt."""
    owner: str | None
    """The worker that has it."""
    calling_ae_title: str


class Work:
    """Lists of dead deliveries and of the queue."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def dead(self, *, with_comments: bool = True) -> list[DeadGroup]:
        """What was given up, by destination and error, the largest group of each destination first.

        ``with_comments``: with what destinations said to it, which may name patients; else in our words alone.
        """
        error = WHOLE_ERROR if with_comments else deliveries.c.error
        by = (deliveries.c.destination, func.coalesce(error, ""))
        count = func.count().label("count")
        query = (
            select(*by, count, func.max(deliveries.c.finished_at))
            .where(deliveries.c.state == DeliveryState.DEAD)
            .group_by(*by)
        )
        with self._db.read() as conn:
            return [DeadGroup(*row) for row in conn.execute(query.order_by(by[0], count.desc()).limit(MOST))]

    def dead_ids(self, destination: str, error: str) -> list[int]:
        """The deliveries of one group, the oldest first; ten thousand at most."""
        query = select(deliveries.c.id).where(
            deliveries.c.state == DeliveryState.DEAD,
            deliveries.c.destination == destination,
            func.coalesce(WHOLE_ERROR, "") == error,
        )
        with self._db.read() as conn:
            return list(conn.execute(query.order_by(deliveries.c.id).limit(_MOST_REPLAYED)).scalars())

    def queue(self) -> list[QueuedView]:
        """What is being analysed, then what waits in the order in which it will be taken: urgent first."""
        columns = (
            jobs.c.id,
            jobs.c.state,
            (jobs.c.urgency == 0).label("urgent"),
            jobs.c.created_at,
            jobs.c.due_at,
            (jobs.c.attempts + jobs.c.crashes).label("attempts"),
            jobs.c.error,
            jobs.c.owner,
            instances.c.calling_ae_title,
        )
        query = select(*columns).join_from(jobs, instances, JOB_OF_VERSION)
        order = (jobs.c.urgency, jobs.c.due_at, jobs.c.created_at)
        with self._db.read() as conn:
            return [
                QueuedView(**row)
                for state in (JobState.RUNNING, JobState.QUEUED)
                for row in conn.execute(query.where(jobs.c.state == state).order_by(*order).limit(MOST)).mappings()
            ]
