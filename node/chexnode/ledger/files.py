"""Which files the rows need, and which may go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, select, tuple_, update

from chexnode.ledger.database import Database, add_missing
from chexnode.ledger.deliveries import lock_reports
from chexnode.ledger.moves import locked
from chexnode.ledger.rows import JOB_OF_VERSION, UNFINISHED
from chexnode.ledger.schema import deliveries, instances, jobs, markers, results
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.states import FINAL_JOB_STATES, DeliveryState, JobState

_UNFINISHED = tuple(s for s in JobState if s not in FINAL_JOB_STATES)
# A dead delivery was never accepted: its files stay until somebody replays it.
_OWED = or_(UNFINISHED, deliveries.c.state == DeliveryState.DEAD)

_KEY = (instances.c.sop_instance_uid, instances.c.digest)


def _is_over(before: datetime) -> ColumnElement[bool]:
    """Received before ``before``, with a file, no unfinished job and no delivery that was never accepted.

    What waits for a model on trial keeps no file: one that cannot be loaded would fill the disk.
    """
    waits_for_nobody = and_(jobs.c.purpose == Purpose.SHADOW, jobs.c.state == JobState.QUEUED)
    busy = select(jobs.c.id).where(JOB_OF_VERSION, jobs.c.state.in_(_UNFINISHED), ~waits_for_nobody).exists()
    owed = select(deliveries.c.id).join(jobs, jobs.c.id == deliveries.c.job_id).where(JOB_OF_VERSION, _OWED).exists()
    return and_(instances.c.received_at < before, instances.c.path.is_not(None), ~busy, ~owed)


def _is_old_report(before: datetime) -> ColumnElement[bool]:
    """A study's report from before ``before``, with a file and no delivery that was never accepted."""
    owed = select(deliveries.c.id).where(deliveries.c.result_uid == results.c.uid, _OWED).exists()
    return and_(results.c.job_id.is_(None), results.c.created_at < before, results.c.path.is_not(None), ~owed)


class Files:
    """Retention and the sweep for orphans ask here; the spool deletes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def expire(self, before: datetime, limit: int = 200) -> list[str]:
        """Take the files of images received before ``before``, finished and delivered, out of their rows.

        Returns the paths, sources and results, of at most ``limit`` images: nobody needs them any more, and the caller
        deletes them. The rows come first: a file that no row names is an orphan, a row that names no file a lie.
        """
        with self._db.write() as conn:
            found = conn.execute(select(*_KEY, instances.c.path).where(_is_over(before)).limit(limit)).all()
            # A re-send that makes a job, or a replay, may come in between: lock what those lock, then look again.
            keys = [(row.sop_instance_uid, row.digest) for row in found]
            locked(conn, instances, tuple_(*_KEY).in_(keys))
            theirs = tuple_(jobs.c.sop_instance_uid, jobs.c.digest)
            locked(conn, jobs, theirs.in_(keys))
            still = conn.execute(select(*_KEY, instances.c.path).where(tuple_(*_KEY).in_(keys), _is_over(before))).all()
            keys = [(row.sop_instance_uid, row.digest) for row in still]
            of_theirs = results.c.job_id.in_(select(jobs.c.id).where(theirs.in_(keys)))
            written = select(results.c.path).where(of_theirs, results.c.path.is_not(None))
            made = list(conn.execute(written).scalars())
            conn.execute(update(instances).where(tuple_(*_KEY).in_(keys)).values(path=None))
            conn.execute(update(results).where(of_theirs).values(path=None))
            answered = and_(theirs.in_(keys), jobs.c.answer_path.is_not(None))
            made += conn.execute(select(jobs.c.answer_path).where(answered)).scalars().all()
            conn.execute(update(jobs).where(answered).values(answer_path=None))
            reports = conn.execute(select(results.c.uid).where(_is_old_report(before)).limit(limit)).scalars().all()
            lock_reports(conn, reports)
            where = and_(results.c.uid.in_(reports), _is_old_report(before))
            said = conn.execute(select(results.c.path).where(where)).scalars().all()
            conn.execute(update(results).where(where).values(path=None))
        return [row.path for row in still] + made + [path for path in said if path is not None]

    def known(self, paths: Sequence[str]) -> set[str]:
        """Those of ``paths`` that a row names."""
        with self._db.read() as conn:
            found = set(conn.execute(select(instances.c.path).where(instances.c.path.in_(paths))).scalars())
            found |= set(conn.execute(select(jobs.c.answer_path).where(jobs.c.answer_path.in_(paths))).scalars())
            return found | set(conn.execute(select(results.c.path).where(results.c.path.in_(paths))).scalars())

    def marker(self, name: str) -> str | None:
        """What is recorded under ``name``."""
        with self._db.read() as conn:
            found: str | None = conn.execute(select(markers.c.value).where(markers.c.name == name)).scalar_one_or_none()
            return found

    def mark(self, name: str, value: str) -> str:
        """Record ``value`` under ``name`` unless there is one; return what is recorded."""
        with self._db.write() as conn:
            add_missing(conn, markers, [{"name": name, "value": value}])
            return str(conn.execute(select(markers.c.value).where(markers.c.name == name)).scalar_one())
