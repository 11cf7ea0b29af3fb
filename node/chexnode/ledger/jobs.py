"""Jobs: claimed in batches under leases, moved by compare-and-swap, never run twice to a result."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, func, select, tuple_, update

from chexnode.ledger.database import Database, add_missing, add_rows, note_event, record_events
from chexnode.ledger.instances import new_job, supersede
from chexnode.ledger.reports import look_again
from chexnode.ledger.rows import UNFINISHED, add_results, delivery_rows
from chexnode.ledger.schema import deliveries, instances, jobs
from chexnode.vocabulary.errors import StaleMove, Usage
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, JobClaim, JobSpec, NewResult, Priority
from chexnode.vocabulary.states import JobState

LEASE = timedelta(seconds=30)
"""A worker that does not renew for this long has lost its jobs."""
HEARTBEAT_SECONDS = 10.0

_VERSION = and_(jobs.c.sop_instance_uid == instances.c.sop_instance_uid, jobs.c.digest == instances.c.digest)


class Jobs:
    """The working side of the ledger."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def claim(self, owner: str, limit: int, spec: JobSpec) -> list[JobClaim]:
        """Put up to ``limit`` due jobs of this analysis under a lease: urgent first, then oldest first.

        A job that has taken a worker down before comes alone, so that it harms no other.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            due = and_(
                jobs.c.state == JobState.QUEUED,
                jobs.c.due_at <= now,
                jobs.c.model_digest == spec.model_digest,
                jobs.c.settings_digest == spec.settings_digest,
            )
            found = conn.execute(
                select(jobs.c.id, jobs.c.crashes)
                .where(due)
                .order_by(jobs.c.urgency, jobs.c.due_at, jobs.c.created_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            ids = _apart([(row.id, row.crashes) for row in found])
            if not ids:
                return []
            conn.execute(
                update(jobs)
                .where(jobs.c.id.in_(ids), jobs.c.state == JobState.QUEUED)
                .values(
                    state=JobState.RUNNING, owner=owner, lease_until=now + LEASE, fence=jobs.c.fence + 1, error=None
                )
            )
            record_events(
                conn, [note_event("job", i, "claimed", now, JobState.QUEUED, JobState.RUNNING, owner) for i in ids]
            )
            return _claims(conn, ids)

    def renew(self, claims: Sequence[JobClaim]) -> set[str]:
        """Extend the leases; return the ids of jobs that are ours no longer."""
        now = self._db.clock()
        if not claims:
            return set()
        with self._db.write() as conn:
            kept = conn.execute(
                update(jobs)
                .where(
                    jobs.c.state == JobState.RUNNING,
                    tuple_(jobs.c.id, jobs.c.fence).in_([(c.id, c.fence) for c in claims]),
                )
                .values(lease_until=now + LEASE)
                .returning(jobs.c.id)
            ).scalars()
            return {c.id for c in claims} - set(kept)

    def complete(
        self, claim: JobClaim, analysis: Analysis, new_results: Sequence[NewResult], to: Sequence[tuple[str, str]]
    ) -> JobState:
        """Commit results whose files are durable and their deliveries; ``to``: (result UID, destination) pairs.

        Returns DELIVERING, or DONE if there is nothing to deliver. Raises StaleMove when the lease is lost: the caller
        throws its result away.
        """
        now = self._db.clock()
        facts: dict[str, Any] = {
            "score": analysis.score,
            "abnormal": analysis.abnormal,
            "regions": analysis.regions,
            "notes": list(analysis.notes),
            "error": None,
        }
        with self._db.write() as conn:
            _move(conn, claim, JobState.DELIVERING, "analysed", now, **facts)
            add_results(conn, new_results, now, _study_of(conn, claim), claim.id)
            add_rows(conn, deliveries, delivery_rows(new_results, to, now, claim.id))
            return JobState.DELIVERING if not finish_delivered(conn, [claim.id], now) else JobState.DONE

    def refuse(self, claim: JobClaim, reason: Reason, detail: str) -> None:
        """The pixels can never be analysed. Raises StaleMove when the lease is lost."""
        now = self._db.clock()
        with self._db.write() as conn:
            facts = {"reason": reason, "error": detail or None, "finished_at": now}
            _move(conn, claim, JobState.REFUSED, "refused", now, reason, **facts)

    def fail(self, claim: JobClaim, error: str) -> None:
        """A bug, or too many attempts; ``error`` keeps the traceback. Raises StaleMove when the lease is lost."""
        now = self._db.clock()
        with self._db.write() as conn:
            _move(conn, claim, JobState.FAILED, "failed", now, error=error, finished_at=now)

    def requeue(self, claim: JobClaim, error: str, due_at: datetime) -> None:
        """Not now: back to the queue until ``due_at``, one attempt counted. Raises StaleMove when the lease is lost."""
        now = self._db.clock()
        facts = {"error": error, "due_at": due_at, "attempts": jobs.c.attempts + 1}
        with self._db.write() as conn:
            _move(conn, claim, JobState.QUEUED, "requeued", now, error, **facts)

    def release(self, claims: Sequence[JobClaim], why: str | None = None) -> None:
        """Give jobs back untouched, as a worker that stops does, or that cannot work for now: ``why`` says it."""
        now = self._db.clock()
        with self._db.write() as conn:
            given = conn.execute(
                update(jobs)
                .where(
                    jobs.c.state == JobState.RUNNING,
                    tuple_(jobs.c.id, jobs.c.fence).in_([(c.id, c.fence) for c in claims]),
                )
                .values(state=JobState.QUEUED, owner=None, lease_until=None, error=why)
                .returning(jobs.c.id)
            ).scalars()
            record_events(
                conn, [note_event("job", i, "released", now, JobState.RUNNING, JobState.QUEUED, why) for i in given]
            )

    def expire(self, max_crashes: int, everything: bool = False) -> int:
        """Take back jobs whose lease ran out; one that took ``max_crashes`` workers down becomes FAILED.

        ``everything``: all leases, for a start when no worker can be alive. Returns how many were taken back.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            lost = jobs.c.state == JobState.RUNNING
            if not everything:
                lost = and_(lost, jobs.c.lease_until < now)
            rows = conn.execute(select(jobs.c.id, jobs.c.crashes, jobs.c.owner).where(lost).with_for_update()).all()
            history = []
            for row in rows:
                crashes = row.crashes + 1
                dead = crashes >= max_crashes
                state = JobState.FAILED if dead else JobState.QUEUED
                error = f"the worker stopped {crashes} time(s) while this image was being analysed"
                conn.execute(
                    update(jobs)
                    .where(jobs.c.id == row.id)
                    .values(
                        state=state,
                        crashes=crashes,
                        error=error,
                        owner=None,
                        lease_until=None,
                        finished_at=now if dead else None,
                        fence=jobs.c.fence + 1,
                    )
                )
                history.append(note_event("job", row.id, "lease-expired", now, JobState.RUNNING, state, row.owner))
            record_events(conn, history)
        return len(rows)

    def adopt(self, spec: JobSpec, older_than: timedelta) -> int:
        """Turn jobs left QUEUED for an analysis that no worker offers any more into jobs of this one.

        After an upgrade of the model or its settings the receiver may have queued images under the old key. Returns
        how many were replaced.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            # With their instances, which a re-send locks before it makes a job: one of both sees what the other did.
            stale = conn.execute(
                select(jobs.c.id, jobs.c.sop_instance_uid, jobs.c.digest, jobs.c.urgency)
                .join(instances, _VERSION)
                .where(
                    jobs.c.state == JobState.QUEUED,
                    jobs.c.due_at < now - older_than,
                    (jobs.c.model_digest != spec.model_digest) | (jobs.c.settings_digest != spec.settings_digest),
                )
                .limit(500)  # the next tick goes on
                .with_for_update(skip_locked=True)
            ).all()
            fresh, history = [], []
            for row in stale:
                priority = Priority.URGENT if row.urgency == 0 else Priority.ROUTINE
                one = new_job(row.sop_instance_uid, row.digest, spec, priority, now)
                fresh.append(one)
                error = f"replaced by an analysis with {spec.model}"
                conn.execute(
                    update(jobs)
                    .where(jobs.c.id == row.id)
                    .values(state=JobState.CANCELLED, error=error, finished_at=now)
                )
                supersede(conn, row.sop_instance_uid, row.digest, one["key"])
                history.append(
                    note_event("job", row.id, "replaced", now, JobState.QUEUED, JobState.CANCELLED, spec.model)
                )
            known = set(conn.execute(select(jobs.c.key).where(jobs.c.key.in_([j["key"] for j in fresh]))).scalars())
            # An upgrade that is taken back finds its own jobs again, which the other analysis had replaced.
            revived = conn.execute(
                update(jobs)
                .where(jobs.c.key.in_(known), jobs.c.state == JobState.CANCELLED)
                .values(state=JobState.QUEUED, error=None, attempts=0, crashes=0, due_at=now, finished_at=None)
                .returning(jobs.c.id)
            ).scalars()
            history += [note_event("job", i, "retried", now, JobState.CANCELLED, JobState.QUEUED) for i in revived]
            fresh = [j for j in fresh if j["key"] not in known]
            add_missing(conn, jobs, fresh)
            history += [note_event("job", j["id"], "created", now, to_state=JobState.QUEUED) for j in fresh]
            record_events(conn, history)
        return len(stale)

    def retry(self, job_id: str) -> None:
        """A person wants a REFUSED, FAILED or CANCELLED job tried again. Raises Usage if it is in another state.

        It counts for its image from then on, whatever had superseded it; where no worker offers its analysis any more,
        :meth:`adopt` has it give way to the analysis of today.
        """
        self._by_hand(
            job_id,
            JobState.QUEUED,
            "retried",
            attempts=0,
            crashes=0,
            reason=None,
            error=None,
            finished_at=None,
            due_at=self._db.clock(),
        )

    def cancel(self, job_id: str) -> None:
        """A person wants a QUEUED or RUNNING job left undone. Raises Usage if it is in another state."""
        self._by_hand(
            job_id,
            JobState.CANCELLED,
            "cancelled",
            owner=None,
            lease_until=None,
            finished_at=self._db.clock(),
            fence=jobs.c.fence + 1,
        )

    def _by_hand(self, job_id: str, to: JobState, what: str, **facts: Any) -> None:
        now = self._db.clock()
        with self._db.write() as conn:
            # Its instance first, as a re-send locks them: the other way round each could wait for the other.
            of_job = jobs.c.id == job_id
            conn.execute(select(instances.c.digest).join(jobs, _VERSION).where(of_job).with_for_update(of=instances))
            found = conn.execute(
                select(jobs.c.state, jobs.c.key, jobs.c.sop_instance_uid, jobs.c.digest).where(of_job).with_for_update()
            ).one_or_none()
            if found is None:
                raise Usage(f"no job {job_id}")
            state = JobState(found.state)
            try:
                event = note_event("job", job_id, what, now, state, to)
            except ValueError:
                raise Usage(f"job {job_id} is {state}: it cannot become {to}") from None
            conn.execute(update(jobs).where(jobs.c.id == job_id).values(state=to, **facts))
            if to is JobState.QUEUED:
                supersede(conn, found.sop_instance_uid, found.digest, found.key)
            look_again(conn, select(instances.c.study_instance_uid).join(jobs, _VERSION).where(jobs.c.id == job_id))
            record_events(conn, [event])

    def due(self, spec: JobSpec) -> int:
        """How many jobs of this analysis could be claimed now."""
        with self._db.read() as conn:
            return int(
                conn.execute(
                    select(func.count())
                    .select_from(jobs)
                    .where(
                        jobs.c.state == JobState.QUEUED,
                        jobs.c.due_at <= self._db.clock(),
                        jobs.c.model_digest == spec.model_digest,
                        jobs.c.settings_digest == spec.settings_digest,
                    )
                ).scalar_one()
            )


def finish_delivered(conn: Connection, job_ids: Sequence[str], now: datetime) -> list[str]:
    """Move those of ``job_ids`` that are DELIVERING with no open delivery to DONE; return them."""
    still_open = select(deliveries.c.id).where(deliveries.c.job_id == jobs.c.id, UNFINISHED).exists()
    done = list(
        conn.execute(
            update(jobs)
            .where(jobs.c.id.in_(job_ids), jobs.c.state == JobState.DELIVERING, ~still_open)
            .values(state=JobState.DONE, finished_at=now)
            .returning(jobs.c.id)
        ).scalars()
    )
    record_events(conn, [note_event("job", i, "done", now, JobState.DELIVERING, JobState.DONE) for i in done])
    return done


def _apart(candidates: Sequence[tuple[str, int]]) -> list[str]:
    """Ids to claim together: a job with crashes behind it runs alone."""
    if candidates and candidates[0][1] > 0:
        return [candidates[0][0]]
    return [job_id for job_id, crashes in candidates if crashes == 0]


def _move(
    conn: Connection, claim: JobClaim, to: JobState, what: str, now: datetime, detail: str | None = None, **facts: Any
) -> None:
    """RUNNING -> ``to`` under the claim's fence, with its event."""
    event = note_event("job", claim.id, what, now, JobState.RUNNING, to, detail)
    moved = conn.execute(
        update(jobs)
        .where(jobs.c.id == claim.id, jobs.c.state == JobState.RUNNING, jobs.c.fence == claim.fence)
        .values(state=to, owner=None, lease_until=None, **facts)
    )
    if moved.rowcount != 1:
        raise StaleMove(f"job {claim.id} is no longer ours")
    record_events(conn, [event])


