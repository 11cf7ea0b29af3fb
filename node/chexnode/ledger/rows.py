"""Rows of results and their deliveries, whether of a job or of a study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, or_

from chexnode.ledger.database import add_missing, add_rows
from chexnode.ledger.schema import deliveries, results, series
from chexnode.vocabulary.records import NewResult
from chexnode.vocabulary.states import DeliveryState

#: SENT, and still to be committed. A range, because SQLite searches an index for one, but not for IS NOT NULL.
COMMITTING: ColumnElement[bool] = deliveries.c.commit_at >= datetime(1970, 1, 1, tzinfo=UTC)

#: A delivery that is not over: to be sent, or sent and still to be committed.
UNFINISHED: ColumnElement[bool] = or_(
    deliveries.c.state.in_([DeliveryState.PENDING, DeliveryState.WAITING]), COMMITTING
)

#: Columns of ``results``, and of ``instances``, that tell of the object itself.
INDEXED = ("transfer_syntax_uid", "instance_number", "rows", "columns", "bits_allocated", "number_of_frames")


def add_results(
    conn: Connection,
    new_results: Sequence[NewResult],
    now: datetime,
    study_instance_uid: str | None,
    job_id: str | None = None,
) -> None:
    """Insert results, with their series, of a job or of a study's report."""
    placed = [r for r in new_results if study_instance_uid and r.series_instance_uid]
    for r in placed:
        key = {"study_instance_uid": study_instance_uid, "series_instance_uid": r.series_instance_uid}
        add_missing(conn, series, [columns_of(series, r.series) | key])
    add_rows(conn, results, _result_rows(new_results, now, study_instance_uid, job_id))


def columns_of(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that ``table`` has a column for."""
    return {name: value for name, value in values.items() if name in table.c}


def _result_rows(
    new_results: Sequence[NewResult], now: datetime, study_instance_uid: str | None, job_id: str | None
) -> list[dict[str, Any]]:
    return [
        {name: r.instance.get(name) for name in INDEXED}
        | {
            "uid": r.uid,
            "job_id": job_id,
            "study_instance_uid": study_instance_uid,
            "series_instance_uid": r.series_instance_uid or None,
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


def delivery_rows(
    new_results: Sequence[NewResult], to: Sequence[tuple[str, str]], now: datetime, job_id: str | None = None
) -> list[dict[str, Any]]:
    """Rows of ``deliveries`` for (UID of one of ``new_results``, destination) pairs."""
    kind_of = {result.uid: result.kind for result in new_results}
    return [
        {
            "result_uid": uid,
            "job_id": job_id,
            "destination": destination,
            "kind": kind_of[uid],
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "fence": 0,
            "created_at": now,
        }
        for uid, destination in to
    ]
