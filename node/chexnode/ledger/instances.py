"""What arrived: instance versions, their studies and series, and the job each eligible one gets."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, Connection, and_, bindparam, func, select, text, update
from sqlalchemy.exc import IntegrityError

from chexnode.ledger.database import Database, add_missing, add_rows
from chexnode.ledger.identities import UNNAMED
from chexnode.ledger.moves import happened, instance_id, move, record
from chexnode.ledger.reports import make_due_again
from chexnode.ledger.rows import columns_of, version
from chexnode.ledger.schema import instances, jobs, results, series, studies
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.purposes import Purpose, Urgency
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import MANUFACTURER, Arrival, JobSpec, Outcome, Priority, Receipt
from chexnode.vocabulary.states import InstanceState, JobState, StudyState
from chexnode.vocabulary.variants import ResultKind

KEY_OBJECT_SELECTION_DOCUMENT = "1.2.840.10008.5.1.4.1.1.88.59"
"""Its storage class. Every command opens a ledger, and importing pydicom takes longer than the rest of most of them."""

#: A job that is queued again begins anew.
AFRESH: dict[str, Any] = {"reason": None, "error": None, "attempts": 0, "crashes": 0, "finished_at": None}


class Instances:
    """The receiving side of the ledger."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def record(
        self, arrivals: Sequence[Arrival], spec: JobSpec, before_commit: Callable[[], None] | None = None
    ) -> list[Receipt]:
        """Commit ``arrivals`` in one transaction and say what became of each, in their order.

        ``before_commit`` is called when all rows are written: the receiver's files become durable meanwhile, and must
        be before the rows are. What it raises undoes the transaction. It may be called twice.

        Raises Transient when the database is busy or away; then nothing was recorded and nothing may be acknowledged.
        """
        try:
            return self._record(arrivals, spec, before_commit)
        except IntegrityError:
            # Another receiver committed the same instance between our look and our insert; now we see its row.
            return self._record(arrivals, spec, before_commit)

    def _record(
        self, arrivals: Sequence[Arrival], spec: JobSpec, before_commit: Callable[[], None] | None
    ) -> list[Receipt]:
        with self._db.write() as conn:
            _lock_uids(conn, arrivals)
            batch = _Batch(conn, arrivals, spec, self._db.clock())
            receipts = [batch.take(arrival) for arrival in arrivals]
            batch.flush()
            if before_commit is not None:
                before_commit()
        return receipts

    def files_of(self, sop_instance_uid: str, digest: str) -> tuple[str | None] | None:
        """A version's path, which is None where retention has deleted its file; None where the version is unknown."""
        with self._db.read() as conn:
            row = conn.execute(select(instances.c.path).where(version(sop_instance_uid, digest))).one_or_none()
            return None if row is None else (row.path,)


# Built once: with every arrival's transaction, building them again would be a third of its work.
_UIDS: BindParameter[Any] = bindparam("uids", expanding=True)
_LOCK = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
_TICK = timedelta(microseconds=1)
_FIND_VERSIONS = (
    select(*(instances.c[name] for name in ("sop_instance_uid", "digest", "state", "path", "received_at")))
    .where(instances.c.sop_instance_uid.in_(_UIDS))
    .order_by(instances.c.sop_instance_uid, instances.c.digest)
    .with_for_update()
)
_FIND_STUDIES = (
    select(studies.c.study_instance_uid, studies.c.state, UNNAMED.label("unnamed"))
    .where(studies.c.study_instance_uid.in_(_UIDS))
    .order_by(studies.c.study_instance_uid)
    .with_for_update()
)
_TOUCH_STUDIES = (
    update(studies).where(studies.c.study_instance_uid.in_(_UIDS)).values(last_received_at=bindparam("now"))
)


