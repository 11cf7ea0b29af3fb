"""Read-only views for commands, the web and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, func, select, tuple_

from chexnode.ledger.database import Database
from chexnode.ledger.moves import instance_id
from chexnode.ledger.narrowing import of_deliveries, of_instances
from chexnode.ledger.rows import JOB_OF_VERSION, WHOLE_ERROR, columns_for, records
from chexnode.ledger.schema import deliveries, destinations, events, instances, jobs, results, studies
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import EVERYTHING, Filter
from chexnode.vocabulary.purposes import AWAITED, Purpose
from chexnode.vocabulary.records import DeliveryView, JobView
from chexnode.vocabulary.states import InstanceState, JobState


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of a history."""

    at: datetime
    event: str
    """What happened."""
    from_state: str | None
    to_state: str | None
    """None where the state did not change."""
    detail: str | None
    """A reason, an error, or who did it."""


@dataclass(frozen=True, slots=True)
class ResultView:
    """One encoded object of a job."""

    uid: str
    """SOP Instance UID."""
    kind: str
    """``seg``, ``sc``, ``sr`` or ``gsps``."""
    variant: str
    """As a destination's settings want it, such as ``planar`` or ``rgb``."""
    sha256: str
    """Of the file."""
    path: str | None
    """Under ``data_dir``; None once retention has deleted it."""
    size: int
    """Bytes."""
    superseded: str | None
    """Why it is valid no longer; null while it is."""


@dataclass(frozen=True, slots=True)
class ShadowView:
    """What a model on trial said of the same image; nothing of it was delivered."""

    job: str
    """Id of its job."""
    model: str
    """Name and version."""
    state: str
    score: float | None
    """In [0, 1]; None before the analysis."""
    abnormal: bool | None
    """None before the analysis, and where the model could not say."""
    regions: int | None
    answer_path: str | None
    """What the model answered, under ``data_dir``; None before, and once retention has deleted it."""
    finished_at: datetime | None
    error: str | None
    """Of the last attempt."""


@dataclass(frozen=True, slots=True)
class JobDetail(JobView):
    """Everything about one job, or about one instance that got none."""

    digest: str
    """SHA-256 of the encoded data set as received."""
    sop_class_uid: str
    calling_ae_title: str
    """Who sent it."""
    address: str
    """From where."""
    source_path: str | None
    """The file as received, under ``data_dir``; None once retention has deleted it."""
    instance_detail: str | None
    """The gate's evidence: the site's rule that decided, what was read of view and part, or what speaks against."""
    priority: str
    """``urgent`` or ``routine``."""
    notes: tuple[str, ...]
    """Codes of what was noticed."""
    model_digest: str | None
    """SHA-256 of the model's description and weights."""
    purpose: str | None
    """What the job is for: ``image``, ``reanalysis``, ``beside``, ``rollback`` or ``shadow``."""
    events: tuple[EventView, ...]
    """The history, oldest first."""
    results: tuple[ResultView, ...]
    """The encoded objects."""
    deliveries: tuple[DeliveryView, ...]
    """Newest first."""
    shadows: tuple[ShadowView, ...]
    """What models on trial said of the image."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What metrics need beyond the account's tally."""

    deliveries: dict[tuple[str, str, str], int]
    """(destination, kind, state) -> deliveries."""
    oldest_queued_at: datetime | None
    open_breakers: tuple[str, ...]
    paused: tuple[str, ...]
    """Destinations to which nothing is sent now, because a person wants it so."""


_NEWEST_FIRST = (
    instances.c.received_at.desc(),
    jobs.c.created_at.desc(),
    instances.c.sop_instance_uid,
    instances.c.digest,
)


