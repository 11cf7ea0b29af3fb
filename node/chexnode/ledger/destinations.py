"""Destinations as the administrator handles them: listed, paused, resumed, and given the history that they lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, false, func, or_, select, true, update

from chexnode.ledger.database import Database, add_missing, add_rows, in_chunks
from chexnode.ledger.deliveries import lock_jobs
from chexnode.ledger.moves import move
from chexnode.ledger.narrowing import of_instances
from chexnode.ledger.rows import JOB_OF_VERSION, TO_BE_SENT, UNFINISHED
from chexnode.ledger.schema import deliveries, destinations, instances, jobs, results
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.variants import ResultKind


@dataclass(frozen=True, slots=True)
class DestinationView:
    """One row of ``chexnode destinations``; the field names are the JSON keys people script against."""

    name: str
    """In the settings, now or once."""
    waiting: int
    """Deliveries to be sent."""
    dead: int
    """Deliveries that were given up."""
    paused_at: datetime | None
    """Since when nothing is sent to it, because a person said so; None: it is not paused."""
    open_until: datetime | None
    """It failed as a whole: nothing is tried before this."""
    last_error: str | None
    last_success_at: datetime | None


@dataclass(frozen=True, slots=True)
class History:
    """What a destination is given of the past."""

    results: int
    """Objects that will be sent."""
    images: int
    """Images that they are of."""
    lacking: int
    """Images of which a report or a picture is not there in the form that the destination wants."""


class Destinations:
    """Handling by name."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def list(self) -> list[DestinationView]:
        """All that the ledger knows of, by name."""
        with self._db.read() as conn:
            rows = {row.name: row for row in conn.execute(select(destinations))}
            by = (deliveries.c.destination, deliveries.c.state)
            counts = {(name, state): int(n) for name, state, n in conn.execute(select(*by, func.count()).group_by(*by))}
        views = []
        for name in sorted(rows.keys() | {name for name, _ in counts}):
            waiting = sum(counts.get((name, state), 0) for state in TO_BE_SENT)
            row, dead = rows.get(name), counts.get((name, DeliveryState.DEAD), 0)
            health = (
                (None,) * 4 if row is None else (row.paused_at, row.open_until, row.last_error, row.last_success_at)
            )
            views.append(DestinationView(name, waiting, dead, *health))
        return views

    def is_paused(self, name: str) -> bool:
        """Whether a person wants nothing sent to it now."""
        paused = select(destinations.c.name).where(destinations.c.name == name, destinations.c.paused_at.is_not(None))
        with self._db.read() as conn:
            return conn.execute(paused).first() is not None

    def pause(self, name: str) -> None:
        """Send nothing more to it until :meth:`resume`; what is under way is finished."""
        now = self._db.clock()
        with self._db.write() as conn:
            add_missing(conn, destinations, [{"name": name, "failures": 0}])
            running = and_(destinations.c.name == name, destinations.c.paused_at.is_(None))
            conn.execute(update(destinations).where(running).values(paused_at=now))

    def resume(self, name: str) -> int:
        """Send again; return how many deliveries waited. None of them has aged. Raises Usage if it is not paused."""
        now = self._db.clock()
        with self._db.write() as conn:
            paused = and_(destinations.c.name == name, destinations.c.paused_at.is_not(None))
            ended = conn.execute(update(destinations).where(paused).values(paused_at=None, open_until=None))
            if ended.rowcount != 1:
                raise Usage(f"destination {name!r} is not paused")
            waiting = and_(deliveries.c.destination == name, UNFINISHED)
            return conn.execute(update(deliveries).where(waiting).values(created_at=now)).rowcount

    def fill(
        self,
        name: str,
        variants: Sequence[tuple[ResultKind, str]],
        wanted: Filter,
        *,
        peers: Sequence[str] = (),
        abnormal_only: bool = False,
    ) -> History:
        """Make deliveries to ``name`` of the valid results that it never got, in the forms ``variants``.

        ``peers``: only of images from these callers, if any are named. ``abnormal_only``: none of those without a
        finding. Of images that were received in the times of ``wanted``.
        """
        now = self._db.clock()
        of = [
            *of_instances(wanted),
            jobs.c.state.in_((JobState.DONE, JobState.DELIVERING)),
            results.c.superseded.is_(None),
            results.c.kind != ResultKind.KO,
            instances.c.calling_ae_title.in_(peers) if peers else true(),
            or_(jobs.c.abnormal.is_(None), jobs.c.abnormal) if abnormal_only else true(),
        ]
        there = results.c.path.is_not(None)
        got = select(deliveries.c.id).where(deliveries.c.result_uid == results.c.uid, deliveries.c.destination == name)
        base = select(results.c.uid, results.c.job_id, results.c.kind)
        base = base.join_from(results, jobs, jobs.c.id == results.c.job_id).join(instances, JOB_OF_VERSION).where(*of)
        forms = or_(false(), *(_is(kind, variant) for kind, variant in variants))
        query = base.where(there, forms, ~got.exists()).order_by(results.c.job_id, results.c.uid)
        images: set[str] = set()
        number = 0
        with self._db.write() as conn:
            for some in in_chunks(conn.execute(query).all()):
                of_jobs = sorted({row.job_id for row in some})
                lock_jobs(conn, of_jobs)
                rows = conn.execute(query.where(results.c.uid.in_([row.uid for row in some]))).all()
                add_rows(conn, deliveries, [_delivery(row, name, now) for row in rows])
                again = (JobState.DONE, JobState.DELIVERING, Event.REPLAYED)
                move(conn, jobs, *again, now, jobs.c.id.in_([row.job_id for row in rows]), finished_at=None)
                images |= {row.job_id for row in rows}
                number += len(rows)
            lacking: set[str] = set()
            every = set(conn.execute(base.with_only_columns(results.c.job_id).distinct()).scalars())
            for kind, variant in variants:
                if kind in (ResultKind.SR, ResultKind.SC):  # made of every image; the others only of a finding
                    made = base.with_only_columns(results.c.job_id).where(there, _is(kind, variant)).distinct()
                    lacking |= every - set(conn.execute(made).scalars())
        return History(number, len(images), len(lacking))


def _is(kind: ResultKind, variant: str) -> ColumnElement[bool]:
    return and_(results.c.kind == kind, results.c.variant == variant)


def _delivery(row: Row[Any], name: str, now: datetime) -> dict[str, object]:
    return {
        "result_uid": row.uid,
        "job_id": row.job_id,
        "destination": name,
        "kind": row.kind,
        "state": DeliveryState.PENDING,
        "created_at": now,
    }
