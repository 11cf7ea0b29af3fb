"""STOW-RS: instances stored by HTTP with the promises of C-STORE (PS3.18 section 10.5).

200 goes out when every file is durable and every row committed. Who sends is known to routing (``destination.peers``)
as :data:`CALLER`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator, Sequence
from threading import BoundedSemaphore
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from chexnode.dicomweb.json_model import Json, element, sequence
from chexnode.dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, BadMediaType, MediaType, parse_media_type
from chexnode.dicomweb.multipart import MultipartError
from chexnode.receive.http_body import HttpBody, PartOutcome
from chexnode.receive.outcome import Failure
from chexnode.receive.storage import StorageService
from chexnode.vocabulary.records import Caller
from chexnode.web.access import access
from chexnode.web.dicomweb.responses import (
    NO_STORE,
    BadRequest,
    Descriptions,
    accepted_by,
    single_model,
    single_model_as,
    warning,
)
from chexnode.web.dicomweb.routes import Study, base_url, instance_url

CALLER = "STOW-RS"
"""In place of a calling AE title."""

T = TypeVar("T")
_OVER = object()

#: What a body may be, said with 415 (RFC 9110 section 12.5.1).
TAKEN = (DICOM, *(f'multipart/related; type="{kind}"' for kind in (DICOM, DICOM_JSON, DICOM_XML)))
_ACCEPT = {"Accept": ", ".join(TAKEN)}
_BODY = {"requestBody": {"content": {kind: {} for kind in TAKEN}, "required": True}}

#: Bytes that a thread takes at once, gathered from the connection or out of their compression.
_PIECE = 1 << 20
_THREADS = 4
"""Storing goes on in threads of its own, which are never all that the web role has."""
_MOST_BODIES = 100
"""Store requests at once; more get 503."""


def routes(service: StorageService) -> APIRouter:
    """Storing, into any study or into a given one."""
    router = APIRouter()
    answers: Descriptions = {
        200: {"content": {DICOM_JSON: {}, DICOM_XML: {}}, "description": "All instances are stored, durably."},
        202: {"description": "Some are, or all with warnings: the answer says which, and why the others are not."},
        400: {"description": "The body is not what its Content-Type says, or holds no instance."},
        406: {"description": f"The answer is to be had as {DICOM_JSON} or {DICOM_XML}."},
        409: {"description": "None is stored: the answer says why."},
        415: {"description": "The body is of another type; Accept says which are taken."},
        503: {"description": "None is stored: the database is away, or too much is stored at once. Try again."},
        507: {"description": "None is stored: the disk is full, or nearly."},
    }

    in_turn, bodies = InTurn(), BoundedSemaphore(_MOST_BODIES)

    async def store(request: Request, study: str) -> Response:
        if not bodies.acquire(blocking=False):
            raise HTTPException(503, "too much is stored at once", {"Connection": "close", "Retry-After": "5"})
        try:
            return await stored(request, study)
        finally:
            bodies.release()

    async def stored(request: Request, study: str) -> Response:
        kind = single_model_as(accepted_by(request))
        if not await in_turn(service.has_room):
            raise HTTPException(507, Failure.DISK_LOW, {"Connection": "close"})
        caller = Caller(CALLER, request.client.host if request.client else "")
        coding = _decoding(request, service.settings.web.max_request_mb * 1_000_000)
        body = _body_of(request, service, caller, study)
        try:
            await _receive(request, body, coding, in_turn)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except MultipartError as error:
            raise BadRequest(str(error)) from error
        finally:
            await in_turn(body.abandon)
            access().stored = body.transfers
        return _answer(body.outcomes, study, base_url(request), kind)

    @router.post("/studies", responses=answers, openapi_extra=_BODY)
    async def studies(request: Request) -> Response:
        """Store instances (STOW-RS)."""
        return await store(request, "")

    @router.post("/studies/{study}", responses=answers, openapi_extra=_BODY)
    async def one_study(request: Request, study: Study) -> Response:
        """Store instances of one study; those of another are refused (STOW-RS)."""
        return await store(request, study)

    return router


def _body_of(request: Request, service: StorageService, caller: Caller, study: str) -> HttpBody:
    """Raises 415 and BadRequest."""
    try:
        content_type = parse_media_type(request.headers.get("content-type", ""))
    except BadMediaType:
        content_type = MediaType("")
    if content_type.essence == DICOM:
        return HttpBody(service, caller, study, None)
    if not content_type.is_multipart or content_type.inner not in (DICOM, DICOM_JSON, DICOM_XML, "*/*"):
        raise HTTPException(
            415, f"the body must be {DICOM}, or multipart/related of it, of {DICOM_JSON} or of {DICOM_XML}", _ACCEPT
        )
    boundary = content_type.parameters.get("boundary", "")
    try:
        in_parts = content_type.inner in (DICOM_JSON, DICOM_XML)
        return HttpBody(service, caller, study, boundary, is_in_parts=in_parts)
    except MultipartError as error:
        raise BadRequest(str(error)) from error


class InTurn:
    """Runs what blocks in one of a few threads: who waited longest is next."""

    def __init__(self) -> None:
        self._threads = CapacityLimiter(_THREADS)

    async def __call__(self, action: Callable[..., T], *arguments: object) -> T:
        """What ``action`` returns."""
        return await to_thread.run_sync(action, *arguments, limiter=self._threads)


async def _receive(request: Request, body: HttpBody, coding: Decoding | None, in_turn: InTurn) -> None:
    """Take the body from the connection while what came before is written."""

    async def run(steps: Iterator[None]) -> None:
        while await in_turn(next, steps, _OVER) is not _OVER:
            pass

    pending: list[bytes] = []
    size, writing = 0, asyncio.create_task(run(iter(())))
    try:
        async for piece in request.stream():
            pending.append(piece)
            size += len(piece)
            if size >= _PIECE:
                await writing
                writing = asyncio.create_task(run(_steps(body, pending, coding)))
                pending, size = [], 0
    finally:
        await writing
    await run(_steps(body, pending, coding))
    if coding is not None and not coding.is_complete:
        raise MultipartError("the body ends before its gzip stream does")
    await run(body.ending())


def _steps(body: HttpBody, pieces: Sequence[bytes], coding: Decoding | None) -> Iterator[None]:
    """Feed ``pieces`` to ``body``. Who waits for a thread gets it after each instance, and each piece inflated."""
    for piece in pieces:
        for plain in (piece,) if coding is None else coding.decoded(piece):
            yield from body.feeding(plain)
            if coding is not None:
                yield


class Decoding:
    """A body in the content coding gzip (RFC 9110 section 8.4.1.3), taken out of it piece by piece."""

    def __init__(self, largest: int) -> None:
        """``largest``: bytes that it may have without its coding."""
        self._inflater, self._left = zlib.decompressobj(16 + zlib.MAX_WBITS), largest

    @property
    def is_complete(self) -> bool:
        """Whether the end of the stream has come."""
        return self._inflater.eof

    def decoded(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` is in the plain. Raises MultipartError, and 413."""
        while data and not self._inflater.eof:
            try:
                piece = self._inflater.decompress(data, _PIECE)
            except zlib.error as error:
                raise MultipartError("the body is not gzip, which its Content-Encoding says") from error
            data = self._inflater.unconsumed_tail
            self._left -= len(piece)
            if self._left < 0:
                raise HTTPException(413, "the body is too large", {"Connection": "close"})
            yield piece