class Views:
    """Reads jobs, deliveries and counts; changes nothing."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def jobs(
        self,
        states: Sequence[str] = (),
        wanted: Filter = EVERYTHING,
        sop_instance_uid: str | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[JobView]:
        """Every received instance version with its jobs, newest first; one without a job shows its verdict."""
        query = _jobs_query().where(*of_instances(wanted))
        if sop_instance_uid:
            query = query.where(instances.c.sop_instance_uid == sop_instance_uid)
        end = None if limit is None else offset + limit
        if end is not None:
            query = query.limit(end)
        named = [s.upper() for s in states]
        # Each an index can serve, in its order; one that looks into both tables at once would read them all.
        jobless = [state for state in named if state in (InstanceState.NOT_ANALYSED, InstanceState.QUARANTINED)]
        queries = [
            query.where(jobs.c.state.in_(named)).order_by(jobs.c.created_at.desc(), jobs.c.id),
            query.where(instances.c.state.in_(jobless)).order_by(*_NEWEST_FIRST),
        ]
        with self._db.read() as conn:
            chosen = queries if named else [query.order_by(*_NEWEST_FIRST)]
            rows = [row for one in chosen for row in conn.execute(one)]
        if named:
            rows.sort(key=lambda row: row.received_at, reverse=True)
        return [_job_view(row) for row in rows[offset:end]]

    def job(self, name: str, *, with_comments: bool = True) -> JobDetail:
        """One job by id, or one instance without a job by its ``i...`` name. Raises Usage if there is none.

        ``with_comments``: see :meth:`deliveries`.
        """
        query = _jobs_query(shadows=True)
        with self._db.read() as conn:
            if name.startswith("i"):
                # Its row is of the moment of its first event, or of that in which it became the latest version again.
                first = select(events.c.at).where(events.c.subject == "instance", events.c.subject_id == name)
                rows = conn.execute(query.where(instances.c.received_at.in_(first), jobs.c.id.is_(None))).all()
                row = next((r for r in rows if instance_id(r.sop_instance_uid, r.digest) == name), None)
            else:
                row = conn.execute(query.where(jobs.c.id == name)).one_or_none()
            if row is None:
                raise Usage(f"no job {name}")
            subjects = [("instance", instance_id(row.sop_instance_uid, row.digest))]
            if row.job_id is not None:
                subjects.append(("job", row.job_id))
            of = tuple_(events.c.subject, events.c.subject_id).in_(subjects)
            history = select(*columns_for(EventView, events)).where(of).order_by(events.c.at, events.c.id)
            made = select(*columns_for(ResultView, results)).where(results.c.job_id == row.job_id)
            past, objects = records(conn, EventView, history), records(conn, ResultView, made.order_by(results.c.kind))
            tried = select(*columns_for(ShadowView, jobs, job=jobs.c.id)).where(
                jobs.c.sop_instance_uid == row.sop_instance_uid,
                jobs.c.digest == row.digest,
                jobs.c.purpose == Purpose.SHADOW,
                jobs.c.id != row.job_id,
            )
            shadows = records(conn, ShadowView, tried.order_by(jobs.c.created_at, jobs.c.id))
        view = _job_view(row)
        return JobDetail(
            **{f.name: getattr(view, f.name) for f in fields(view)},
            **{name: row._mapping[name] for name in _DETAIL},
            notes=tuple(dict.fromkeys((*row.instance_notes, *(row.job_notes or ())))),
            events=tuple(past),
            results=tuple(objects),
            deliveries=tuple(self.deliveries(job=row.job_id, limit=None, with_comments=with_comments))
            if row.job_id
            else (),
            shadows=tuple(shadows),
        )

    def deliveries(
        self,
        states: Sequence[str] = (),
        destination: str | None = None,
        job: str | None = None,
        limit: int | None = 100,
        wanted: Filter = EVERYTHING,
        offset: int = 0,
        *,
        with_comments: bool = True,
    ) -> list[DeliveryView]:
        """Deliveries, newest first; ``with_comments``: their errors with what destinations said, which may name
        patients, else in our words alone."""
        query = _deliveries(with_comments).order_by(deliveries.c.id.desc())
        query = query.where(*of_deliveries(wanted))
        if states:
            query = query.where(deliveries.c.state.in_([s.upper() for s in states]))
        if destination:
            query = query.where(deliveries.c.destination == destination)
        if job:
            query = query.where(deliveries.c.job_id == job)
        if limit is not None:
            query = query.limit(limit).offset(offset)
        with self._db.read() as conn:
            return records(conn, DeliveryView, query)

    def delivery(self, number: int) -> DeliveryView | None:
        """One delivery; None if there is none."""
        with self._db.read() as conn:
            return next(iter(records(conn, DeliveryView, _deliveries().where(deliveries.c.id == number))), None)

    def waiting(self, most: int) -> int:
        """How many jobs are to be done, counted up to ``most``."""
        unfinished = jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING])
        due = select(jobs.c.id).where(unfinished, jobs.c.urgency <= AWAITED).limit(most).subquery()
        with self._db.read() as conn:
            return int(conn.execute(select(func.count()).select_from(due)).scalar_one())

    def backlog(self) -> Backlog:
        """Counts by state, for metrics and health."""
        now = self._db.clock()
        with self._db.read() as conn:
            by = (deliveries.c.state, deliveries.c.destination, deliveries.c.kind)  # as an index has them
            sent = conn.execute(select(*by, func.count()).group_by(*by)).all()
            oldest = conn.execute(
                select(func.min(jobs.c.created_at)).where(jobs.c.state == JobState.QUEUED, jobs.c.urgency <= AWAITED)
            ).scalar_one_or_none()
            broken = conn.execute(select(destinations.c.name).where(destinations.c.open_until > now)).scalars()
            paused = conn.execute(select(destinations.c.name).where(destinations.c.paused_at.is_not(None))).scalars()
            return Backlog(
                deliveries={(destination, kind, state): int(n) for state, destination, kind, n in sent},
                oldest_queued_at=oldest,
                open_breakers=tuple(broken),
                paused=tuple(paused),
            )


#: Fields of :class:`JobDetail` that are columns of :func:`_jobs_query`.
_DETAIL = (
    *("digest", "sop_class_uid", "calling_ae_title", "address"),
    *("source_path", "instance_detail", "priority", "model_digest", "purpose"),
)


def _deliveries(with_comments: bool = True) -> Any:
    columns = {"job": deliveries.c.job_id, "sop_instance_uid": deliveries.c.result_uid}
    error = WHOLE_ERROR if with_comments else deliveries.c.error
    return select(*columns_for(DeliveryView, deliveries, **columns, error=error))


def _jobs_query(shadows: bool = False) -> Any:
    """Each version with its jobs; ``shadows``: those of models on trial too."""
    of_instance = (
        *("sop_instance_uid", "digest", "study_instance_uid", "sop_class_uid", "calling_ae_title", "address"),
        "priority",
    )
    of_job = (
        "model",
        "model_digest",
        "purpose",
        "score",
        "abnormal",
        "regions",
        "attempts",
        "crashes",
        "finished_at",
        "error",
    )
    return (
        select(
            *(instances.c[name] for name in (*of_instance, "received_at")),
            *(instances.c[name].label(f"instance_{name}") for name in ("state", "reason", "detail", "notes")),
            instances.c.path.label("source_path"),
            studies.c.accession_number,
            *(jobs.c[name] for name in of_job),
            *(jobs.c[name].label(f"job_{name}") for name in ("id", "state", "reason", "notes")),
        )
        .select_from(instances)
        .outerjoin(jobs, JOB_OF_VERSION if shadows else and_(JOB_OF_VERSION, jobs.c.purpose != Purpose.SHADOW))
        .outerjoin(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
    )


def _job_view(row: Row[Any]) -> JobView:
    has_job = row.job_id is not None
    return JobView(
        id=row.job_id if has_job else instance_id(row.sop_instance_uid, row.digest),
        state=row.job_state if has_job else row.instance_state,
        reason=row.job_reason if has_job else row.instance_reason,
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid or "",
        accession_number=row.accession_number,
        model=row.model,
        score=row.score,
        abnormal=row.abnormal,
        regions=row.regions,
        attempts=(row.attempts + row.crashes) if has_job else 0,
        received_at=row.received_at,
        finished_at=row.finished_at if has_job else row.received_at,
        error=row.error if has_job else row.instance_detail,
    )
