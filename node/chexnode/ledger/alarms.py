"""What is wrong, since when, and whether that was told: so that each alarm is sent once, whoever looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from chexnode.ledger.database import Database, add_missing
from chexnode.ledger.schema import alarms


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong at this moment."""

    rule: str
    """A code."""
    subject: str
    """What it is about: a destination; empty: the node."""
    severity: str
    """``critical`` or ``warning``."""
    detail: str
    """A sentence without patient data."""
    grace: timedelta = timedelta()
    """It is an alarm when it has lasted this long."""


@dataclass(frozen=True, slots=True)
class AlarmView:
    """An alarm."""

    rule: str
    subject: str
    severity: str
    detail: str
    since: datetime
    reported_at: datetime | None
    """None while it has not lasted long enough."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be told."""

    begun: tuple[AlarmView, ...]
    over: tuple[AlarmView, ...]


class Alarms:
    """Compare with what is known."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def observe(self, conditions: Sequence[Condition]) -> Changes:
        """Note ``conditions``, which are all that hold now; return the alarms that begin and those that are over.

        One transaction: of several that look at once, one tells.
        """
        now = self._db.clock()
        present = {(one.rule, one.subject): one for one in conditions}
        begun, over = [], []
        with self._db.write() as conn:
            add_missing(
                conn,
                alarms,
                [
                    {
                        "rule": one.rule,
                        "subject": one.subject[:128],
                        "severity": one.severity,
                        "detail": one.detail,
                        "since": now,
                    }
                    for one in present.values()
                ],
            )
            for row in conn.execute(select(alarms).order_by(alarms.c.rule, alarms.c.subject).with_for_update()).all():
                this = (alarms.c.rule == row.rule) & (alarms.c.subject == row.subject)
                condition = present.get((row.rule, row.subject))
                if condition is None:
                    conn.execute(delete(alarms).where(this))
                    if row.reported_at is not None:
                        over.append(_view(row))
                elif row.reported_at is None and now - row.since >= condition.grace:
                    conn.execute(update(alarms).where(this).values(reported_at=now, detail=condition.detail))
                    begun.append(AlarmView(row.rule, row.subject, row.severity, condition.detail, row.since, now))
        return Changes(tuple(begun), tuple(over))

    def list(self) -> list[AlarmView]:
        """Those that were told and are not over, the oldest first."""
        query = select(alarms).where(alarms.c.reported_at.is_not(None)).order_by(alarms.c.since)
        with self._db.read() as conn:
            return [_view(row) for row in conn.execute(query)]


def _view(row: object) -> AlarmView:
    names = ("rule", "subject", "severity", "detail", "since", "reported_at")
    return AlarmView(*(getattr(row, name) for name in names))
