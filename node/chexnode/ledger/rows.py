"""Rows as values and values as rows: what several tables of the ledger are read and written by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select

from chexnode.ledger.database import add_missing, add_rows
from chexnode.ledger.schema import deliveries, instances, jobs, results, series
from chexnode.vocabulary.records import DeliveryClaim, JobClaim, NewResult
from chexnode.vocabulary.states import DeliveryState, Uncommitted

Record = TypeVar("Record")

#: The instance version that a job is of.
JOB_OF_VERSION: ColumnElement[bool] = and_(
    jobs.c.sop_instance_uid == instances.c.sop_instance_uid, jobs.c.digest == instances.c.digest
)

#: SENT, and still to be committed. A range, because SQLite searches an index for one, but not for IS NOT NULL.
COMMITTING: ColumnElement[bool] = deliveries.c.commit_at >= datetime(1970, 1, 1, tzinfo=UTC)

#: Not accepted yet.
TO_BE_SENT = (DeliveryState.PENDING, DeliveryState.WAITING)

#: A delivery that is not over: to be sent, or sent and still to be committed.
UNFINISHED: ColumnElement[bool] = or_(deliveries.c.state.in_(TO_BE_SENT), COMMITTING)

#: Why a delivery is not done, in our words and the destination's, which are those of :attr:`DeliveryOutcome.why`.
WHOLE_ERROR: ColumnElement[str] = func.coalesce(
    deliveries.c.error + " (" + deliveries.c.comment + ")", deliveries.c.error
)

#: A delivery after which the destination may have the result, whatever it answered or did not.
MAY_BE_THERE: ColumnElement[bool] = or_(
    deliveries.c.state.in_((DeliveryState.SENT, DeliveryState.COMMITTED)),
    and_(deliveries.c.state.in_(TO_BE_SENT), or_(deliveries.c.attempts > 0, deliveries.c.lease_until.is_not(None))),
    and_(deliveries.c.state == DeliveryState.DEAD, deliveries.c.uncommitted == Uncommitted.UNANSWERED),
)

#: Columns of ``results``, and of ``instances``, that tell of the object itself.
INDEXED = ("transfer_syntax_uid", "instance_number", "rows", "columns", "bits_allocated", "number_of_frames")


def version(sop_instance_uid: str, digest: str) -> ColumnElement[bool]:
    """The row of this instance version."""
    return and_(instances.c.sop_instance_uid == sop_instance_uid, instances.c.digest == digest)


def columns_for(record: type[Any], *tables: Table, **named: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """A column for each field of the dataclass ``record``: of ``named``, else of the first table that has its name."""
    found: dict[str, ColumnElement[Any]] = {column.name: column for table in reversed(tables) for column in table.c}
    return [(found | named)[field.name].label(field.name) for field in fields(record)]


def records(conn: Connection, record: type[Record], query: Any) -> list[Record]:
    """The rows of ``query``, which selects :func:`columns_for` ``record``."""
    return [record(**row) for row in conn.execute(query).mappings()]


def job_claims(conn: Connection, ids: Sequence[str]) -> list[JobClaim]:
    """Jobs with what the worker needs of their instances, in the order of ``ids``."""
    query = select(*columns_for(JobClaim, jobs, instances, notes=instances.c.notes)).join_from(
        jobs, instances, JOB_OF_VERSION
    )
    claims = {claim.id: claim for claim in records(conn, JobClaim, query.where(jobs.c.id.in_(ids)))}
    return [claims[job] for job in ids]


def delivery_claims(conn: Connection, ids: Sequence[int]) -> list[DeliveryClaim]:
    """Deliveries with what the courier needs of their results, oldest first."""
    columns = columns_for(
        DeliveryClaim,
        deliveries,
        results,
        job=deliveries.c.job_id,
        sop_instance_uid=results.c.uid,
        transfer_syntax_uid=func.coalesce(results.c.transfer_syntax_uid, ""),
        error=func.coalesce(deliveries.c.error, ""),
        comment=func.coalesce(deliveries.c.comment, ""),
    )
    query = select(*columns).join_from(deliveries, results, results.c.uid == deliveries.c.result_uid)
    return records(conn, DeliveryClaim, query.where(deliveries.c.id.in_(ids)).order_by(deliveries.c.id))


def add_results(
    conn: Connection,
    new_results: Sequence[NewResult],
    to: Sequence[tuple[str, str]],
    now: datetime,
    study_instance_uid: str | None,
    job_id: str | None = None,
) -> None:
    """Insert results of a job or of a study's report, their series, and their deliveries.

    ``to``: pairs of a result's UID and the name of a destination. A result that is there already stays as it is.
    """
    known = set(conn.execute(select(results.c.uid).where(results.c.uid.in_([r.uid for r in new_results]))).scalars())
    fresh = {r.uid: r for r in new_results if r.uid not in known}
    for r in fresh.values():
        if study_instance_uid and r.series_instance_uid:
            key = {"study_instance_uid": study_instance_uid, "series_instance_uid": r.series_instance_uid}
            add_missing(conn, series, [columns_of(series, r.series) | key])
    add_rows(conn, results, [_result_row(r, now, study_instance_uid, job_id) for r in fresh.values()])
    add_rows(
        conn,
        deliveries,
        [
            {
                "result_uid": uid,
                "job_id": job_id,
                "destination": destination,
                "kind": fresh[uid].variant.kind,
                "state": DeliveryState.PENDING,
                "created_at": now,
            }
            for uid, destination in to
            if uid in fresh
        ],
    )


def columns_of(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that ``table`` has a column for."""
    return {name: value for name, value in values.items() if name in table.c}


def _result_row(r: NewResult, now: datetime, study_instance_uid: str | None, job_id: str | None) -> dict[str, Any]:
    return {name: r.instance.get(name) for name in INDEXED} | {
        "uid": r.uid,
        "job_id": job_id,
        "study_instance_uid": r.study_instance_uid or study_instance_uid,
        "series_instance_uid": r.series_instance_uid or None,
        "kind": r.variant.kind,
        "variant": str(r.variant),
        "sop_class_uid": r.sop_class_uid,
        "sha256": r.sha256,
        "path": r.path,
        "size": r.size,
        "created_at": now,
    }
