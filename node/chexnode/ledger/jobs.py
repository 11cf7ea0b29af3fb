"""Jobs: claimed in batches under leases, moved by compare and swap, never run twice to a result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, tuple_, update

from chexnode.ledger.database import Database, add_missing
from chexnode.ledger.instances import AFRESH, new_job, supersede
from chexnode.ledger.moves import allowed, finish_delivered, happened, locked, move, move_each, new_fence, record
from chexnode.ledger.reports import make_due_again
from chexnode.ledger.rows import JOB_OF_VERSION, add_results, job_claims, version
from chexnode.ledger.schema import deliveries, instances, jobs
from chexnode.ledger.sets import supersede_sets
from chexnode.vocabulary.errors import StaleMove, Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.purposes import AWAITED, Purpose, Urgency
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, Digests, JobClaim, JobSpec, NewResult, Priority
from chexnode.vocabulary.states import JobState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import ResultKind

LEASE = timedelta(seconds=30)
"""A worker that does not renew for this long has lost its jobs."""
HEARTBEAT_SECONDS = 10.0

NOT_OFFERED = "no worker offers this analysis any more"
REUSED = "from what the model answered before"
"""Detail of the event of an analysis for which the model was not asked."""

_NO_LEASE: dict[str, Any] = {"owner": None, "lease_until": None}
_NOTHING: Mapping[str, Supersession] = {}


class Jobs:
    """The working side of the ledger."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def claim(self, owner: str, limit: int, spec: JobSpec, most: Urgency = Urgency.BACKGROUND) -> list[JobClaim]:
        """Put up to ``limit`` due jobs of this analysis under a lease: urgent first, then oldest first.

        ``most``: nothing that can wait longer.

        A job that has taken a worker down before comes alone, so that it harms no other.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            candidates = conn.execute(
                select(jobs.c.id, jobs.c.crashes)
                .where(_due(spec, now, most))
                .order_by(jobs.c.urgency, jobs.c.due_at, jobs.c.created_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            if candidates and candidates[0].crashes:
                candidates = candidates[:1]
            else:
                candidates = [row for row in candidates if not row.crashes]
            ids = [row.id for row in candidates]
            if not ids:
                return []
            lease: dict[str, Any] = {
                "owner": owner,
                "lease_until": now + LEASE,
                "fence": new_fence(),
                "error": None,
            }
            run = (JobState.QUEUED, JobState.RUNNING, Event.CLAIMED)
            move(conn, jobs, *run, now, jobs.c.id.in_(ids), owner, **lease)
            return job_claims(conn, ids)

    def renew(self, claims: Sequence[JobClaim]) -> set[str]:
        """Extend the leases; return the ids of jobs that are ours no longer."""
        now = self._db.clock()
        if not claims:
            return set()
        with self._db.write() as conn:
            extend = (
                update(jobs).where(jobs.c.state == JobState.RUNNING, _under(claims)).values(lease_until=now + LEASE)
            )
            return {c.id for c in claims} - set(conn.execute(extend.returning(jobs.c.id)).scalars())

    def complete(
        self,
        claim: JobClaim,
        analysis: Analysis,
        new_results: Sequence[NewResult],
        to: Sequence[tuple[str, str]],
        replaces: Mapping[str, Supersession] = _NOTHING,
        shadows: Sequence[JobSpec] = (),
    ) -> JobState:
        """Commit results whose files are durable and their deliveries; ``to``: (result UID, destination) pairs.

        ``replaces``: the jobs whose sets of results are valid until now, and why they are no longer.
        ``shadows``: the models that are to be tried on the same image.

        Returns DELIVERING, or DONE if there is nothing to deliver. Raises StaleMove when the lease is lost, and
        Transient where other sets are valid by now: the caller throws its result away.
        """
        now = self._db.clock()
        facts: dict[str, Any] = {
            "score": analysis.score,
            "abnormal": analysis.abnormal,
            "regions": analysis.regions,
            "notes": analysis.notes,
            "error": None,
            "answer_path": analysis.answer_path,
            **({} if analysis.figures is None else asdict(analysis.figures)),
            **({} if analysis.stages is None else asdict(analysis.stages)),
            **_digests(analysis.digests),
        }
        with self._db.write() as conn:
            if claim.purpose is not Purpose.IMAGE:  # before its jobs, as a re-send locks them
                locked(conn, instances, version(claim.sop_instance_uid, claim.digest))
            under_way = _under_way(conn, replaces)
            why = REUSED if analysis.is_reused else None
            _move(conn, claim, JobState.DELIVERING, Event.ANALYSED, now, why, **facts)
            study = select(instances.c.study_instance_uid).where(version(claim.sop_instance_uid, claim.digest))
            study_instance_uid = conn.execute(study).scalar_one_or_none()
            if claim.purpose not in (Purpose.BESIDE, Purpose.SHADOW):
                supersede_sets(conn, claim.sop_instance_uid, claim.id, replaces, now)
            if claim.purpose not in (Purpose.IMAGE, Purpose.SHADOW):
                supersede(conn, claim.sop_instance_uid, claim.digest, claim.key)
                make_due_again(conn, [study_instance_uid] if study_instance_uid else [])
            add_results(conn, new_results, to, now, study_instance_uid, claim.id)
            _try_on(conn, claim, shadows, now)
            if under_way is not None:
                notes = and_(deliveries.c.job_id == claim.id, deliveries.c.kind == ResultKind.KO)
                conn.execute(update(deliveries).where(notes).values(next_attempt=under_way))
            return JobState.DONE if finish_delivered(conn, [claim.id], now) else JobState.DELIVERING

    def skip(self, claim: JobClaim, reason: Reason, why: str, digests: Digests) -> None:
        """Another version of the image has the results. Raises StaleMove when the lease is lost."""
        now = self._db.clock()
        with self._db.write() as conn:
            facts = {"reason": reason, "error": why, "finished_at": now, **_digests(digests)}
            _move(conn, claim, JobState.SKIPPED, Event.SKIPPED, now, why, **facts)

    def refuse(self, claim: JobClaim, reason: Reason, detail: str) -> None:
        """The pixels can never be analysed. Raises StaleMove when the lease is lost."""
        now = self._db.clock()
        facts = {"reason": reason, "error": detail or None, "finished_at": now}
        with self._db.write() as conn:
            _move(conn, claim, JobState.REFUSED, Event.REFUSED, now, reason, **facts)

    def fail(self, claim: JobClaim, error: str) -> None:
        """A bug, or too many attempts; ``error`` keeps the traceback. Raises StaleMove when the lease is lost."""
        now = self._db.clock()
        with self._db.write() as conn:
            _move(conn, claim, JobState.FAILED, Event.FAILED, now, error=error, finished_at=now)

    def requeue(self, claim: JobClaim, error: str, due_at: datetime) -> None:
        """Not now: back to the queue until ``due_at``, one attempt counted. Raises StaleMove when the lease is lost."""
        now = self._db.clock()
        facts = {"error": error, "due_at": due_at, "attempts": jobs.c.attempts + 1}
        with self._db.write() as conn:
            _move(conn, claim, JobState.QUEUED, Event.REQUEUED, now, error, **facts)

    def release(self, claims: Sequence[JobClaim], why: str | None = None) -> None:
        """Give jobs back untouched, as a worker that stops does, or that cannot work for now: ``why`` says it."""
        now = self._db.clock()
        back = (JobState.RUNNING, JobState.QUEUED, Event.RELEASED)
        with self._db.write() as conn:
            move(conn, jobs, *back, now, _under(claims), why, error=why, **_NO_LEASE)

    def expire(self, max_crashes: int, everything: bool = False) -> int:
        """Take back jobs whose lease ran out; one that took ``max_crashes`` workers down becomes FAILED.

        ``everything``: all leases, for a start when no worker can be alive. Returns how many were taken back.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            lost = jobs.c.state == JobState.RUNNING
            if not everything:
                lost = and_(lost, jobs.c.lease_until < now)
            rows = locked(conn, jobs, lost, jobs.c.id, jobs.c.state, jobs.c.crashes, jobs.c.owner)
            for row in rows:
                crashes = row.crashes + 1
                dead = crashes >= max_crashes
                move_each(
                    conn,
                    jobs,
                    [row],
                    JobState.FAILED if dead else JobState.QUEUED,
                    Event.LEASE_EXPIRED,
                    now,
                    row.owner,
                    crashes=crashes,
                    error=f"the worker stopped {crashes} time(s) while this image was being analysed",
                    finished_at=now if dead else None,
                    fence=new_fence(),
                    **_NO_LEASE,
                )
        return len(rows)

    def adopt(self, spec: JobSpec, older_than: timedelta, others: Collection[JobSpec] = ()) -> int:
        """Turn jobs left QUEUED for an analysis that no worker offers any more into jobs of this one.

        After an upgrade of the model or its settings the receiver may have queued images under the old key. What was
        not queued for a received image is cancelled where the analysis is neither this nor one of ``others``. Returns
        how many were replaced.
        """
        now = self._db.clock()
        other = and_(~_is_of(spec), jobs.c.purpose == Purpose.IMAGE)
        with self._db.write() as conn:
            # With their instances, which a re-send locks before it makes a job: one of both sees what the other did.
            stale = conn.execute(
                select(jobs.c.id, jobs.c.sop_instance_uid, jobs.c.digest, jobs.c.urgency)
                .join(instances, JOB_OF_VERSION)
                .where(jobs.c.state == JobState.QUEUED, jobs.c.due_at < now - older_than, other)
                .limit(500)  # the next tick goes on
                .with_for_update(skip_locked=True)
            ).all()
            fresh = {}
            for row in stale:
                priority = Priority.URGENT if row.urgency == 0 else Priority.ROUTINE
                job = new_job(row.sop_instance_uid, row.digest, spec, priority, now)
                fresh[job["key"]] = job
                supersede(conn, row.sop_instance_uid, row.digest, job["key"])
            replaced = (JobState.QUEUED, JobState.CANCELLED, Event.REPLACED)
            error = f"replaced by an analysis with {spec.model}"
            those = jobs.c.id.in_([row.id for row in stale])
            move(conn, jobs, *replaced, now, those, spec.model, error=error, finished_at=now)
            known = set(conn.execute(select(jobs.c.key).where(jobs.c.key.in_(fresh))).scalars())
            # An upgrade that is taken back finds its own jobs again, which the other analysis had replaced.
            retried = (JobState.CANCELLED, JobState.QUEUED, Event.RETRIED)
            move(conn, jobs, *retried, now, jobs.c.key.in_(known), due_at=now, **AFRESH)
            made = [job for key, job in fresh.items() if key not in known]
            add_missing(conn, jobs, made)
            record(conn, (happened("job", job["id"], Event.CREATED, now, None, JobState.QUEUED) for job in made))
            gone = and_(
                jobs.c.purpose != Purpose.IMAGE,
                jobs.c.due_at < now - older_than,
                *(~_is_of(one) for one in (spec, *others)),
            )
            cancelled = (JobState.QUEUED, JobState.CANCELLED, Event.CANCELLED)
            move(conn, jobs, *cancelled, now, gone, NOT_OFFERED, error=NOT_OFFERED, finished_at=now)
        return len(stale)

    def retry(self, job_id: str, by: str | None = None) -> None:
        """A person wants a REFUSED, FAILED or CANCELLED job tried again. Raises Usage if it is in another state.

        It counts for its image from then on, whatever had superseded it; where no worker offers its analysis any more,
        :meth:`adopt` has it give way to the analysis of today.
        """
        self._by_hand(job_id, JobState.QUEUED, Event.RETRIED, by, due_at=self._db.clock(), **AFRESH)

    def cancel(self, job_id: str, by: str | None = None) -> None:
        """A person wants a QUEUED or RUNNING job left undone. Raises Usage if it is in another state."""
        facts = {"finished_at": self._db.clock(), "fence": new_fence()}
        self._by_hand(job_id, JobState.CANCELLED, Event.CANCELLED, by, **facts, **_NO_LEASE)

    def _by_hand(self, job_id: str, to: JobState, event: Event, by: str | None, **facts: Any) -> None:
        now = self._db.clock()
        of_job = jobs.c.id == job_id
        with self._db.write() as conn:
            # Its instance first, as a re-send locks them: the other way round each could wait for the other.
            mine = select(instances.c.study_instance_uid).join(jobs, JOB_OF_VERSION).where(of_job)
            studies = conn.execute(mine.with_for_update(of=instances)).scalars().all()
            rows = locked(conn, jobs, of_job, *jobs.c)
            if not rows:
                raise Usage(f"no job {job_id}")
            (row,) = rows
            try:
                allowed(row.state, to)
            except ValueError:
                raise Usage(f"job {job_id} is {row.state}: it cannot become {to}") from None
            move_each(conn, jobs, rows, to, event, now, by, **facts)
            if to is JobState.QUEUED and row.purpose is Purpose.IMAGE:
                supersede(conn, row.sop_instance_uid, row.digest, row.key)
            make_due_again(conn, studies)

    def due(self, spec: JobSpec, most: Urgency = Urgency.BACKGROUND) -> int:
        """How many jobs of this analysis could be claimed now, without those that can wait longer than ``most``."""
        query = select(func.count()).select_from(jobs).where(_due(spec, self._db.clock(), most))
        with self._db.read() as conn:
            return int(conn.execute(query).scalar_one())


