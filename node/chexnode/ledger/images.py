"""Received images as a person looks for them: narrowed down, searched, a page at a time, however many there are.

A page is asked for by where the one before ended, so that the last of many rows costs what the first does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, Select, and_, false, func, or_, select, tuple_

from chexnode.ledger.database import Database
from chexnode.ledger.instances import name_key
from chexnode.ledger.moves import instance_id
from chexnode.ledger.rows import JOB_OF_VERSION
from chexnode.ledger.schema import instances, jobs, results, studies
from chexnode.vocabulary.states import InstanceState, JobState

_COUNTED = 10_000
"""Rows are counted up to here: beyond it a person narrows the list down anyway."""
_FRESH_SECONDS = 30.0
_RECENT = 2000
"""Callers, stations and models are offered that are among so many of the newest."""


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """Which images; an empty field stands for any."""

    text: str = ""
    """Accession Number, Patient ID, a UID or the beginning of a Patient Name."""
    with_patients: bool = True
    """Whether ``text`` may be a patient's."""
    state: str = ""
    """Of the job, or of the instance."""
    reason: str = ""
    caller: str = ""
    """Calling AE title."""
    station: str = ""
    """Station Name (0008,1010)."""
    model: str = ""
    """Name and version."""
    abnormal: bool | None = None
    least_score: float | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: after this row, or before it where ``is_back``."""

    at: datetime
    sop_instance_uid: str
    digest: str
    is_back: bool = False


@dataclass(frozen=True, slots=True)
class ImageView:
    """One row: an instance version with the job that counts for it."""

    id: str
    """Of the job; of the instance, beginning with ``i``, where there is none."""
    state: str
    reason: str | None
    received_at: datetime
    finished_at: datetime | None
    accession_number: str | None
    patient_id: str | None
    patient_name: str | None
    study_date: str | None
    calling_ae_title: str
    station_name: str | None
    urgent: bool
    model: str | None
    score: float | None
    abnormal: bool | None
    regions: int | None
    error: str | None
    sop_instance_uid: str
    digest: str
    study_instance_uid: str | None

    @property
    def place(self) -> Place:
        """Where it stands in the list."""
        return Place(self.received_at, self.sop_instance_uid, self.digest)

    def anonymous(self) -> ImageView:
        """This image without what names the patient or the request, or may quote it."""
        return replace(self, accession_number=None, patient_id=None, patient_name=None, study_date=None, error=None)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, the latest first, and whether there are others on either side."""

    rows: tuple[ImageView, ...]
    has_newer: bool
    has_older: bool


