"""Reports of closed studies: what was not analysed in them, and the result that says so."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, select, update

from chexnode.ledger.database import Database
from chexnode.ledger.moves import happened, record
from chexnode.ledger.rows import JOB_OF_VERSION, add_results
from chexnode.ledger.schema import instances, jobs, results, studies
from chexnode.vocabulary.errors import StaleMove
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.purposes import AWAITED
from chexnode.vocabulary.records import ClosedStudy, NewResult, Unanalysed
from chexnode.vocabulary.states import InstanceState, JobState, StudyState

UNWANTED = ""
"""In place of the digest where no destination wanted reports when the study closed."""

_PENDING = (JobState.QUEUED, JobState.RUNNING)
_UNANALYSED = (JobState.REFUSED, JobState.FAILED, JobState.CANCELLED)
_SOUNDNESS = (InstanceState.ANALYSABLE, InstanceState.NOT_ANALYSED, InstanceState.QUARANTINED)


def make_due_again(conn: Connection, study_instance_uids: Sequence[str]) -> None:
    """Have the reports of these studies made anew, if anybody wants them: something is analysed now, or no longer."""
    conn.execute(
        update(studies)
        .where(studies.c.study_instance_uid.in_(study_instance_uids), studies.c.report_digest != UNWANTED)
        .values(report_digest=None)
    )


class Reports:
    """A study is looked at once it is closed and nothing in it waits for analysis; a late image makes it due again."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def due(self, leaving: Collection[str] = (), limit: int = 100) -> list[ClosedStudy]:
        """Return studies that nobody has looked at since they closed, oldest first, ``leaving`` some out."""
        waiting = (
            select(jobs.c.id)
            .join(instances, JOB_OF_VERSION)
            .where(
                instances.c.study_instance_uid == studies.c.study_instance_uid,
                jobs.c.state.in_(_PENDING),
                jobs.c.urgency <= AWAITED,
            )
            .exists()
        )
        with self._db.read() as conn:
            found = conn.execute(
                select(studies.c.study_instance_uid, studies.c.closed_at)
                .where(
                    studies.c.state == StudyState.CLOSED,
                    studies.c.report_digest.is_(None),
                    studies.c.study_instance_uid.not_in(list(leaving)),
                    ~waiting,
                )
                .order_by(studies.c.closed_at)
                .limit(limit)
            ).all()
            return [_study(conn, row.study_instance_uid, row.closed_at) for row in found]

    def commit(self, study: ClosedStudy, new_results: Sequence[NewResult], to: Sequence[tuple[str, str]]) -> None:
        """Commit the reports of ``study``, whose files are durable, and their deliveries, if there are any.

        ``to``: (result UID, destination) pairs. What is known already stays as it was first committed. Raises StaleMove
        if the study was reopened or reported meanwhile: the caller throws its results away.
        """
        now = self._db.clock()
        uid = study.study_instance_uid
        with self._db.write() as conn:
            _seen(conn, study)
            known = select(results.c.uid).where(results.c.uid.in_([r.uid for r in new_results]))
            fresh = len(new_results) - len(conn.execute(known).all())
            add_results(conn, new_results, to, now, uid)
            if fresh:
                record(conn, [happened("study", uid, Event.REPORTED, now, detail=f"{len(study.images)} image(s)")])

    def fail(self, study: ClosedStudy, error: str) -> None:
        """There will be no report of ``study`` as it is; ``error`` keeps why. Raises StaleMove like :meth:`commit`."""
        with self._db.write() as conn:
            _seen(conn, study)
            uid, now = study.study_instance_uid, self._db.clock()
            record(conn, [happened("study", uid, Event.REPORT_FAILED, now, detail=error)])


def _seen(conn: Connection, study: ClosedStudy) -> None:
    """Mark ``study`` as looked at, if it still is as it was."""
    moved = conn.execute(
        update(studies)
        .where(
            studies.c.study_instance_uid == study.study_instance_uid,
            studies.c.state == StudyState.CLOSED,
            studies.c.closed_at == study.closed_at,
            studies.c.report_digest.is_(None),
        )
        .values(report_digest=study.digest)
    )
    if moved.rowcount != 1:
        raise StaleMove(f"study {study.study_instance_uid} is no longer as it was")


def _study(conn: Connection, study_instance_uid: str, closed_at: datetime) -> ClosedStudy:
    versions = conn.execute(
        select(instances)
        .where(instances.c.study_instance_uid == study_instance_uid)
        .order_by(instances.c.series_instance_uid, instances.c.sop_instance_uid, instances.c.digest)
    ).all()
    newest = {
        (job.sop_instance_uid, job.digest): job
        for job in conn.execute(
            select(jobs.c.sop_instance_uid, jobs.c.digest, jobs.c.state, jobs.c.reason, jobs.c.error)
            .join(instances, JOB_OF_VERSION)
            .where(instances.c.study_instance_uid == study_instance_uid, ~jobs.c.superseded)
        )
    }
    images: dict[Unanalysed, None] = {}
    for row in versions:
        job = newest.get((row.sop_instance_uid, row.digest))
        if job is not None and row.state == InstanceState.ANALYSABLE:
            if job.state not in _UNANALYSED:
                continue
            code, detail = job.reason or job.state, job.error if job.state == JobState.REFUSED else None
        elif row.state == InstanceState.ANALYSABLE or (row.state == InstanceState.NOT_ANALYSED and row.rows is None):
            continue  # about to get its job, or no image
        else:
            code, detail = row.reason, row.detail
        key = (row.sop_class_uid, row.sop_instance_uid, row.series_instance_uid or "")
        images[Unanalysed(*key, code, detail or "")] = None
    return ClosedStudy(
        study_instance_uid=study_instance_uid,
        closed_at=closed_at,
        images=tuple(images),
        paths=tuple(
            row.path for row in sorted(versions, key=lambda row: _SOUNDNESS.index(row.state)) if row.path is not None
        ),
        calling_ae_titles=frozenset(row.calling_ae_title for row in versions),
    )
