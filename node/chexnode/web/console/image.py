"""One image: what it looks like, what was found, what happened to it, and what can be done about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from pydicom.dataset import Dataset
from starlette.concurrency import run_in_threadpool

from chexmodels.dicom.errors import DecodeError
from chexnode.ledger.images import ImageSearch, ImageView
from chexnode.ledger.objects import StoredObject
from chexnode.ledger.views import JobDetail, ResultView
from chexnode.node import Node
from chexnode.sandbox.limits import read_limits
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.records import Subject
from chexnode.vocabulary.roles import Role
from chexnode.vocabulary.states import JobState
from chexnode.vocabulary.variants import ResultKind, SrForm, Variant
from chexnode.web.access import access
from chexnode.web.actions import REPLAYABLE, Acts, Unknown, Who
from chexnode.web.console.pages import HEADERS, ROOT, Pages
from chexnode.web.console.regions import Outline, outlines
from chexnode.web.console.snapshot import Snapshots
from chexnode.web.console.visitor import Turned, Visitor, form_of, visiting
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.render import Rendering, Viewport, parse_window
from chexnode.web.dicomweb.stored import Stored

T = TypeVar("T")

_LONGEST_SIDE = 1600
_WAIT_SECONDS = 20.0
"""That destinations have to withdraw the results of what is erased."""

#: What the gate reads, in the order in which it decides; free text is for those alone who may see patients.
_CODED = (
    "Modality",
    "SOPClassUID",
    "PresentationIntentType",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsStored",
    "NumberOfFrames",
    "ViewPosition",
    "PatientOrientation",
    "BodyPartExamined",
    "ImageType",
    "PatientAge",
)
_FREE = ("SeriesDescription", "StudyDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One data element that the gate looked at."""

    keyword: str
    value: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """What the file of an image says."""

    rows: int
    columns: int
    center: float
    width: float
    """Of the window that it opens with."""
    evidence: tuple[Evidence, ...]


