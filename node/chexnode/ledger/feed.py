"""The history as a feed: every event once, in the order of its number, read on from where a reader has got to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update

from chexnode.ledger.database import Database, add_missing
from chexnode.ledger.rows import columns_for, records
from chexnode.ledger.schema import events, markers

SUBJECTS = ("instance", "job", "delivery", "study")
"""What the feed is about; who may use the node is not in it."""

_GAP = timedelta(minutes=3)
"""PostgreSQL hands out numbers before transactions commit, so that a higher one can be seen first. One that is missing
may still come for as long as a transaction can last (idle_in_transaction_session_timeout and a lock's are shorter);
then it was rolled back."""


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """Something that happened."""

    id: int
    """Its number; later ones are higher."""
    at: datetime
    subject: str
    """``instance``, ``job``, ``delivery`` or ``study``."""
    subject_id: str
    """Its id; a study's is its Study Instance UID."""
    event: str
    """What happened."""
    from_state: str | None
    to_state: str | None
    """None where the state did not change."""
    detail: str | None
    """A reason, an error, or who did it."""


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Some events, and where the next page begins."""

    events: list[FeedEvent]
    """The oldest first."""
    next: int
    """What to give as ``after`` for what follows."""
    more: bool
    """Whether something follows by now."""


class Feed:
    """Reads events in pages, and keeps how far each reader has got."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def page(self, after: int, limit: int) -> FeedPage:
        """Up to ``limit`` events with a higher number than ``after``, less those that are not about images."""
        # The number is the subject's as text; a gap is seen by the numbers of all.
        query = select(*columns_for(FeedEvent, events)).where(events.c.id > after).order_by(events.c.id)
        with self._db.read() as conn:
            rows = records(conn, FeedEvent, query.limit(limit + 1))
            is_gapless = conn.dialect.name == "sqlite"  # one writer at a time: numbers are in the order of commits
        if not is_gapless:
            rows = _settled(rows, after, self._db.clock() - _GAP)
        some = rows[:limit]
        return FeedPage(
            [row for row in some if row.subject in SUBJECTS], some[-1].id if some else after, len(rows) > limit
        )

    def end(self) -> int:
        """The number of the latest event; 0 where there is none."""
        with self._db.read() as conn:
            return int(conn.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one())

    def place(self, reader: str) -> int:
        """Where ``reader`` has got to; one that was never here begins with what happens from now on."""
        name = f"feed/{reader}"
        known = select(markers.c.value).where(markers.c.name == name)
        with self._db.read() as conn:
            place = conn.execute(known).scalar_one_or_none()
        if place is None:
            with self._db.write() as conn:
                last = conn.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
                add_missing(conn, markers, [{"name": name, "value": str(last)}])
                place = conn.execute(known).scalar_one()
        return int(place)

    def advance(self, reader: str, place: int) -> None:
        """Note that ``reader`` has had everything up to ``place``."""
        with self._db.write() as conn:
            conn.execute(update(markers).where(markers.c.name == f"feed/{reader}").values(value=str(place)))


def _settled(rows: list[FeedEvent], after: int, old: datetime) -> list[FeedEvent]:
    """``rows`` up to the first number that is missing and may still come."""
    expected = after + 1
    for count, row in enumerate(rows):
        if row.id > expected and row.at > old:
            return rows[:count]
        expected = row.id + 1
    return rows
