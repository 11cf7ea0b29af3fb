"""Rows of results and their deliveries, whether of a job or of a study's report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from chexnode.ledger.records import NewResult
from chexnode.ledger.schema import deliveries
from chexnode.ledger.states import DeliveryState

#: A delivery that is not over: to be sent, or sent and still to be committed.
UNFINISHED: ColumnElement[bool] = or_(
    deliveries.c.state.in_([DeliveryState.PENDING, DeliveryState.WAITING]),
    and_(deliveries.c.state == DeliveryState.SENT, deliveries.c.commit_at.is_not(None)),
)


def result_rows(
    new_results: Sequence[NewResult], now: datetime, *, job_id: str | None = None, study_instance_uid: str | None = None
) -> list[dict[str, Any]]:
    """Rows of ``results``, which belong to a job or to a study."""
    return [
        {
            "uid": r.uid,
            "job_id": job_id,
            "study_instance_uid": study_instance_uid,
            "kind": r.kind,
            "variant": r.variant,
            "sop_class_uid": r.sop_class_uid,
            "sha256": r.sha256,
            "path": r.path,
            "size": r.size,
            "created_at": now,
        }
        for r in new_results
    ]


def delivery_rows(to: Sequence[tuple[str, str]], now: datetime, job_id: str | None = None) -> list[dict[str, Any]]:
    """Rows of ``deliveries`` for (result UID, destination) pairs."""
    return [
        {
            "result_uid": uid,
            "job_id": job_id,
            "destination": destination,
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "fence": 0,
            "created_at": now,
        }
        for uid, destination in to
    ]
