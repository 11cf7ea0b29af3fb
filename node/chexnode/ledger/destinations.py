"""Destinations as the administrator handles them: paused, resumed, and given the history that they lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, or_, select, true, update

from chexnode.ledger.database import Database, add_missing, add_rows, in_chunks
from chexnode.ledger.deliveries import lock_jobs
from chexnode.ledger.moves import move
from chexnode.ledger.narrowing import of_instances
from chexnode.ledger.rows import JOB_OF_VERSION, UNFINISHED
from chexnode.ledger.schema import deliveries, destinations, instances, jobs, results
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.variants import ResultKind, Variant


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
    """Pauses and resumes destinations, and gives them past results."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def is_paused(self, name: str) -> bool:
        """Whether a person wants nothing sent to it now."""
        paused = select(destinations.c.name).where(destinations.c.name == name, destinations.c.paused_at.is_not(None))
        with self._db.read() as conn:
            return conn.execute(paused).first() is not None

    def pause(self, name: str) -> bool:
        """Send nothing more to it until :meth:`resume`; what is under way is finished. False if it was paused."""
        now = self._db.clock()
        with self._db.write() as conn:
            add_missing(conn, destinations, [{"name": name, "failures": 0}])
            running = and_(destinations.c.name == name, destinations.c.paused_at.is_(None))
            return conn.execute(update(destinations).where(running).values(paused_at=now)).rowcount == 1

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
        variants: Sequence[Variant],
        wanted: Filter,
        *,
        peers: Sequence[str] = (),
        abnormal_only: bool = False,
        permits: Callable[[str, str], bool] | None = None,
    ) -> History:
        """Make deliveries to ``name`` of the valid results that it never got, in the forms ``variants``.

        Of images that were received in the times of ``wanted``; ``peers``: only from these callers, if any are named.
        ``abnormal_only``: none of those without a finding. ``permits`` says by the path of an image's file and its
        calling AE title whether its results may go there; None: all may. Each few hundred results are one transaction:
        interrupted, the call is simply made again.
        """
        there = results.c.path.is_not(None)
        got = select(deliveries.c.id).where(deliveries.c.result_uid == results.c.uid, deliveries.c.destination == name)
        of_image = (results.c.uid, results.c.job_id, results.c.kind, results.c.variant)
        base = (
            select(*of_image, instances.c.path, instances.c.calling_ae_title, ~got.exists() & there)
            .join_from(results, jobs, jobs.c.id == results.c.job_id)
            .join(instances, JOB_OF_VERSION)
            .where(
                *of_instances(wanted),
                jobs.c.state.in_((JobState.DONE, JobState.DELIVERING)),
                results.c.superseded.is_(None),
                results.c.kind != ResultKind.KO,
                jobs.c.purpose != Purpose.SHADOW,
                instances.c.calling_ae_title.in_(peers) if peers else true(),
                or_(jobs.c.abnormal.is_(None), jobs.c.abnormal) if abnormal_only else true(),
            )
            .order_by(results.c.job_id, results.c.uid)
        )
        with self._db.read() as conn:
            rows = conn.execute(base).all()
        chosen = {(variant.kind, str(variant)) for variant in variants}
        verdicts: dict[str, bool] = {}
        forms: dict[str, set[tuple[ResultKind, str]]] = {}
        due: list[tuple[str, str]] = []
        for uid, job, kind, variant, path, calling_ae_title, is_missing in rows:
            if job not in verdicts:
                verdicts[job] = permits is None or path is None or permits(path, calling_ae_title)
            if not verdicts[job]:
                continue
            forms.setdefault(job, set()).add((kind, variant))
            if is_missing and (kind, variant) in chosen:
                due.append((job, uid))
        sent = [pair for some in in_chunks(due) for pair in self._add(name, some)]
        # Of every image there is a report and a picture; the other kinds are only made of a finding.
        of_all = {one for one in chosen if one[0] in (ResultKind.SR, ResultKind.SC)}
        lacking = sum(1 for made in forms.values() if not of_all <= made)
        return History(len(sent), len({job for job, _ in sent}), lacking)

    def _add(self, name: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Make deliveries of those of these (job, result UID) that are still to be sent; return them."""
        now = self._db.clock()
        got = select(deliveries.c.id).where(deliveries.c.result_uid == results.c.uid, deliveries.c.destination == name)
        with self._db.write() as conn:
            # The jobs' rows first, as when settling: retention and whoever supersedes wait, and this look is the truth.
            lock_jobs(conn, sorted({job for job, _ in pairs}))
            of = (results.c.uid.in_([uid for _, uid in pairs]), results.c.path.is_not(None))
            still = select(results.c.job_id, results.c.uid, results.c.kind).where(
                *of, results.c.superseded.is_(None), ~got.exists()
            )
            rows = conn.execute(still.order_by(results.c.job_id, results.c.uid)).all()
            add_rows(conn, deliveries, [_delivery(*row, name, now) for row in rows])
            again = (JobState.DONE, JobState.DELIVERING, Event.REPLAYED)
            move(conn, jobs, *again, now, jobs.c.id.in_({row.job_id for row in rows}), finished_at=None)
        return [(row.job_id, row.uid) for row in rows]


def _delivery(job_id: str, uid: str, kind: ResultKind, name: str, now: datetime) -> dict[str, object]:
    return {
        "result_uid": uid,
        "job_id": job_id,
        "destination": name,
        "kind": kind,
        "state": DeliveryState.PENDING,
        "created_at": now,
    }
