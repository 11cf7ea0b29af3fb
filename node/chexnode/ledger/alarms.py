"""What is wrong, since when, and whether that was reported: so that each alarm is sent once, whoever looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update

from chexnode.ledger.database import Database, add_missing, add_rows
from chexnode.ledger.schema import alarms, notices

CRITICAL, WARNING = "critical", "warning"

_MOST_UNSENT = 100
_SUBJECT = 128
"""Characters of a subject by which alarms are told apart."""


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
    """What is to be reported."""

    begun: tuple[AlarmView, ...]
    over: tuple[AlarmView, ...]


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message that a channel has not taken yet."""

    id: int
    event: str
    """``alarm`` or ``recovery``."""
    alarm: AlarmView
    at: datetime


class Alarms:
    """Compare with what is known."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def observe(
        self, conditions: Sequence[Condition], channels: Sequence[str] = (), *, is_quiet: bool = False
    ) -> Changes:
        """Record ``conditions``, which are all that hold now; return the alarms that begin and those that are over.

        Each of them is a message for every one of ``channels``, written in the same transaction: of several that look
        at once, one reports, and what it could not send before it ended is sent by the next. A warning that becomes
        critical is an alarm once more. While ``is_quiet`` a warning that is over is reported later.
        """
        now = self._db.clock()
        present = {(one.rule, one.subject[:_SUBJECT]): one for one in conditions}
        begun, over = [], []
        with self._db.write() as conn:
            add_missing(
                conn,
                alarms,
                [
                    {"rule": rule, "subject": subject, "severity": one.severity, "detail": one.detail, "since": now}
                    for (rule, subject), one in present.items()
                ],
            )
            for row in conn.execute(select(alarms).order_by(alarms.c.rule, alarms.c.subject).with_for_update()).all():
                this = (alarms.c.rule == row.rule) & (alarms.c.subject == row.subject)
                condition, was_reported = present.get((row.rule, row.subject)), row.reported_at is not None
                if condition is None:
                    if was_reported and is_quiet and row.severity != CRITICAL:
                        continue
                    conn.execute(delete(alarms).where(this))
                    if was_reported:
                        over.append(_view(row))
                    continue
                is_worse = condition.severity == CRITICAL != row.severity
                if is_worse or (not was_reported and now - row.since >= condition.grace):
                    facts = {"reported_at": now, "detail": condition.detail, "severity": condition.severity}
                    conn.execute(update(alarms).where(this).values(**facts))
                    begun.append(AlarmView(row.rule, row.subject, condition.severity, condition.detail, row.since, now))
            changed = [("alarm", one) for one in begun] + [("recovery", one) for one in over]
            _post(conn, channels, changed, now)
        return Changes(tuple(begun), tuple(over))

    def unsent(self, channel: str) -> list[Unsent]:
        """What ``channel`` has not taken yet, in its order."""
        query = select(notices).where(notices.c.channel == channel).order_by(notices.c.id)
        with self._db.read() as conn:
            return [
                Unsent(
                    row.id, row.event, AlarmView(row.rule, row.subject, row.severity, row.detail, row.since, row.at),
                    row.at,
                )
                for row in conn.execute(query)
            ]  # fmt: skip

    def sent(self, notice: int) -> None:
        """A channel has taken a message."""
        with self._db.write() as conn:
            conn.execute(delete(notices).where(notices.c.id == notice))

    def list(self) -> list[AlarmView]:
        """Those that were reported and are not over, the oldest first."""
        query = select(alarms).where(alarms.c.reported_at.is_not(None)).order_by(alarms.c.since)
        with self._db.read() as conn:
            return [_view(row) for row in conn.execute(query)]


def _post(conn: Connection, channels: Sequence[str], changed: Sequence[tuple[str, AlarmView]], now: datetime) -> None:
    """Leave messages for ``channels``; what is for others, or too old to be worth it, goes."""
    conn.execute(delete(notices).where(notices.c.channel.not_in(channels)))
    rows = [
        {
            "channel": channel,
            "event": event,
            "rule": alarm.rule,
            "subject": alarm.subject,
            "severity": alarm.severity,
            "detail": alarm.detail,
            "since": alarm.since,
            "at": now,
        }
        for event, alarm in changed
        for channel in channels
    ]
    add_rows(conn, notices, rows)
    for channel in channels if rows else ():
        of_it = select(notices.c.id).where(notices.c.channel == channel)
        kept = of_it.order_by(notices.c.id.desc()).limit(_MOST_UNSENT)
        conn.execute(delete(notices).where(notices.c.channel == channel, notices.c.id.not_in(kept)))


def _view(row: object) -> AlarmView:
    names = ("rule", "subject", "severity", "detail", "since", "reported_at")
    return AlarmView(*(getattr(row, name) for name in names))