def _facts(arrival: Arrival) -> dict[str, Any]:
    """What the header, read in the transfer syntax it came in, says of the instance, and where its file is."""
    verdict = arrival.verdict
    return {
        "study_instance_uid": arrival.study_instance_uid or None,
        "series_instance_uid": arrival.series_instance_uid or None,
        "state": verdict.state,
        "reason": verdict.reason,
        "detail": verdict.detail or None,
        "notes": verdict.notes,
        "priority": verdict.priority,
        "sop_class_uid": arrival.sop_class_uid,
        "transfer_syntax_uid": arrival.transfer_syntax_uid,
        "path": arrival.path,
        "size": arrival.size,
        **columns_of(instances, arrival.instance),
    }


class _Batch:
    """The rows of one transaction, gathered first and then written table by table."""

    def __init__(self, conn: Connection, arrivals: Sequence[Arrival], spec: JobSpec, now: datetime) -> None:
        self.conn, self.spec, self.now = conn, spec, now
        self.own = _own_results(conn, arrivals)
        self.known, self.newest = _known_versions(conn, arrivals)
        self.studies: dict[str, dict[str, Any]] = {}
        self.series: dict[tuple[str, str], dict[str, Any]] = {}
        self.instances: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.created: list[dict[str, Any]] = []
        self.triaged: list[tuple[InstanceState, Arrival, dict[str, Any]]] = []
        self.corrected: set[str] = set()
        """Studies of which a known image came again, changed: what its header says of patient and study counts now."""
        self.back: dict[str, dict[str, Any]] = {}
        """Of studies whose files had been deleted and come again: their rows may say no longer whose they are."""
        self.duplicates: dict[tuple[str, str], int] = defaultdict(int)
        self.latest_again: dict[tuple[str, str], datetime] = {}

    def take(self, arrival: Arrival) -> Receipt:
        """Decide on one arrival and gather its rows."""
        uid, digest = arrival.sop_instance_uid, arrival.digest
        name = instance_id(uid, digest)
        if uid in self.own:
            self.events.append(happened("instance", uid, Event.OWN_RESULT, self.now))
            return Receipt(Outcome.OWN_RESULT, None)
        versions = self.known.setdefault(uid, {})
        if digest in versions:
            return self._again(arrival, name, versions)
        conflict = bool(versions)
        verdict = arrival.verdict
        # The latest version is that received last, whatever two clocks say.
        received_at = self._becomes_latest(uid, digest)
        versions[digest] = (verdict.state, arrival.path)
        if conflict and verdict.state is not InstanceState.QUARANTINED and arrival.study_instance_uid:
            self.corrected.add(arrival.study_instance_uid)
        self._add_study(arrival)
        self.instances.append(
            {
                "sop_instance_uid": uid,
                "digest": digest,
                "conflict": conflict,
                "calling_ae_title": arrival.calling_ae_title,
                "address": arrival.address,
                "duplicates": 0,
                "note_due_at": received_at if arrival.sop_class_uid == KEY_OBJECT_SELECTION_DOCUMENT else None,
                "note_failures": 0,
                "received_at": received_at,
                **_facts(arrival),
            }
        )
        outcome = Outcome.CONFLICT if conflict else Outcome.NEW
        self.events.append(happened("instance", name, Event(outcome), received_at, None, verdict.state, verdict.reason))
        # No job can exist yet: jobs refer to instances.
        job = self._add_job(arrival) if verdict.state is InstanceState.ANALYSABLE else None
        return Receipt(outcome, arrival.path, job)

    def _becomes_latest(self, uid: str, digest: str) -> datetime:
        """Return when this version was received: after all others."""
        received_at = max(self.now, self.newest[uid][0] + _TICK) if uid in self.newest else self.now
        self.newest[uid] = (received_at, digest)
        return received_at

    def _again(self, arrival: Arrival, name: str, versions: dict[str, tuple[InstanceState, str | None]]) -> Receipt:
        """The very bytes are known: count it, and give it the job that today's gate or model allows it."""
        uid, digest = arrival.sop_instance_uid, arrival.digest
        state, path = versions[digest]
        self.duplicates[uid, digest] += 1
        at = self.now
        if self.newest[uid][1] != digest:  # A, B, and A again
            at = self.latest_again[uid, digest] = self._becomes_latest(uid, digest)
            if arrival.verdict.state is not InstanceState.QUARANTINED:
                self.corrected.add(arrival.study_instance_uid)
                self._add_study(arrival)
        self.events.append(happened("instance", name, Event.DUPLICATE, at))
        where = version(uid, digest)
        job = None
        if path is None:  # retention had deleted the file; this one takes its place
            path = arrival.path
            self.conn.execute(update(instances).where(where).values(path=path))
            self.back[arrival.study_instance_uid] = _study_row(arrival)
        if arrival.sop_class_uid == KEY_OBJECT_SELECTION_DOCUMENT:
            failed = and_(where, instances.c.note_failures > 0)
            self.conn.execute(update(instances).where(failed).values(note_due_at=self.now, note_failures=0))
        if arrival.verdict.state is InstanceState.ANALYSABLE:
            if state is InstanceState.QUARANTINED and self._came_in_another_syntax(arrival):
                # Whoever sent these bytes first did not name the transfer syntax that they are of.
                path = arrival.path
                self._add_study(arrival)
                self.triaged.append((state, arrival, _facts(arrival)))
                state = InstanceState.ANALYSABLE
            elif state is InstanceState.NOT_ANALYSED:
                facts = {"reason": None, "detail": None, "notes": arrival.verdict.notes}
                self.triaged.append((state, arrival, facts))
                state = InstanceState.ANALYSABLE
            if state is InstanceState.ANALYSABLE and not self._has_job(arrival):
                supersede(self.conn, uid, digest, self.spec.key(uid, digest))
                job = self._add_job(arrival)
            elif (uid, digest) in self.latest_again and self._needs_results(uid, digest):
                job = self._add_job(arrival, again=True)
            elif (job := self._retry_without_source(arrival)) is not None:
                path = arrival.path
                self.conn.execute(update(instances).where(where).values(path=path))
            if job is not None:
                make_due_again(self.conn, [arrival.study_instance_uid])
        versions[digest] = (state, path)
        return Receipt(Outcome.DUPLICATE, path, job)

    def _add_study(self, arrival: Arrival) -> None:
        study, one_series = arrival.study_instance_uid, arrival.series_instance_uid
        if not (study and one_series):
            return
        row = _study_row(arrival)
        if study in self.corrected:
            self.studies[study] = row
        self.studies.setdefault(study, row)
        self.series.setdefault(
            (study, one_series),
            dict(columns_of(series, arrival.series), study_instance_uid=study, series_instance_uid=one_series),
        )

    def _came_in_another_syntax(self, arrival: Arrival) -> bool:
        known = select(instances.c.transfer_syntax_uid).where(version(arrival.sop_instance_uid, arrival.digest))
        return self.conn.execute(known).scalar_one_or_none() != arrival.transfer_syntax_uid

    def _has_job(self, arrival: Arrival) -> bool:
        key = self.spec.key(arrival.sop_instance_uid, arrival.digest)
        gathered = any(row["key"] == key for row in self.jobs)
        return gathered or self.conn.execute(select(jobs.c.id).where(jobs.c.key == key)).first() is not None

    def _retry_without_source(self, arrival: Arrival) -> str | None:
        """The job that was refused because the file was lost, queued again now that the file has come again."""
        key = self.spec.key(arrival.sop_instance_uid, arrival.digest)
        lost = and_(jobs.c.key == key, jobs.c.reason == Reason.SOURCE_MISSING)
        again = (JobState.REFUSED, JobState.QUEUED, Event.RETRIED)
        for job in move(self.conn, jobs, *again, self.now, lost, due_at=self.now, **AFRESH):
            supersede(self.conn, arrival.sop_instance_uid, arrival.digest, key)
            return str(job)
        return None

    def _needs_results(self, uid: str, digest: str) -> bool:
        """Whether a version that is the latest again had results, or needed none, and now those of another stand."""
        counts = and_(jobs.c.sop_instance_uid == uid, jobs.c.digest == digest, ~jobs.c.superseded)
        what = (jobs.c.content_digest, jobs.c.identity_digest)
        ended = counts, jobs.c.state.in_((JobState.DELIVERING, JobState.DONE, JobState.SKIPPED))
        mine = self.conn.execute(select(*what).where(*ended)).first()
        of_image = and_(jobs.c.sop_instance_uid == uid, results.c.superseded.is_(None), results.c.kind != ResultKind.KO)
        valid = select(*what).join_from(results, jobs, jobs.c.id == results.c.job_id).where(of_image)
        return mine is not None and mine not in self.conn.execute(valid.distinct()).all()

    def _add_job(self, arrival: Arrival, *, again: bool = False) -> str:
        """``again``: results that were withdrawn are made under other UIDs."""
        uid, digest = arrival.sop_instance_uid, arrival.digest
        number = 0
        if again:
            of_version = and_(jobs.c.sop_instance_uid == uid, jobs.c.digest == digest)
            number = self.conn.execute(select(func.count()).select_from(jobs).where(of_version)).scalar_one()
        row = new_job(uid, digest, self.spec, arrival.verdict.priority, self.now, number)
        if again:
            supersede(self.conn, uid, digest, row["key"])
        self.jobs.append(row)
        self.created.append(happened("job", row["id"], Event.CREATED, self.now, None, JobState.QUEUED))
        return str(row["id"])

    def flush(self) -> None:
        """Write what was gathered."""
        self._flush_studies()
        # Everything in key order: receivers that write the same rows then wait for each other and never deadlock.
        add_missing(self.conn, series, _uniform([self.series[key] for key in sorted(self.series)]))
        self.instances.sort(key=lambda row: (row["sop_instance_uid"], row["digest"]))
        add_rows(self.conn, instances, _uniform(self.instances))
        record(self.conn, self.events)
        for state, arrival, facts in self.triaged:
            where = version(arrival.sop_instance_uid, arrival.digest)
            move(
                self.conn,
                instances,
                state,
                InstanceState.ANALYSABLE,
                Event.TRIAGED,
                self.now,
                where,
                **{name: value for name, value in facts.items() if name != "state"},
            )
        for (uid, digest), count in sorted(self.duplicates.items()):
            values: dict[str, Any] = {"duplicates": instances.c.duplicates + count}
            if (uid, digest) in self.latest_again:
                # Of the versions that are a conflict, and of the first, the latest is served.
                values |= {"received_at": self.latest_again[uid, digest], "conflict": True}
            self.conn.execute(update(instances).where(version(uid, digest)).values(**values))
        add_rows(self.conn, jobs, self.jobs)
        record(self.conn, self.created)

    def _flush_studies(self) -> None:
        """Add new studies; an image for a known one moves its clock, and reopens it if it had closed."""
        for uid, row in sorted(self.back.items()):
            self.conn.execute(update(studies).where(studies.c.study_instance_uid == uid, UNNAMED).values(**row))
        if not self.studies:
            return
        # Sorted, so that two receivers lock the same rows in the same order.
        uids = sorted(self.studies)
        rows = self.conn.execute(_FIND_STUDIES, {"uids": uids}).all()
        known = {row.study_instance_uid: row.state for row in rows}
        renamed = self.corrected | {row.study_instance_uid for row in rows if row.unnamed}
        fresh = [
            dict(self.studies[uid], state=StudyState.OPEN, first_received_at=self.now, last_received_at=self.now)
            for uid in uids
            if uid not in known
        ]
        add_missing(self.conn, studies, _uniform(fresh))
        if known:
            self.conn.execute(_TOUCH_STUDIES, {"uids": sorted(known), "now": self.now})
        for uid in sorted(renamed & known.keys()):
            self.conn.execute(update(studies).where(studies.c.study_instance_uid == uid).values(**self.studies[uid]))
        if closed := [uid for uid, state in known.items() if state is StudyState.CLOSED]:
            reopened = (StudyState.CLOSED, StudyState.OPEN, Event.REOPENED)
            those = studies.c.study_instance_uid.in_(closed)
            move(self.conn, studies, *reopened, self.now, those, closed_at=None, report_digest=None)


