"""Whose objects are moved: what the audit trail tells of a result."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.rows import JOB_OF_VERSION
from chexnode.ledger.schema import instances, jobs, results, studies
from chexnode.vocabulary.records import Subject


class Subjects:
    """Queries by UID."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def of_results(self, uids: Sequence[str]) -> dict[str, Subject]:
        """SOP Instance UID -> study and patient, of those of ``uids`` that are results, of a job or of a study."""
        study = func.coalesce(results.c.study_instance_uid, instances.c.study_instance_uid)
        query = (
            select(results.c.uid, study, studies.c.patient_id, studies.c.patient_name, studies.c.accession_number)
            .outerjoin(jobs, jobs.c.id == results.c.job_id)
            .outerjoin(instances, JOB_OF_VERSION)
            .outerjoin(studies, studies.c.study_instance_uid == study)
        )
        found: dict[str, Subject] = {}
        with self._db.read() as conn:
            for some in in_chunks(uids):
                for uid, *facts in conn.execute(query.where(results.c.uid.in_(some))):
                    found[uid] = Subject(*(fact or "" for fact in facts))
        return found
