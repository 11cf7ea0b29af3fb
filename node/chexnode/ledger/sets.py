"""Sets of results: which are valid, what they follow from, and the end of a set whose image has another one now.

Of all versions of one SOP instance at most one has a valid set. What is superseded stays in the ledger and on the disk
as long as retention lets it; DICOMweb shows it on request only, and it is sent nowhere any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import LABEL_STYLE_TABLENAME_PLUS_COL, Connection, and_, select, update

from chexnode.ledger.database import Database
from chexnode.ledger.moves import finish_delivered, happened, locked, move_each, new_fence, record
from chexnode.ledger.rows import JOB_OF_VERSION, MAY_BE_THERE
from chexnode.ledger.schema import deliveries, instances, jobs, results
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.records import Digests, JobSpec, ResultSet, SetMember
from chexnode.vocabulary.states import DeliveryState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import ResultKind


class Sets:
    """Queries by SOP Instance UID. Superseding happens in the transaction that commits the new set."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def valid(self, sop_instance_uid: str) -> list[ResultSet]:
        """The sets of all versions of an image that are valid: one, or none; more only while models are compared."""
        with self._db.read() as conn:
            return valid_sets(conn, sop_instance_uid)

    def answer(self, sop_instance_uid: str, content_digest: str, model_digest: str) -> str | None:
        """Path of what the model answered for this content before, of whichever version; None: it was not asked."""
        query = (
            select(jobs.c.answer_path)
            .where(
                jobs.c.sop_instance_uid == sop_instance_uid,
                jobs.c.content_digest == content_digest,
                jobs.c.model_digest == model_digest,
                jobs.c.answer_path.is_not(None),
            )
            .order_by(jobs.c.created_at.desc())
            .limit(1)
        )
        with self._db.read() as conn:
            path: str | None = conn.execute(query).scalar_one_or_none()
            return path


def valid_sets(conn: Connection, sop_instance_uid: str) -> list[ResultSet]:
    """The sets of all versions of an image that are valid, by ``conn``: one, or none; more only in a comparison."""
    query = (
        select(results, instances.c.received_at, jobs)
        .join_from(results, jobs, jobs.c.id == results.c.job_id)
        .join(instances, JOB_OF_VERSION)
        .where(
            jobs.c.sop_instance_uid == sop_instance_uid,
            results.c.superseded.is_(None),
            results.c.kind != ResultKind.KO,
        )
        .order_by(results.c.uid)
        .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
    )
    rows = conn.execute(query).mappings().all()
    there: dict[str, list[str]] = {row["results_uid"]: [] for row in rows}
    of_those = select(deliveries.c.result_uid, deliveries.c.destination)
    if there:
        where = and_(deliveries.c.result_uid.in_(list(there)), MAY_BE_THERE)
        for uid, destination in conn.execute(of_those.where(where).order_by(deliveries.c.destination)):
            there[uid].append(destination)
    sets: dict[str, ResultSet] = {}
    for row in rows:
        content, identity = row["jobs_content_digest"], row["jobs_identity_digest"]
        known = sets.get(row["jobs_id"]) or ResultSet(
            row["jobs_id"],
            row["jobs_digest"],
            row["instances_received_at"],
            JobSpec(row["jobs_model"], row["jobs_model_digest"], row["jobs_settings_digest"]),
            Digests(content, identity) if content and identity else None,
            (),
        )
        member = SetMember(
            row["results_uid"],
            row["results_kind"],
            row["results_variant"],
            row["results_sop_class_uid"],
            row["results_series_instance_uid"] or "",
            row["results_study_instance_uid"] or "",
            row["results_path"],
            tuple(there[row["results_uid"]]),
        )
        sets[known.job] = replace(known, members=(*known.members, member))
    return list(sets.values())


def supersede_sets(
    conn: Connection, sop_instance_uid: str, by: str, replaces: Mapping[str, Supersession], now: datetime
) -> None:
    """End the sets of the jobs ``replaces``, each with its reason, for that of the job ``by``.

    Raises Transient where they are not the valid ones of the image any more.
    """
    valid = {one.job for one in valid_sets(conn, sop_instance_uid)} - {by}
    if valid != set(replaces):
        raise Transient("the valid results of this image are others by now")
    for job, why in replaces.items():
        withdraw_sets(conn, [job], why, now)


def withdraw_sets(conn: Connection, job_ids: Sequence[str], why: Supersession, now: datetime) -> None:
    """Make the results of these jobs valid no longer, and let nobody send them any more."""
    locked(conn, jobs, jobs.c.id.in_(job_ids))
    theirs = and_(results.c.job_id.in_(job_ids), results.c.kind != ResultKind.KO)
    ended = update(results).where(theirs, results.c.superseded.is_(None)).values(superseded=why)
    changed = sorted(set(conn.execute(ended.returning(results.c.job_id)).scalars()))
    record(conn, (happened("job", job, Event.SUPERSEDED, now, detail=why) for job in changed))
    open_ones = and_(
        deliveries.c.job_id.in_(job_ids),
        deliveries.c.kind != ResultKind.KO,
        deliveries.c.state != DeliveryState.WITHDRAWN,
    )
    rows = locked(conn, deliveries, open_ones, deliveries.c.id, deliveries.c.job_id, deliveries.c.state)
    facts = {"lease_until": None, "next_attempt": None, "commit_at": None, "finished_at": now}
    fence = new_fence()
    move_each(conn, deliveries, rows, DeliveryState.WITHDRAWN, Event.WITHDRAWN, now, why, fence=fence, **facts)
    finish_delivered(conn, job_ids, now)
