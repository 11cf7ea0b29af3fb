"""Erasing a patient or a study: what would go, what must be withdrawn before, and the end of the rows.

Nothing of an image that is being analysed can come back: its job is cancelled, and then gone, and a worker that ends
later finds no row to complete (see :meth:`~chexnode.ledger.jobs.Jobs.complete`) and throws its results away.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, or_, select, update

from chexnode.ledger.database import Database, in_chunks
from chexnode.ledger.moves import finish_delivered, happened, instance_id, locked, move_each, new_fence, record
from chexnode.ledger.rows import JOB_OF_VERSION, MAY_BE_THERE, add_results, columns_for, records
from chexnode.ledger.schema import commitments, deliveries, events, instances, jobs, results, series, studies
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import NewResult, SetMember
from chexnode.vocabulary.reports import Extent
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import ResultKind


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What became of a note that withdraws results from a destination."""

    destination: str
    state: DeliveryState
    error: str | None
    """In our own words."""
    comment: str | None
    """What the destination said to it, which may name the patient."""


class Erasures:
    """Each method looks again: what came meanwhile goes too. ``whose`` names a patient or a study."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def extent(self, whose: Filter) -> Extent:
        """Count what would go."""
        with self._db.read() as conn:
            return _Rows(conn, whose).extent()

    def issuers(self, whose: Filter) -> set[str]:
        """Who issued the patient's ID, by the images that say so."""
        query = select(studies.c.issuer_of_patient_id).where(of_patient_id(whose)).distinct()
        with self._db.read() as conn:
            return {issuer for issuer in conn.execute(query).scalars() if issuer}

    def studies(self, whose: Filter) -> list[str]:
        """Study Instance UIDs."""
        with self._db.read() as conn:
            return _Rows(conn, whose).studies

    def identities(self, whose: Filter) -> set[str]:
        """All that names the patient, a study or an object of it: IDs, names, accession numbers and UIDs."""
        with self._db.read() as conn:
            return _Rows(conn, whose).identities()

    def cancel(self, whose: Filter) -> int:
        """Have nothing more analysed; return how many jobs were cancelled."""
        now = self._db.clock()
        with self._db.write() as conn:
            rows = _Rows(conn, whose)
            open_ones = and_(jobs.c.id.in_(rows.jobs), jobs.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
            found = locked(conn, jobs, open_ones, jobs.c.id, jobs.c.state)
            facts: dict[str, Any] = {"finished_at": now, "fence": new_fence(), "owner": None, "lease_until": None}
            return len(move_each(conn, jobs, found, JobState.CANCELLED, Event.CANCELLED, now, **facts))

    def sent(self, whose: Filter) -> dict[str, tuple[SetMember, ...]]:
        """Study Instance UID -> the results that some destination may have, those superseded before included."""
        with self._db.read() as conn:
            rows = _Rows(conn, whose)
            to: dict[str, list[str]] = {}
            where = (deliveries.c.result_uid.in_(rows.results), or_(MAY_BE_THERE, _NOT_WITHDRAWN))
            for uid, name in conn.execute(select(deliveries.c.result_uid, deliveries.c.destination).where(*where)):
                to.setdefault(uid, []).append(name)
            found: dict[str, list[SetMember]] = {}
            of_those = select(results).where(results.c.uid.in_(list(to)), results.c.kind != ResultKind.KO)
            for row in conn.execute(of_those.order_by(results.c.uid)):
                names = (row.sop_class_uid, row.series_instance_uid or "", row.study_instance_uid or "", row.path)
                member = SetMember(row.uid, row.kind, row.variant, *names, tuple(sorted(to[row.uid])))
                found.setdefault(member.study_instance_uid, []).append(member)
            return {study: tuple(members) for study, members in found.items()}

    def withdraw(self, whose: Filter, notes: Sequence[NewResult], to: Sequence[tuple[str, str]]) -> float:
        """End all results, and commit ``notes``, whose files are durable; ``to``: (note's UID, destination) pairs.

        Returns in how many seconds the notes may go: a courier that is sending a result may still be at it until then.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            rows = _Rows(conn, whose)
            locked(conn, jobs, jobs.c.id.in_(rows.jobs))
            valid = and_(results.c.uid.in_(rows.results), results.c.superseded.is_(None))
            conn.execute(
                update(results).where(valid, results.c.kind != ResultKind.KO).values(superseded=Supersession.ERASED)
            )
            open_ones = and_(
                deliveries.c.result_uid.in_(rows.results),
                deliveries.c.kind != ResultKind.KO,
                deliveries.c.state != DeliveryState.WITHDRAWN,
            )
            under_way = conn.execute(select(func.max(deliveries.c.lease_until)).where(open_ones)).scalar_one_or_none()
            found = locked(conn, deliveries, open_ones, deliveries.c.id, deliveries.c.job_id, deliveries.c.state)
            facts: dict[str, Any] = {"lease_until": None, "next_attempt": None, "commit_at": None, "finished_at": now}
            facts["fence"] = new_fence()
            move_each(conn, deliveries, found, DeliveryState.WITHDRAWN, Event.WITHDRAWN, now, **facts)
            finish_delivered(conn, list(conn.execute(rows.jobs).scalars()), now)
            for note in notes:
                mine = [pair for pair in to if pair[0] == note.uid]
                add_results(conn, [note], mine, now, note.study_instance_uid)
            if under_way is None or not notes:
                return 0.0
            # A destination must not get a result after the note about it.
            of_notes = deliveries.c.result_uid.in_([note.uid for note in notes])
            conn.execute(update(deliveries).where(of_notes).values(next_attempt=under_way))
            return max(0.0, float((under_way - now).total_seconds()))

    def withdrawals(self, whose: Filter) -> list[Withdrawal]:
        """Every note about results of theirs, by destination."""
        with self._db.read() as conn:
            where = (deliveries.c.result_uid.in_(_Rows(conn, whose).results), deliveries.c.kind == ResultKind.KO)
            columns = columns_for(Withdrawal, deliveries)
            query = select(*columns).where(*where).order_by(deliveries.c.destination)
            return records(conn, Withdrawal, query)

    def files(self, whose: Filter) -> set[str]:
        """Paths, relative to ``data_dir``, of all that is stored of theirs."""
        with self._db.read() as conn:
            return _Rows(conn, whose).files()

    def delete(self, whose: Filter, deleted: Collection[str]) -> Extent | None:
        """Delete the rows, unless they name a file that is not one of ``deleted``, which are gone: then None.

        The files go first: a received file that no row names would be taken for one that was lost, and recorded.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            rows = _Rows(conn, whose)
            locked(conn, instances, instances.c.study_instance_uid.in_(rows.studies))
            locked(conn, jobs, jobs.c.id.in_(rows.jobs))
            if rows.files() - set(deleted):
                return None
            extent = rows.extent()
            rows.delete()
            detail = f"{extent.studies} studies, {extent.images} images, {extent.results} results"
            record(conn, [happened("node", "erasure", Event.ERASED, now, detail=detail)])
        return extent


#: A note is under way, or was refused: who has the result may have it still.
_NOT_WITHDRAWN: ColumnElement[bool] = and_(deliveries.c.state == DeliveryState.WITHDRAWN, deliveries.c.attempts > 0)


def of_patient_id(whose: Filter) -> ColumnElement[bool]:
    """The studies of a patient, by ID and, where that is named, its issuer."""
    is_patients = studies.c.patient_id == whose.patient
    if whose.issuer is None:
        return is_patients
    return and_(is_patients, func.coalesce(studies.c.issuer_of_patient_id, "") == whose.issuer)


class _Rows:
    """What is theirs, within one transaction."""

    def __init__(self, conn: Connection, whose: Filter) -> None:
        assert (whose.patient is None) != (whose.study is None), "name a patient or a study"
        of_patient = of_patient_id(whose)
        of_study = studies.c.study_instance_uid == whose.study
        self.conn = conn
        self.studies: list[str] = list(
            conn.execute(
                select(studies.c.study_instance_uid).where(of_study if whose.patient is None else of_patient)
            ).scalars()
        )
        mine = instances.c.study_instance_uid.in_(self.studies)
        self.jobs: Select[Any] = select(jobs.c.id).join(instances, JOB_OF_VERSION).where(mine)
        self.results: Select[Any] = select(results.c.uid).where(
            or_(results.c.study_instance_uid.in_(self.studies), results.c.job_id.in_(self.jobs))
        )

    def extent(self) -> Extent:
        """Count."""
        mine = instances.c.study_instance_uid.in_(self.studies)
        unfinished = and_(jobs.c.id.in_(self.jobs), jobs.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
        return Extent(
            len(self.studies),
            self._count(select(func.count()).select_from(instances).where(mine)),
            self._count(select(func.count()).select_from(results).where(results.c.uid.in_(self.results))),
            self._count(select(func.count()).select_from(deliveries).where(self._of_deliveries())),
            self._count(select(func.count()).select_from(jobs).where(unfinished)),
        )

    def _count(self, query: Select[Any]) -> int:
        return int(self.conn.execute(query).scalar_one())

    def _of_deliveries(self) -> ColumnElement[bool]:
        return deliveries.c.result_uid.in_(self.results)

    def identities(self) -> set[str]:
        """All that names the patient, a study or an object of it: IDs, names, accession numbers and UIDs."""
        of = studies.c.study_instance_uid.in_(self.studies)
        names = (studies.c.patient_id, studies.c.patient_name, studies.c.accession_number)
        found = {str(value) for row in self.conn.execute(select(*names).where(of)) for value in row if value}
        mine = instances.c.study_instance_uid.in_(self.studies)
        uids = (instances.c.study_instance_uid, instances.c.series_instance_uid, instances.c.sop_instance_uid)
        found |= {str(uid) for row in self.conn.execute(select(*uids).where(mine)) for uid in row if uid}
        made = (results.c.uid, results.c.series_instance_uid)
        of_results = select(*made).where(results.c.uid.in_(self.results))
        return found | {str(uid) for row in self.conn.execute(of_results) for uid in row if uid}

    def files(self) -> set[str]:
        """Paths, relative to ``data_dir``, of all that is stored of theirs."""
        mine = instances.c.study_instance_uid.in_(self.studies)
        queries = (
            select(instances.c.path).where(mine),
            select(results.c.path).where(results.c.uid.in_(self.results)),
            select(jobs.c.answer_path).where(jobs.c.id.in_(self.jobs)),
        )
        return {path for query in queries for path in self.conn.execute(query).scalars() if path is not None}

    def delete(self) -> None:
        """All rows, the history of each too."""
        conn = self.conn
        versions = conn.execute(
            select(instances.c.sop_instance_uid, instances.c.digest).where(
                instances.c.study_instance_uid.in_(self.studies)
            )
        ).all()
        job_ids = list(conn.execute(self.jobs).scalars())
        uids = list(conn.execute(self.results).scalars())
        sent = list(conn.execute(select(deliveries.c.id).where(self._of_deliveries())).scalars())
        self._forget("delivery", [str(number) for number in sent])
        self._forget("job", job_ids)
        self._forget("instance", [*(instance_id(*row) for row in versions), *uids])
        self._forget("study", self.studies)
        self._forget_commitments({*uids, *(row.sop_instance_uid for row in versions)})
        for some in in_chunks(uids):
            conn.execute(delete(deliveries).where(deliveries.c.result_uid.in_(some)))
            conn.execute(delete(results).where(results.c.uid.in_(some)))
        for some in in_chunks(job_ids):
            conn.execute(delete(jobs).where(jobs.c.id.in_(some)))
        for table in (instances, series, studies):
            conn.execute(delete(table).where(table.c.study_instance_uid.in_(self.studies)))

    def _forget(self, subject: str, names: Sequence[str]) -> None:
        for some in in_chunks(names):
            self.conn.execute(delete(events).where(events.c.subject == subject, events.c.subject_id.in_(some)))

    def _forget_commitments(self, uids: Collection[str]) -> None:
        for row in self.conn.execute(select(commitments.c.transaction_uid, commitments.c.instances)).all():
            left = [pair for pair in row.instances if pair[1] not in uids]
            if len(left) == len(row.instances):
                continue
            this = commitments.c.transaction_uid == row.transaction_uid
            self.conn.execute(
                update(commitments).where(this).values(instances=left) if left else delete(commitments).where(this)
            )
