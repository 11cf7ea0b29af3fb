"""A :class:`~chexnode.vocabulary.filters.Filter` as conditions of queries."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_, select

from chexnode.ledger.rows import JOB_OF_VERSION
from chexnode.ledger.schema import deliveries, instances, jobs, results, studies
from chexnode.vocabulary.filters import Filter


def of_instances(wanted: Filter) -> list[ColumnElement[bool]]:
    """Conditions of a query of instances: when they were received, and of whom."""
    conditions = _of_studies(wanted, instances.c.study_instance_uid)
    if wanted.image is not None:
        conditions.append(instances.c.sop_instance_uid == wanted.image)
    if wanted.since is not None:
        conditions.append(instances.c.received_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(instances.c.received_at < wanted.until)
    return conditions


def of_deliveries(wanted: Filter) -> list[ColumnElement[bool]]:
    """Conditions of a query of deliveries: when they were made or last asked for, and of whose results."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.image is not None:
        conditions.append(deliveries.c.job_id.in_(select(jobs.c.id).where(jobs.c.sop_instance_uid == wanted.image)))
    if of_whom := _of_studies(wanted, results.c.study_instance_uid):
        # A result that is in no study here (its source names no series) is known by the image that it was made of.
        source = (
            select(jobs.c.id)
            .join(instances, JOB_OF_VERSION)
            .where(*_of_studies(wanted, instances.c.study_instance_uid))
        )
        found = deliveries.c.result_uid.in_(select(results.c.uid).where(*of_whom))
        conditions.append(or_(found, deliveries.c.job_id.in_(source)))
    if wanted.since is not None:
        conditions.append(deliveries.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(deliveries.c.created_at < wanted.until)
    return conditions


def _of_studies(wanted: Filter, uid: ColumnElement[str]) -> list[ColumnElement[bool]]:
    conditions = [uid == wanted.study] if wanted.study is not None else []
    facts = ((studies.c.accession_number, wanted.accession), (studies.c.patient_id, wanted.patient))
    given = [column == value for column, value in facts if value is not None]
    if given:
        conditions.append(uid.in_(select(studies.c.study_instance_uid).where(*given)))
    return conditions