def _digests(digests: Digests | None) -> dict[str, Any]:
    return {} if digests is None else {"content_digest": digests.content, "identity_digest": digests.identity}


def _under_way(conn: Connection, job_ids: Iterable[str]) -> datetime | None:
    """Until when results of these jobs may be under way to a destination, which must not get them after the note that
    withdraws them; None: none is."""
    leases = select(func.max(deliveries.c.lease_until)).where(deliveries.c.job_id.in_(list(job_ids)))
    until: datetime | None = conn.execute(leases).scalar_one_or_none()
    return until


def _is_of(spec: JobSpec) -> ColumnElement[bool]:
    return and_(jobs.c.model_digest == spec.model_digest, jobs.c.settings_digest == spec.settings_digest)


def _try_on(conn: Connection, claim: JobClaim, shadows: Sequence[JobSpec], now: datetime) -> None:
    """Queue the image for models that deliver nothing, once for each."""
    rows = [
        new_job(claim.sop_instance_uid, claim.digest, spec, "", now, -1, Purpose.SHADOW, Urgency.SHADOW)
        for spec in shadows
    ]
    known = set(conn.execute(select(jobs.c.key).where(jobs.c.key.in_([row["key"] for row in rows]))).scalars())
    fresh = [row for row in rows if row["key"] not in known]
    add_missing(conn, jobs, fresh)
    record(conn, (happened("job", row["id"], Event.CREATED, now, None, JobState.QUEUED) for row in fresh))


