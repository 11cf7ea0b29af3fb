"""The one way in which a state changes: compare and swap, by TRANSITIONS, with one event row in the same transaction.

A move names the state that it starts from; a row that is in another one by now does not move. Whoever does not know
the state, or must choose among rows, locks them first with :func:`locked`, in the order of their keys, so that nobody
deadlocks.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, select, update

from chexnode.ledger.database import add_rows
from chexnode.ledger.rows import UNFINISHED
from chexnode.ledger.schema import deliveries, events, instances, jobs, studies
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.states import JobState, State
from chexnode.vocabulary.transitions import TRANSITIONS

_SUBJECTS: Mapping[Table, str] = {instances: "instance", jobs: "job", deliveries: "delivery", studies: "study"}


def new_fence() -> int:
    """A fence for the next lease of some rows: 62 random bits and no counter, because a database that was restored to
    an older copy counts the same numbers again, and a report under a forgotten lease would fit another one."""
    return secrets.randbits(62)


def allowed(from_state: State, to_state: State) -> None:
    """Raise ValueError unless TRANSITIONS has the move: a move outside the table is a bug."""
    if to_state not in TRANSITIONS[from_state]:
        raise ValueError(f"{type(from_state).__name__} {from_state} may not become {to_state}")


def move(
    conn: Connection,
    table: Table,
    from_state: State,
    to_state: State,
    event: Event,
    at: datetime,
    where: ColumnElement[bool],
    why: str | None = None,
    **facts: Any,
) -> list[Any]:
    """Move the rows of ``table`` that are in ``from_state`` and meet ``where``, and set ``facts`` in them.

    ``why`` is the detail
    of the event. Returns the keys of those that moved, in order: the id, or (SOP Instance UID, digest) of an instance.
    """
    allowed(from_state, to_state)
    swap = update(table).where(table.c.state == from_state, where).values(state=to_state, **facts)
    moved = sorted(conn.execute(swap.returning(*table.primary_key.columns)).all())
    names = [instance_id(*row) if table is instances else row[0] for row in moved]
    record(conn, (happened(_SUBJECTS[table], name, event, at, from_state, to_state, why) for name in names))
    return [tuple(row) if table is instances else row[0] for row in moved]


def move_each(
    conn: Connection,
    table: Table,
    rows: Iterable[Any],
    to_state: State,
    event: Event,
    at: datetime,
    why: str | None = None,
    **facts: Any,
) -> list[Any]:
    """Move ``rows`` (each with ``id`` and ``state``, and locked), whatever states they are in; return their ids."""
    ids: dict[State, list[Any]] = defaultdict(list)
    for row in rows:
        ids[row.state].append(row.id)
    return [
        key
        for state in sorted(ids)
        for key in move(conn, table, state, to_state, event, at, table.c.id.in_(ids[state]), why, **facts)
    ]


def locked(conn: Connection, table: Table, where: ColumnElement[bool], *columns: Any) -> list[Row[Any]]:
    """Lock the rows of ``table`` that meet ``where``, in the order of their keys; return ``columns``, or the keys."""
    key = list(table.primary_key.columns)
    return list(conn.execute(select(*(columns or key)).where(where).order_by(*key).with_for_update(of=table)).all())


def finish_delivered(conn: Connection, job_ids: Sequence[str], now: datetime) -> list[str]:
    """Move those of ``job_ids`` that are DELIVERING with no open delivery to DONE; return them."""
    still_open = select(deliveries.c.id).where(deliveries.c.job_id == jobs.c.id, UNFINISHED).exists()
    done = (JobState.DELIVERING, JobState.DONE, Event.DONE)
    return move(conn, jobs, *done, now, and_(jobs.c.id.in_(job_ids), ~still_open), finished_at=now)


def instance_id(sop_instance_uid: str, digest: str) -> str:
    """A short name for one instance version, for events and tables."""
    return "i" + hashlib.sha256(f"{sop_instance_uid}\n{digest}".encode()).hexdigest()[:15]


def happened(
    subject: str,
    subject_id: str | int,
    event: Event,
    at: datetime,
    from_state: State | None = None,
    to_state: State | None = None,
    detail: str | None = None,
) -> dict[str, Any]:
    """Make one row for the events table."""
    return {
        "at": at,
        "subject": subject,
        "subject_id": str(subject_id),
        "event": event,
        "from_state": from_state,
        "to_state": to_state,
        "detail": detail,
    }


def record(conn: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append event rows."""
    add_rows(conn, events, list(rows))
