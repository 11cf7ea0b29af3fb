"""The study as an aggregate: it closes when it has been quiet for a while, and a late image reopens it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from chexnode.ledger.database import Database
from chexnode.ledger.moves import move
from chexnode.ledger.reports import UNWANTED
from chexnode.ledger.schema import studies
from chexnode.vocabulary.events import Event
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
        quiet = studies.c.last_received_at < now - timedelta(seconds=quiet_seconds)
        facts: dict[str, Any] = {"closed_at": now, "report_digest": None if reports else UNWANTED}
        with self._db.write() as conn:
            return move(conn, studies, StudyState.OPEN, StudyState.CLOSED, Event.CLOSED, now, quiet, **facts)