def router(node: Node, pages: Pages, snapshots: Snapshots, acts: Acts) -> APIRouter:
    """The page, its pictures and downloads, and the acts."""
    decoder = Decoder(node.settings.limits)
    limits = read_limits(node.settings.limits)
    views, ledger, spool, trail = node.ledger.views, node.ledger, node.spool, node.trail
    looking, operating = Depends(visiting(trail)), Depends(visiting(trail, Role.OPERATOR))
    ruling = Depends(visiting(trail, Role.ADMIN))

    @asynccontextmanager
    async def opened(_: object) -> AsyncIterator[None]:
        with decoder:
            yield

    routes = APIRouter(lifespan=opened)

    def detail(name: str, *, with_comments: bool = True) -> JobDetail:
        try:
            return views.job(name, with_comments=with_comments)
        except Usage as error:
            raise Turned(404, "turned.no_image") from error

    def stored(path: str | None, study: str, uid: str, sop_class_uid: str) -> Stored | None:
        """The file, noted for the audit trail; None where it is gone or cannot be read."""
        if path is None or not spool.exists(path):
            return None
        try:
            found = Stored.open(spool.path(path).absolute(), limits)
        except (DecodeError, OSError):
            return None
        subject = next(iter(ledger.objects.locate(study)), None) if study else None
        whose = subject.subject if subject is not None else Subject(study)
        access().opened[uid] = StoredObject(study, "", uid, sop_class_uid, "", path, 0, whose)
        return found

    def source(job: JobDetail) -> Stored | None:
        return stored(job.source_path, job.study_instance_uid, job.sop_instance_uid, job.sop_class_uid)

    def regions(job: JobDetail) -> list[Outline]:
        reports = [result for result in job.results if result.kind == ResultKind.SR]
        reports.sort(key=lambda result: not _draws_contours(result))
        for result in reports:
            found = stored(result.path, job.study_instance_uid, result.uid, "")
            try:
                if found is not None:
                    return outlines(found.header)
            except (DecodeError, ValueError, AttributeError, TypeError):
                continue
        return []

    def row_of(job: JobDetail) -> ImageView | None:
        search = ImageSearch(text=job.sop_instance_uid, with_patients=False)
        return next((one for one in ledger.images.page(search, 50).rows if one.digest == job.digest), None)

    @routes.get("/images/{name}")
    def image(request: Request, name: str, visitor: Visitor = looking) -> Response:
        job = detail(name, with_comments=visitor.sees_patients)
        file = source(job)
        row = row_of(job)
        row = row if row is None or visitor.sees_patients else row.anonymous()
        values: dict[str, Any] = {
            "job": job,
            "row": row,
            "hidden": file is not None and not visitor.sees_patients and is_burned_in(file.header),
            "source": None if file is None else describe(file.header, with_text=visitor.sees_patients),
            "outlines": regions(job),
            "can": _acts(job, visitor),
            "models": _models(node, job) if visitor.may(Role.OPERATOR) else [],
            "shadows": job.shadows,
            "history": sorted(job.events, key=lambda event: event.at),
        }
        return pages.page(request, visitor, "image", **values)

    @routes.get("/images/{name}/picture")
    def picture(name: str, window: str = "", visitor: Visitor = looking) -> Response:
        file = source(detail(name))
        if file is not None and not visitor.sees_patients and is_burned_in(file.header):
            raise Turned(403, "turned.burned_in")
        return draw(file, window)

    @routes.get("/images/{name}/objects/{uid}/picture")
    def picture_of(name: str, uid: str, visitor: Visitor = operating) -> Response:
        job = detail(name)
        result = next((one for one in job.results if one.uid == uid), None)
        return draw(stored(result.path, job.study_instance_uid, uid, "") if result is not None else None, "")

    def draw(file: Stored | None, window: str) -> Response:
        if file is None:
            raise Turned(404, "turned.no_file")
        try:
            wanted = parse_window(window) if window else None
            side = int(max(_first(file.header, "Rows") or 0, _first(file.header, "Columns") or 0)) or _LONGEST_SIDE
            side = min(side, _LONGEST_SIDE)
            rendering = Rendering("image/jpeg", wanted, Viewport(side, side), 88)
            content = decoder.picture(file, [1], rendering)
        except ValueError as error:
            raise Turned(400, "turned.search", why=plain(error)) from error
        except DecodeError as error:
            raise Turned(406, "turned.no_picture", why=plain(error.detail)) from error
        return Response(content, 200, HEADERS, "image/jpeg")

    @routes.get("/images/{name}/objects/{uid}")
    def download(name: str, uid: str, visitor: Visitor = operating) -> Response:
        job = detail(name)
        paths = {result.uid: result.path for result in job.results} | {job.sop_instance_uid: job.source_path}
        path = paths.get(uid)
        if stored(path, job.study_instance_uid, uid, "") is None or path is None:
            raise Turned(404, "turned.no_file")
        return FileResponse(spool.path(path), 200, HEADERS, "application/dicom", filename=f"{uid}.dcm")

    @routes.get("/images/{name}/erase")
    def ask(request: Request, name: str, whose: str = "study", visitor: Visitor = ruling) -> Response:
        job = detail(name)
        named = _whose(job, row_of(job), whose)
        values: dict[str, Any] = {
            "job": job,
            "row": row_of(job),
            "whose": whose,
            "extent": _done(lambda: acts.extent(named)).erased,
        }
        return pages.page(request, visitor, "erase", erasure=None, **values)

    @routes.post("/images/{name}/erase")
    async def erase(request: Request, name: str, visitor: Visitor = ruling) -> Response:
        fields = await form_of(request)
        if fields.get("sure") != "yes":
            raise Turned(400, "turned.not_sure")
        return await run_in_threadpool(erased, request, name, fields.get("whose", ""), visitor)

    def erased(request: Request, name: str, whose: str, visitor: Visitor) -> Response:
        job = detail(name)
        named = _whose(job, row_of(job), whose)
        erasure = _done(lambda: acts.erase(named, _WAIT_SECONDS, visitor.who(request)))
        snapshots.forget()
        values: dict[str, Any] = {"job": job, "row": None, "whose": whose, "extent": erasure.erased}
        return pages.page(request, visitor, "erase", erasure=erasure, **values)

    @routes.post("/images/{name}/{act}")
    async def do(request: Request, name: str, act: str, visitor: Visitor = operating) -> Response:
        fields = await form_of(request)
        await run_in_threadpool(carry_out, request, name, act, fields.get("model") or None, visitor)
        return RedirectResponse(f"{request.scope.get('root_path', '')}{ROOT}/images/{name}", 303, HEADERS)

    def carry_out(request: Request, name: str, act: str, model: str | None, visitor: Visitor) -> None:
        def image() -> Filter:
            return Filter(image=detail(name).sop_instance_uid)

        by_name: dict[str, Callable[[str, Who], object]] = {
            "retry": acts.retry,
            "cancel": acts.cancel,
            "replay": acts.replay_job,
            "withdraw": acts.withdraw,
            "reanalyse": lambda _, who: acts.reanalyse(image(), model, who),
            "rollback": lambda _, who: acts.rollback(image(), who),
        }
        if act not in by_name:
            raise Turned(404, "turned.no_image")
        try:
            by_name[act](name, visitor.who(request))
        except Unknown as error:
            raise Turned(404, "turned.no_image") from error
        except Usage as error:
            raise Turned(409, "turned.refused", why=plain(error)) from error
        snapshots.forget()

    return routes


