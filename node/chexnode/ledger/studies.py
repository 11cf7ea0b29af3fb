"""The study as an aggregate: it closes when it has been quiet for a while, and a late image reopens it."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update

from chexnode.ledger.database import Database, note_event, record_events
from chexnode.ledger.reports import UNWANTED
from chexnode.ledger.schema import studies
from chexnode.vocabulary.states import StudyState


class Studies:
    """Closing. Opening and reopening happen in the transaction that records an image."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def close_quiet(self, quiet_seconds: float, reports: bool = False) -> list[str]:
        """Close the studies whose last image is older than that; return their Study Instance UIDs.

        ``reports``: whether anybody wants to hear what was not analysed in them.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            closed = list(
                conn.execute(
                    update(studies)
                    .where(
                        studies.c.state == StudyState.OPEN,
                        studies.c.last_received_at < now - timedelta(seconds=quiet_seconds),
                    )
                    .values(state=StudyState.CLOSED, closed_at=now, report_digest=None if reports else UNWANTED)
                    .returning(studies.c.study_instance_uid)
                ).scalars()
            )
            record_events(
                conn, [note_event("study", uid, "closed", now, StudyState.OPEN, StudyState.CLOSED) for uid in closed]
            )
        return closed