def _study_row(arrival: Arrival) -> dict[str, Any]:
    """What its header says of patient and study, as a row of ``studies``."""
    key = name_key(str(arrival.study.get("patient_name") or ""))
    facts = columns_of(studies, arrival.study)
    return dict(facts, study_instance_uid=arrival.study_instance_uid, patient_name_key=key or None)


def new_job(
    sop_instance_uid: str,
    digest: str,
    spec: JobSpec,
    priority: str,
    now: datetime,
    number: int = 0,
    purpose: Purpose = Purpose.IMAGE,
    urgency: Urgency | None = None,
) -> dict[str, Any]:
    """The row of a fresh job; ``number``: how many the version had, where the same analysis is wanted again.

    ``urgency``: None takes that of ``priority``. A job for another purpose than a received image does not count for
    it, or not before it has results.
    """
    key = spec.key(sop_instance_uid, digest, number)
    return {
        "id": key[:16],
        "key": key,
        "sop_instance_uid": sop_instance_uid,
        "digest": digest,
        "model": spec.model,
        "model_digest": spec.model_digest,
        "settings_digest": spec.settings_digest,
        "state": JobState.QUEUED,
        "purpose": purpose,
        "urgency": urgency or (Urgency.URGENT if priority == Priority.URGENT else Urgency.ROUTINE),
        "due_at": now,
        "attempts": 0,
        "crashes": 0,
        "fence": 0,
        "notes": (),
        "superseded": purpose is not Purpose.IMAGE,
        "created_at": now,
    }


