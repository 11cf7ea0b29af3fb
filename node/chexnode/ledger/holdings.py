"""What the node holds, for a comparison with what a PACS holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Column, select

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.narrowing import of_deliveries
from chexnode.ledger.rows import JOB_OF_VERSION
from chexnode.ledger.schema import deliveries, instances, jobs, results
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.states import DeliveryState


class Holdings:
    """Queries by UID."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def received(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Those of ``sop_instance_uids`` that were received, whatever became of them."""
        return self._among(instances.c.sop_instance_uid, sop_instance_uids)

    def made(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Those of ``sop_instance_uids`` that are results of ours."""
        return self._among(results.c.uid, sop_instance_uids)

    def _among(self, column: Column[str], uids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with self._db.read() as conn:
            for some in in_chunks(uids):
                found |= set(conn.execute(select(column).where(column.in_(some))).scalars())
        return found

    def delivered(self, destination: str, wanted: Filter) -> dict[str, set[str]]:
        """Study Instance UID -> SOP Instance UIDs of the results that ``destination`` accepted, of the wanted studies.

        The filter's times are when it accepted them.
        """
        times = [deliveries.c.finished_at >= wanted.since] if wanted.since is not None else []
        times += [deliveries.c.finished_at < wanted.until] if wanted.until is not None else []
        studies = of_deliveries(replace(wanted, since=None, until=None))
        query = (
            select(instances.c.study_instance_uid, results.c.uid)
            .join(jobs, jobs.c.id == results.c.job_id)
            .join(instances, JOB_OF_VERSION)
            .join(deliveries, deliveries.c.result_uid == results.c.uid)
            .where(
                deliveries.c.destination == destination,
                deliveries.c.state.in_([DeliveryState.SENT, DeliveryState.COMMITTED]),
                results.c.superseded.is_(None),  # it may be gone, and nobody is to send it again
                *times,
                *studies,
                instances.c.study_instance_uid.is_not(None),
            )
        )
        found: dict[str, set[str]] = {}
        with self._db.read() as conn:
            for study, uid in conn.execute(query):
                found.setdefault(study, set()).add(uid)
        return found
