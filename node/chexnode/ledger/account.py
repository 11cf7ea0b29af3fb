"""The account: every acknowledged instance version is somewhere, and the columns add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import and_, func, select

from chexnode.ledger.database import Database
from chexnode.ledger.records import Outcome
from chexnode.ledger.schema import events, instances, jobs
from chexnode.ledger.states import InstanceState, JobState


@dataclass(frozen=True, slots=True)
class Account:
    """Counts over distinct (SOP Instance UID, digest); ``duplicates`` and ``own_results`` stand outside the sum."""

    received: int
    """Everything that was acknowledged."""
    analysed: int
    """With results, delivered or being delivered."""
    not_analysed: Mapping[str, int]
    """By reason, from the header."""
    quarantined: int
    """Stored, but not sound."""
    refused: Mapping[str, int]
    """By reason, from the pixels."""
    failed: int
    cancelled: int
    pending: int
    """Waiting or being analysed."""
    difference: int
    """received minus all the others: not zero is a bug."""
    duplicates: int
    """How often the very bytes came again."""
    own_results: int
    """How often one of our own results came back."""


class Accounts:
    """Counting."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def account(self) -> Account:
        """Count everything in one snapshot."""
        with self._db.read() as conn:
            received, duplicates = conn.execute(
                select(func.count(), func.coalesce(func.sum(instances.c.duplicates), 0)).select_from(instances)
            ).one()
            own_results = conn.execute(
                select(func.count()).select_from(events).where(events.c.event == Outcome.OWN_RESULT)
            ).scalar_one()
            by_verdict = conn.execute(
                select(instances.c.state, instances.c.reason, func.count())
                .where(instances.c.state != InstanceState.ANALYSABLE)
                .group_by(instances.c.state, instances.c.reason)
            ).all()
            # An image analysed by two models has two jobs and counts once, by the newest.
            newest = (
                select(
                    jobs.c.state,
                    jobs.c.reason,
                    func.row_number()
                    .over(
                        partition_by=(jobs.c.sop_instance_uid, jobs.c.digest),
                        order_by=(jobs.c.created_at.desc(), jobs.c.id),
                    )
                    .label("age"),
                )
                .join(
                    instances,
                    and_(instances.c.sop_instance_uid == jobs.c.sop_instance_uid, instances.c.digest == jobs.c.digest),
                )
                .where(instances.c.state == InstanceState.ANALYSABLE)
                .subquery()
            )
            by_job = conn.execute(
                select(newest.c.state, newest.c.reason, func.count())
                .where(newest.c.age == 1)
                .group_by(newest.c.state, newest.c.reason)
            ).all()
        not_analysed = {str(r): int(n) for s, r, n in by_verdict if s == InstanceState.NOT_ANALYSED}
        quarantined = sum(n for s, _, n in by_verdict if s == InstanceState.QUARANTINED)
        refused = {str(r): int(n) for s, r, n in by_job if s == JobState.REFUSED}

        def count(*states: JobState) -> int:
            return int(sum(n for s, _, n in by_job if s in states))

        analysed = count(JobState.DELIVERING, JobState.DONE)
        failed, cancelled = count(JobState.FAILED), count(JobState.CANCELLED)
        pending = count(JobState.QUEUED, JobState.RUNNING)
        explained = (
            analysed + sum(not_analysed.values()) + quarantined + sum(refused.values()) + failed + cancelled + pending
        )
        return Account(
            received=received,
            analysed=analysed,
            not_analysed=not_analysed,
            quarantined=quarantined,
            refused=refused,
            failed=failed,
            cancelled=cancelled,
            pending=pending,
            difference=received - explained,
            duplicates=int(duplicates),
            own_results=own_results,
        )