def supersede(conn: Connection, sop_instance_uid: str, digest: str, key: str) -> None:
    """Of the jobs of this version that of ``key`` counts, be it there or about to come, and no other."""
    conn.execute(
        update(jobs)
        .where(jobs.c.sop_instance_uid == sop_instance_uid, jobs.c.digest == digest)
        .values(superseded=jobs.c.key != key)
    )


def name_key(patient_name: str) -> str:
    """A person name as it is searched for: without case, and without trailing empty components (PS3.5 6.2.1)."""
    return "=".join(group.strip().rstrip("^ ") for group in patient_name.casefold().split("=")).rstrip("=")


def _own_results(conn: Connection, arrivals: Sequence[Arrival]) -> set[str]:
    ours = [a.sop_instance_uid for a in arrivals if a.manufacturer == MANUFACTURER]
    if not ours:
        return set()
    return set(conn.execute(select(results.c.uid).where(results.c.uid.in_(ours))).scalars())


def _lock_uids(conn: Connection, arrivals: Sequence[Arrival]) -> None:
    """One transaction at a time for each SOP Instance UID: of two first versions one is the first. SQLite has but one
    writer; PostgreSQL locks no row that is not there yet."""
    if conn.dialect.name == "postgresql":
        uids = {arrival.sop_instance_uid.encode() for arrival in arrivals}
        keys = sorted(int.from_bytes(hashlib.sha256(uid).digest()[:8], "big", signed=True) for uid in uids)
        conn.execute(_LOCK, {"keys": keys})


def _known_versions(
    conn: Connection, arrivals: Sequence[Arrival]
) -> tuple[dict[str, dict[str, tuple[InstanceState, str | None]]], dict[str, tuple[datetime, str]]]:
    """By SOP Instance UID: digest -> (state, path), and when the latest version was received and which it is.

    Locked: retention may not take their files.
    """
    known: dict[str, dict[str, tuple[InstanceState, str | None]]] = {}
    newest: dict[str, tuple[datetime, str]] = {}
    uids = list({a.sop_instance_uid for a in arrivals})
    for uid, digest, state, path, received_at in conn.execute(_FIND_VERSIONS, {"uids": uids}):
        known.setdefault(uid, {})[digest] = (state, path)
        newest[uid] = max((received_at, digest), newest.get(uid, (received_at, digest)))
    return known, newest


def _uniform(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same keys in every row, as one multi-row INSERT needs."""
    keys = {key for row in rows for key in row}
    return [{key: row.get(key) for key in keys} for row in rows]