class Images:
    """Searches the received images, a page at a time."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._offered: tuple[float, dict[str, list[str]]] = (-math.inf, {})

    def page(self, search: ImageSearch, size: int, place: Place | None = None) -> Page:
        """``size`` rows from ``place`` on."""
        is_back = place is not None and place.is_back
        query = _select(search)
        if place is not None:
            query = query.where(_beyond(search, place))
        order = [column.asc() if is_back else column.desc() for column in _order(search)]
        with self._db.read() as conn:
            found = [_view(row) for row in conn.execute(query.order_by(*order).limit(size + 1))]
        more, rows = len(found) > size, found[:size]
        if is_back:
            rows.reverse()
        return Page(tuple(rows), more if is_back else place is not None, True if is_back else more)

    def count(self, search: ImageSearch) -> int:
        """How many there are, counted up to 10,000."""
        query = _select(search).with_only_columns(instances.c.digest)
        # Where one table answers, joins change nothing but what it costs.
        if not _asks_of_jobs(search):
            query = select(instances.c.digest).where(*_conditions(search))
        elif not _asks_of_instances(search):
            query = select(jobs.c.digest).where(*_conditions(search), jobs.c.superseded == false())
        limited = query.limit(_COUNTED).subquery()
        with self._db.read() as conn:
            return int(conn.execute(select(func.count()).select_from(limited)).scalar_one())

    def all(self, search: ImageSearch, most: int = 1_000_000) -> Iterator[ImageView]:
        """Every row, the latest first, page by page: a slow reader holds no transaction open."""
        place: Place | None = None
        while most > 0:
            page = self.page(search, min(1000, most), place)
            yield from page.rows
            most -= len(page.rows)
            if not page.has_older or not page.rows:
                return
            place = page.rows[-1].place

    def choices(self) -> dict[str, list[str]]:
        """What callers, stations and models there are, for a form; half a minute old at most."""
        at, offered = self._offered
        if time.monotonic() - at >= _FRESH_SECONDS:
            offered = self._choices()
            self._offered = time.monotonic(), offered
        return offered

    def _choices(self) -> dict[str, list[str]]:
        # What is older can be searched for, but need not be offered.
        sources = select(instances.c.calling_ae_title, instances.c.station_name)
        newest = sources.order_by(instances.c.received_at.desc()).limit(_RECENT)
        analysed = select(jobs.c.model).where(jobs.c.state == JobState.DONE)
        models = analysed.order_by(jobs.c.created_at.desc()).limit(_RECENT)
        with self._db.read() as conn:
            rows = conn.execute(newest).all()
            found: dict[str, set[str | None]] = {
                "caller": {row.calling_ae_title for row in rows},
                "station": {row.station_name for row in rows},
                "model": set(conn.execute(models).scalars()),
            }
        return {name: sorted(value for value in values if value)[:50] for name, values in found.items()}


def _is_by_job(search: ImageSearch) -> bool:
    """Whether the jobs lead the query, because their index knows the state."""
    return search.state in set(JobState)


def _asks_of_jobs(search: ImageSearch) -> bool:
    """Whether a condition looks at the job of a version."""
    asked = search.reason, search.model, search.abnormal is not None, search.least_score is not None
    return any(asked) or _is_by_job(search)


def _asks_of_instances(search: ImageSearch) -> bool:
    """Whether a condition looks at the version itself."""
    asked = search.text.strip(), search.reason, search.caller, search.station, search.state and not _is_by_job(search)
    return any(asked) or (not _is_by_job(search) and (search.since or search.until) is not None)


def _order(search: ImageSearch) -> tuple[Column[Any], ...]:
    at = jobs.c.created_at if _is_by_job(search) else instances.c.received_at
    return (at, instances.c.sop_instance_uid, instances.c.digest)


def _beyond(search: ImageSearch, place: Place) -> ColumnElement[bool]:
    """What comes after ``place``: by the time alone first, which is what an index has."""
    at, *rest = _order(search)
    key, value = tuple_(*rest), (place.sop_instance_uid, place.digest)
    if place.is_back:
        return and_(at >= place.at, or_(at > place.at, key > value))
    return and_(at <= place.at, or_(at < place.at, key < value))


def _select(search: ImageSearch) -> Select[Any]:
    of_instance = ("sop_instance_uid", "digest", "calling_ae_title", "station_name", "study_instance_uid")
    of_study = ("accession_number", "patient_id", "patient_name", "study_date")
    of_job = ("model", "score", "abnormal", "regions", "finished_at", "error")
    # Not by the index that begins with it, which SQLite would take before that of the version.
    counts = and_(JOB_OF_VERSION, func.coalesce(jobs.c.superseded, false()) == false())
    columns = (
        *(instances.c[name] for name in of_instance),
        instances.c.state.label("instance_state"),
        instances.c.reason.label("instance_reason"),
        instances.c.detail.label("instance_detail"),
        instances.c.priority,
        (jobs.c.created_at if _is_by_job(search) else instances.c.received_at).label("received_at"),
        *(studies.c[name] for name in of_study),
        *(jobs.c[name] for name in of_job),
        jobs.c.id.label("job_id"),
        jobs.c.state.label("job_state"),
        jobs.c.reason.label("job_reason"),
    )
    query = select(*columns)
    if _is_by_job(search):
        query = query.select_from(jobs).join(instances, counts)
    else:
        query = query.select_from(instances).outerjoin(jobs, counts)
    query = query.outerjoin(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
    return query.where(*_conditions(search))


def _conditions(search: ImageSearch) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if _is_by_job(search):
        found.append(jobs.c.state == search.state)
    elif search.state:
        found.append(instances.c.state == search.state)
    if search.reason:
        found.append(or_(instances.c.reason == search.reason, jobs.c.reason == search.reason))
    if search.caller:
        found.append(instances.c.calling_ae_title == search.caller)
    if search.station:
        found.append(instances.c.station_name == search.station)
    # Not the bare columns: seeing that a version without a job cannot meet these, a database would begin with all jobs
    # and sort them, where the newest images are a page already.
    if search.model:
        found.append(func.coalesce(jobs.c.model, "") == search.model)
    if search.abnormal is not None:
        found.append(func.coalesce(jobs.c.abnormal, not search.abnormal) == search.abnormal)
    if search.least_score is not None:
        found.append(func.coalesce(jobs.c.score, -1.0) >= search.least_score)
    at = _order(search)[0]
    if search.since is not None:
        found.append(at >= search.since)
    if search.until is not None:
        found.append(at < search.until)
    if text := search.text.strip():
        found.append(_matches(text, search.with_patients))
    return found


def _matches(text: str, with_patients: bool) -> ColumnElement[bool]:
    """Each of the kinds is one search of an index, and all of them together are one list of keys."""
    named = [
        select(instances.c.sop_instance_uid).where(instances.c.sop_instance_uid == text),
        select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid == text),
        select(jobs.c.sop_instance_uid).where(jobs.c.id == text),
        select(jobs.c.sop_instance_uid).join(results, results.c.job_id == jobs.c.id).where(results.c.uid == text),
    ]
    if with_patients:
        name = name_key(text)
        of = [studies.c.accession_number == text, studies.c.patient_id == text]
        if name:  # all that begin with it: up to the last character that there is
            of.append(and_(studies.c.patient_name_key >= name, studies.c.patient_name_key < name + "\U0010ffff"))
        keys = [select(studies.c.study_instance_uid).where(one) for one in of]
        named += [select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid.in_(key)) for key in keys]
    return or_(*(instances.c.sop_instance_uid.in_(one) for one in named))


def _view(row: Row[Any]) -> ImageView:
    has_job = row.job_id is not None
    facts = {
        "id": row.job_id if has_job else instance_id(row.sop_instance_uid, row.digest),
        "state": str(row.job_state if has_job else row.instance_state),
        "reason": row.job_reason if has_job else row.instance_reason,
        "error": row.error if has_job else row.instance_detail,
        "urgent": row.priority == "urgent",
    }
    return ImageView(**facts, **{name: getattr(row, name) for name in _OF_ROW})


_MADE = ("id", "state", "reason", "error", "urgent")
_OF_ROW = tuple(field.name for field in fields(ImageView) if field.name not in _MADE)
"""Fields of a view that a row has under the same name."""

#: States that a list can be narrowed down to.
STATES = (*JobState, InstanceState.NOT_ANALYSED, InstanceState.QUARANTINED)
