"""Rejection notes that came: which are not read yet, and what one of them ends.

What a note names is an image of which there are results, or one of our own results; of both nothing is valid, sent or
analysed any more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, func, select, text, update

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.moves import finish_delivered, happened, instance_id, locked, move_each, new_fence, record
from chexnode.ledger.rows import add_results, version
from chexnode.ledger.schema import deliveries, instances, jobs, results
from chexnode.ledger.sets import valid_sets, withdraw_sets
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.records import NewResult, ResultSet
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import ResultKind

_LOOKED_AT = 200
"""Notes that are looked at in one go."""
WORTH_AN_ALARM = 3
"""Failures of a note, in some minutes."""
MOST_TRIES = 30
"""Then a note is given up, after about a day."""
_FIRST_WAIT, _LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=1)
_SHOWN_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class ReceivedNote:
    """A Key Object Selection that was received."""

    sop_instance_uid: str
    digest: str
    path: str
    """Relative to ``data_dir``."""


class Rejections:
    """By the SOP Instance UIDs that notes name."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def unread(self) -> list[ReceivedNote]:
        """Some Key Object Selections that are to be looked at now, those that wait for longest first."""
        columns = (instances.c.sop_instance_uid, instances.c.digest, instances.c.path)
        is_due = and_(instances.c.note_due_at <= self._db.clock(), instances.c.path.is_not(None))
        query = select(*columns).where(is_due).order_by(instances.c.note_due_at).limit(_LOOKED_AT)
        with self._db.read() as conn:
            return [ReceivedNote(*row) for row in conn.execute(query)]

    def put_back(self, note: ReceivedNote, error: str) -> bool:
        """Look at ``note`` again later, and ever more seldom; return False where it is given up for good."""
        now = self._db.clock()
        this = version(note.sop_instance_uid, note.digest)
        with self._db.write() as conn:
            failures = conn.execute(select(instances.c.note_failures).where(this)).scalar_one_or_none()
            if failures is None:  # erased
                return False
            is_last = failures + 1 >= MOST_TRIES
            wait = min(_FIRST_WAIT * 2**failures, _LONGEST_WAIT)
            due = None if is_last else now + wait
            conn.execute(update(instances).where(this).values(note_due_at=due, note_failures=failures + 1))
            subject = instance_id(note.sop_instance_uid, note.digest)
            record(conn, [happened("instance", subject, Event.NOTE_FAILED, now, detail=error)])
        return not is_last

    def failing(self) -> int:
        """How many notes of the last days have failed so often that a person should know, those given up included."""
        wanted = and_(
            text("note_failures > 0"),
            instances.c.note_failures >= WORTH_AN_ALARM,
            instances.c.received_at > self._db.clock() - _SHOWN_FOR,
        )
        with self._db.read() as conn:
            return int(conn.execute(select(func.count()).select_from(instances).where(wanted)).scalar_one())

    def valid(self, uids: Sequence[str]) -> list[ResultSet]:
        """The valid sets of the images among ``uids``."""
        with self._db.read() as conn:
            return [one for uid in _images(conn, uids) for one in valid_sets(conn, uid)]

    def reject(
        self,
        note: ReceivedNote,
        uids: Sequence[str],
        sets: Collection[str],
        withdrawals: Sequence[NewResult],
        to: Sequence[tuple[str, str]],
    ) -> None:
        """End all that ``note`` names by ``uids``, and remember that it was read.

        ``sets``: the jobs whose results are withdrawn by ``withdrawals``, whose files are durable; ``to``: (their UID,
        destination) pairs. Raises Transient where other sets are valid by now: read the note again.
        """
        now, why = self._db.clock(), Supersession.REJECTED
        with self._db.write() as conn:
            mine = _images(conn, uids)
            open_ones = and_(jobs.c.sop_instance_uid.in_(mine), jobs.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
            rows = locked(conn, jobs, open_ones, jobs.c.id, jobs.c.state)
            facts: dict[str, Any] = {"finished_at": now, "fence": new_fence(), "owner": None, "lease_until": None}
            move_each(conn, jobs, rows, JobState.CANCELLED, Event.CANCELLED, now, "rejection note", **facts)
            if {one.job for uid in mine for one in valid_sets(conn, uid)} != set(sets):
                raise Transient("the valid results of a rejected image are others by now")
            withdraw_sets(conn, sorted(sets), why, now)
            for one in withdrawals:
                add_results(conn, [one], [pair for pair in to if pair[0] == one.uid], now, one.study_instance_uid)
            ours = _end_results(conn, uids, now)
            detail = f"{len(mine)} image(s), {ours} result(s) rejected"
            this = version(note.sop_instance_uid, note.digest)
            conn.execute(update(instances).where(this).values(note_due_at=None, note_failures=0))
            subject = instance_id(note.sop_instance_uid, note.digest)
            record(conn, [happened("instance", subject, Event.NOTE_READ, now, detail=detail)])

    def withdraw(
        self, old: ResultSet, sop_instance_uid: str, withdrawals: Sequence[NewResult], to: Sequence[tuple[str, str]],
        by: str | None,
    ) -> None:  # fmt: skip
        """End the valid set ``old`` of an image because ``by``, a person, wants it.

        ``withdrawals`` and ``to``: see :meth:`reject`. Raises Transient where it is not the valid one any more.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            if old.job not in {one.job for one in valid_sets(conn, sop_instance_uid)}:
                raise Transient("the valid results of this image are others by now")
            withdraw_sets(conn, [old.job], Supersession.REJECTED, now)
            for one in withdrawals:
                add_results(conn, [one], [pair for pair in to if pair[0] == one.uid], now, one.study_instance_uid)
            record(conn, [happened("job", old.job, Event.WITHDRAWN, now, detail=by)])


def _images(conn: Connection, uids: Sequence[str]) -> list[str]:
    """Those of ``uids`` that are received images."""
    found: set[str] = set()
    for some in in_chunks(uids):
        found |= set(conn.execute(select(jobs.c.sop_instance_uid).where(jobs.c.sop_instance_uid.in_(some))).scalars())
    return sorted(found)


def _end_results(conn: Connection, uids: Sequence[str], now: datetime) -> int:
    """Let none of our own results among ``uids`` be valid or sent any more; return how many there were."""
    count = 0
    for some in in_chunks(uids):
        named = and_(results.c.uid.in_(some), results.c.kind != ResultKind.KO)
        ended = update(results).where(named, results.c.superseded.is_(None)).values(superseded=Supersession.REJECTED)
        mine = list(conn.execute(ended.returning(results.c.uid)).scalars())
        count += len(mine)
        unsent = and_(
            deliveries.c.result_uid.in_(mine), deliveries.c.state.in_((DeliveryState.PENDING, DeliveryState.WAITING))
        )
        rows = locked(conn, deliveries, unsent, deliveries.c.id, deliveries.c.job_id, deliveries.c.state)
        facts: dict[str, Any] = {"lease_until": None, "next_attempt": None, "finished_at": now, "fence": new_fence()}
        move_each(conn, deliveries, rows, DeliveryState.WITHDRAWN, Event.WITHDRAWN, now, Supersession.REJECTED, **facts)
        finish_delivered(conn, sorted({row.job_id for row in rows if row.job_id}), now)
    return count