def _decoding(request: Request, largest: int) -> Decoding | None:
    """What takes the body out of its content coding; None where it has none. Raises 415."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in ("gzip", "x-gzip"):
        raise HTTPException(415, "the body may be compressed by gzip only", {"Accept-Encoding": "gzip, identity"})
    return Decoding(largest)


def _answer(outcomes: Sequence[PartOutcome], study: str, base: str, kind: str) -> Response:
    """The Store Instances Response Module (PS3.18 annex I.2)."""
    failed = [one for one in outcomes if not one.is_stored]
    stored = [one for one in outcomes if one.is_stored]
    model = element("RetrieveURL", _retrieve_url(stored, study, base))
    model |= sequence("ReferencedSOPSequence", (_reference(one, base) for one in stored)) if stored else {}
    named = [one for one in failed if one.sop_instance_uid]
    others = [one for one in failed if not one.sop_instance_uid]
    model |= sequence("FailedSOPSequence", (_uids(one) | _reason(one) for one in named)) if named else {}
    model |= sequence("OtherFailuresSequence", (_reason(one) for one in others)) if others else {}
    status = _status(stored, failed)
    headers = dict(NO_STORE) | ({"Retry-After": "5"} if status == 503 else {})
    if any(one.warning for one in stored):
        headers |= warning(base, ["The file meta information of some instances was not that of their data sets."])
    return single_model(dict(sorted(model.items())), kind, status, headers)


def _retrieve_url(stored: Sequence[PartOutcome], study: str, base: str) -> str:
    """Of the study that all instances are in; empty where there is none, or several (PS3.18 table I.1-1: type 2)."""
    studies = {one.stored.subject.study_instance_uid for one in stored if one.stored is not None}
    known = study if stored and study else studies.pop() if len(studies) == 1 else ""
    return f"{base}/studies/{known}" if known else ""


def _status(stored: Sequence[PartOutcome], failed: Sequence[PartOutcome]) -> int:
    if not failed:
        return 400 if not stored else 202 if any(one.warning for one in stored) else 200
    if stored:
        return 202
    why = [one.answer.failure for one in failed]
    if all(failure is not None and failure.is_of_disk for failure in why):
        return 507
    if all(failure is Failure.BUSY for failure in why):
        return 503
    if all(one.is_of_another_type for one in failed):
        return 415
    return 400 if all(one.is_unreadable for one in failed) else 409  # PS3.18 table 10.5.3-1: bad syntax


def _uids(one: PartOutcome) -> Json:
    return element("ReferencedSOPClassUID", one.sop_class_uid) | element(
        "ReferencedSOPInstanceUID", one.sop_instance_uid
    )


def _reference(one: PartOutcome, base: str) -> Json:
    model = _uids(one) | (element("WarningReason", one.warning) if one.warning else {})
    if one.stored is not None and one.stored.subject.study_instance_uid and one.stored.series_instance_uid:
        place = (one.stored.subject.study_instance_uid, one.stored.series_instance_uid, one.sop_instance_uid)
        model |= element("RetrieveURL", instance_url(base, *place))
    return dict(sorted(model.items()))


def _reason(one: PartOutcome) -> Json:
    return element("FailureReason", int(one.answer.status)) | element("ErrorComment", one.answer.comment[:64])