def _study_of(conn: Connection, claim: JobClaim) -> str | None:
    version = and_(instances.c.sop_instance_uid == claim.sop_instance_uid, instances.c.digest == claim.digest)
    study: str | None = conn.execute(select(instances.c.study_instance_uid).where(version)).scalar_one_or_none()
    return study


def _claims(conn: Connection, ids: Sequence[str]) -> list[JobClaim]:
    """The claimed rows with what the worker needs of their instance, in the order of ``ids``."""
    rows = conn.execute(
        select(
            jobs.c.id,
            jobs.c.key,
            jobs.c.fence,
            jobs.c.model_digest,
            jobs.c.attempts,
            jobs.c.crashes,
            jobs.c.created_at,
            instances.c.sop_instance_uid,
            instances.c.digest,
            instances.c.path,
            instances.c.transfer_syntax_uid,
            instances.c.calling_ae_title,
            instances.c.notes,
        )
        .join(instances, _VERSION)
        .where(jobs.c.id.in_(ids))
    ).all()
    by_id = {
        row.id: JobClaim(
            id=row.id,
            key=row.key,
            fence=row.fence,
            sop_instance_uid=row.sop_instance_uid,
            digest=row.digest,
            path=row.path,
            transfer_syntax_uid=row.transfer_syntax_uid,
            calling_ae_title=row.calling_ae_title,
            model_digest=row.model_digest,
            attempts=row.attempts,
            crashes=row.crashes,
            notes=tuple(Note(n) for n in row.notes),
            created_at=row.created_at,
        )
        for row in rows
    }
    return [by_id[i] for i in ids]