def _due(spec: JobSpec, now: datetime, most: Urgency) -> ColumnElement[bool]:
    # One version of an image after the other: the second can then see that it needs no analysis. What is analysed
    # again, perhaps tonight, comes after what has been received, and holds it up only while it is under way.
    other = jobs.alias("other")
    is_earlier = or_(
        other.c.created_at < jobs.c.created_at,
        and_(other.c.created_at == jobs.c.created_at, other.c.id < jobs.c.id),
    )
    comes_first = or_(other.c.state == JobState.RUNNING, other.c.urgency <= AWAITED, other.c.urgency <= jobs.c.urgency)
    waits = select(other.c.id).where(
        other.c.sop_instance_uid == jobs.c.sop_instance_uid,
        other.c.state.in_((JobState.QUEUED, JobState.RUNNING)),
        other.c.model_digest == spec.model_digest,
        other.c.settings_digest == spec.settings_digest,
        or_(
            and_(is_earlier, comes_first),
            and_(jobs.c.urgency > AWAITED, other.c.urgency < jobs.c.urgency),
        ),
    )
    return and_(
        ~waits.exists(),
        jobs.c.state == JobState.QUEUED,
        jobs.c.urgency <= most,
        jobs.c.due_at <= now,
        _is_of(spec),
    )


def _under(claims: Sequence[JobClaim]) -> ColumnElement[bool]:
    """The jobs that are still under these claims' leases."""
    return tuple_(jobs.c.id, jobs.c.fence).in_([(claim.id, claim.fence) for claim in claims])


def _move(
    conn: Connection,
    claim: JobClaim,
    to: JobState,
    event: Event,
    now: datetime,
    why: str | None = None,
    **facts: Any,
) -> None:
    """RUNNING -> ``to``, under the claim's lease. Raises StaleMove where it is lost."""
    if not move(conn, jobs, JobState.RUNNING, to, event, now, _under([claim]), why, **facts, **_NO_LEASE):
        raise StaleMove(f"job {claim.id} is no longer ours")
