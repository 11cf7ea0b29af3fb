"""Storage commitment (PS3.4 annex J): asked of destinations for what they accepted, and answered to who stored to us.

The promise that matters is in the deliveries: one whose commitment is wanted stays SENT, and its job unfinished, until
the destination has said yes (COMMITTED) or no (sent again), or nothing for too long (DEAD, which says so). Requests are
rows of their own, written before anything is sent, so that an answer may come to any receiver and after any restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, and_, insert, select, update

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.deliveries import NO_ERROR, bury, jobs_of, lock_jobs, to_be_committed
from chexnode.ledger.moves import finish_delivered, move_each
from chexnode.ledger.schema import commitments, deliveries, instances, results
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.records import CommitmentRequest, CommitmentVerdict
from chexnode.vocabulary.states import DeliveryState, Uncommitted

PATIENCE = timedelta(minutes=10)
"""A destination that has not answered for this long is asked again, and what it keeps losing is sent as seldom."""

MOST_AT_ONCE = 500
"""Instances in one request."""

LEASE = timedelta(seconds=120)
"""Whoever reports has this long before another one tries."""

# Failure Reason (0008,1197), PS3.3 C.14.1.1
NO_SUCH_OBJECT_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119


class Commitments:
    """Both sides of the service."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # We ask

    def ask(self, destination: str, max_age: timedelta) -> CommitmentRequest | None:
        """Open a transaction for what ``destination`` accepted and has not committed to; None where that is nothing.

        What it accepted longer than ``max_age`` ago becomes DEAD. The deliveries are asked for again after
        :data:`PATIENCE`, in another transaction; an answer to this one still counts then.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            self._give_up(conn, destination, now - max_age, now)
            rows = conn.execute(
                select(deliveries.c.id, results.c.sop_class_uid, results.c.uid)
                .join(results, results.c.uid == deliveries.c.result_uid)
                .where(deliveries.c.destination == destination, to_be_committed(now))
                .order_by(deliveries.c.id)
                .limit(MOST_AT_ONCE)
                .with_for_update(skip_locked=True, of=deliveries)
            ).all()
            if not rows:
                return None
            request = CommitmentRequest(
                f"2.25.{uuid4().int}", destination, tuple((row.sop_class_uid, row.uid) for row in rows)
            )
            conn.execute(
                update(deliveries).where(deliveries.c.id.in_([row.id for row in rows])).values(commit_at=now + PATIENCE)
            )
            conn.execute(insert(commitments).values(**_row(request, now, ours=True)))
            return request

    def not_asked(self, request: CommitmentRequest, error: str, again_at: datetime) -> None:
        """The request did not get through: ask for the same instances from ``again_at`` on."""
        now = self._db.clock()
        with self._db.write() as conn:
            where = commitments.c.transaction_uid == request.transaction_uid
            conn.execute(update(commitments).where(where).values(answered_at=now, error=error))
            for uids in in_chunks([uid for _, uid in request.instances]):
                conn.execute(
                    update(deliveries)
                    .where(
                        deliveries.c.destination == request.peer,
                        deliveries.c.result_uid.in_(uids),
                        deliveries.c.commit_at.is_not(None),
                    )
                    .values(commit_at=again_at)
                )

    def answered(self, transaction_uid: str, verdict: CommitmentVerdict) -> bool:
        """A destination has answered: COMMITTED, or to be sent again. False for a transaction that is not ours.

        Only instances of the transaction count, and only while they are SENT; an answer may come twice.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            where = and_(commitments.c.transaction_uid == transaction_uid, commitments.c.ours)
            row = conn.execute(select(commitments).where(where)).one_or_none()
            if row is None:
                return False
            asked = {uid for _, uid in row.instances}
            committed = asked & {uid for _, uid in verdict.committed}
            failed = {uid: reason for _, uid, reason in verdict.failed if uid in asked - committed}
            for uids in in_chunks(sorted(committed | failed.keys())):
                self._settle(conn, row.peer, uids, failed, now)
            conn.execute(update(commitments).where(where).values(answered_at=now, error=None))
        return True

    def _settle(
        self, conn: Connection, destination: str, uids: Sequence[str], failed: dict[str, int], now: datetime
    ) -> None:
        wanted = select(deliveries).where(
            deliveries.c.destination == destination,
            deliveries.c.result_uid.in_(uids),
            deliveries.c.state == DeliveryState.SENT,
        )
        jobs = jobs_of(conn.execute(wanted).all())
        lock_jobs(conn, jobs)
        for row in conn.execute(wanted.order_by(deliveries.c.id).with_for_update()).all():
            if (reason := failed.get(row.result_uid)) is None:
                facts = NO_ERROR | {"commit_at": None, "next_attempt": None, "finished_at": now}
                move_each(conn, deliveries, [row], DeliveryState.COMMITTED, Event.COMMITTED, now, **facts)
                continue
            error = f"the destination did not commit to it: failure reason 0x{reason:04X}"
            # At once the first time; one that never commits, and says so at once, would be sent it without a pause.
            again_at = now if row.attempts <= 1 else now + PATIENCE
            facts = NO_ERROR | {"error": error, "uncommitted": Uncommitted.REFUSED}
            facts |= {"commit_at": None, "next_attempt": again_at, "finished_at": None}
            move_each(conn, deliveries, [row], DeliveryState.WAITING, Event.WAITING, now, error, **facts)
        finish_delivered(conn, jobs, now)

    def _give_up(self, conn: Connection, destination: str, oldest: datetime, now: datetime) -> None:
        late = select(deliveries.c.id, deliveries.c.job_id, deliveries.c.state).where(
            deliveries.c.destination == destination, to_be_committed(now), deliveries.c.created_at < oldest
        )
        lock_jobs(conn, jobs_of(conn.execute(late).all()))
        for rows in in_chunks(conn.execute(late.with_for_update()).all()):
            bury(conn, rows, "accepted, but the destination never committed to it", now, Uncommitted.UNANSWERED)

    # We are asked

    def requested(self, request: CommitmentRequest, *, report: bool) -> None:
        """A peer asks us. ``report``: the answer is to be sent on an association of its own; see :meth:`due`.

        A transaction that is known already is asked again: it is reported again.
        """
        now = self._db.clock()
        values = _row(request, now, ours=False) | {"report_at": now if report else None}
        with self._db.write() as conn:
            where = and_(commitments.c.transaction_uid == request.transaction_uid, ~commitments.c.ours)
            if conn.execute(update(commitments).where(where).values(**values)).rowcount == 0:
                conn.execute(insert(commitments).values(**values))

    def due(self) -> CommitmentRequest | None:
        """Take the next report that is due, for a while."""
        now = self._db.clock()
        with self._db.write() as conn:
            row = conn.execute(
                select(commitments)
                .where(commitments.c.report_at <= now)
                .order_by(commitments.c.report_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).one_or_none()
            if row is None:
                return None
            where = commitments.c.transaction_uid == row.transaction_uid
            conn.execute(
                update(commitments).where(where).values(report_at=now + LEASE, attempts=commitments.c.attempts + 1)
            )
            pairs = tuple((sop_class, uid) for sop_class, uid in row.instances)
            return CommitmentRequest(row.transaction_uid, row.peer, pairs, row.attempts + 1)

    def reported(self, transaction_uid: str, error: str | None = None, again_at: datetime | None = None) -> None:
        """The peer has our report; or, with ``error``, it has not and is tried ``again_at`` or, None, given up."""
        now = self._db.clock()
        values = {"report_at": again_at, "error": error, "answered_at": None if error else now}
        with self._db.write() as conn:
            where = and_(commitments.c.transaction_uid == transaction_uid, ~commitments.c.ours)
            conn.execute(update(commitments).where(where).values(**values))

    def verdict(self, wanted: Sequence[tuple[str, str]]) -> CommitmentVerdict:
        """What the node takes responsibility for: an instance whose bytes are on disk and whose row is committed."""
        held: dict[str, set[str]] = {}
        with self._db.read() as conn:
            for uids in in_chunks([uid for _, uid in wanted]):
                for name, table in ((instances.c.sop_instance_uid, instances), (results.c.uid, results)):
                    query = select(name, table.c.sop_class_uid).where(name.in_(uids), table.c.path.is_not(None))
                    for found, its_class in conn.execute(query):
                        held.setdefault(found, set()).add(its_class)
        committed, failed = [], []
        for sop_class_uid, uid in wanted:
            if uid not in held:
                failed.append((sop_class_uid, uid, NO_SUCH_OBJECT_INSTANCE))
            elif sop_class_uid not in held[uid]:
                failed.append((sop_class_uid, uid, CLASS_INSTANCE_CONFLICT))
            else:
                committed.append((sop_class_uid, uid))
        return CommitmentVerdict(tuple(committed), tuple(failed))


def _row(request: CommitmentRequest, now: datetime, *, ours: bool) -> dict[str, object]:
    return {
        "transaction_uid": request.transaction_uid,
        "ours": ours,
        "peer": request.peer,
        "instances": [list(pair) for pair in request.instances],
        "requested_at": now,
        "report_at": None,
        "attempts": 0,
        "answered_at": None,
        "error": None,
    }