def _done(act: Callable[[], T]) -> T:
    """What ``act`` returns. Raises Turned where it cannot be done."""
    try:
        return act()
    except Usage as error:
        raise Turned(409, "turned.refused", why=plain(error)) from error


def _acts(job: JobDetail, visitor: Visitor) -> list[str]:
    """What may be done now."""
    if not visitor.may(Role.OPERATOR) or job.model is None:
        return []
    acts = ["retry"] if job.state in (JobState.REFUSED, JobState.FAILED, JobState.CANCELLED) else []
    acts += ["cancel"] if job.state in (JobState.QUEUED, JobState.RUNNING) else []
    acts += ["replay"] if any(one.state in REPLAYABLE for one in job.deliveries) else []
    if any(one.superseded is None and one.kind != ResultKind.KO for one in job.results):
        acts += ["rollback"] if job.purpose in (Purpose.REANALYSIS, Purpose.BESIDE) else []
        acts.append("withdraw")
    return acts


def _models(node: Node, job: JobDetail) -> list[str]:
    """Names of the models that can analyse it anew: what delivers by now, and those on trial that have not yet."""
    if job.model_digest is None or job.source_path is None or job.state not in (JobState.DONE, JobState.DELIVERING):
        return []
    if any(one.superseded for one in job.results):
        return []
    tried = {one.model for one in job.shadows}
    return [
        name
        for name, spec in node.offered.items()
        if (spec.model_digest != job.model_digest if spec == node.spec else spec.model not in tried)
    ]


def _whose(job: JobDetail, row: ImageView | None, whose: str) -> Filter:
    """A patient or a study. Raises Turned where there is none to be named."""
    if whose == "study" and job.study_instance_uid:
        return Filter(study=job.study_instance_uid)
    if whose == "patient" and row is not None and row.patient_id:
        return Filter(patient=row.patient_id)
    raise Turned(404, "turned.no_image")


def _draws_contours(result: ResultView) -> bool:
    form = Variant.parse(ResultKind(result.kind), result.variant).form
    return isinstance(form, SrForm) and form.outline == "contour"


def is_burned_in(header: Dataset) -> bool:
    """Whether the pixels name the patient: Burned In Annotation (0028,0301) says so, or anything that is not NO."""
    return _value(header, "BurnedInAnnotation").strip().upper() not in ("", "NO")


def describe(header: Dataset, *, with_text: bool) -> SourceFile:
    """What ``header`` says to the gate and to the screen."""
    keywords = (*_CODED, *_FREE) if with_text else _CODED
    evidence = [Evidence(keyword, _value(header, keyword)) for keyword in keywords]
    bits = _first(header, "BitsStored") or 8
    return SourceFile(
        int(_first(header, "Rows") or 0),
        int(_first(header, "Columns") or 0),
        _first(header, "WindowCenter") or 2 ** (bits - 1),
        _first(header, "WindowWidth") or 2**bits,
        tuple(one for one in evidence if one.value),
    )


def _value(header: Dataset, keyword: str) -> str:
    try:
        value = header.get(keyword)
    except Exception:  # what the library cannot convert is still worth saying so
        return "?"
    if value is None or value == "":
        return ""
    if keyword == "SOPClassUID":
        return str(getattr(value, "name", value))
    text = "\\".join(str(one) for one in value) if not isinstance(value, str | int | float) else str(value)
    return plain(re.sub(r"\s+", " ", text))[:200]


def _first(header: Dataset, keyword: str) -> float | None:
    try:
        value = header.get(keyword)
        if value is None or value == "":
            return None
        return float(value if isinstance(value, str | int | float) else value[0])
    except Exception:
        return None
