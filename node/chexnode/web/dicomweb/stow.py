"""STOW-RS: instances stored by HTTP with the promises of C-STORE (PS3.18 section 10.5).

200 goes out when every file is durable and every row committed. Who sends is known to routing (``destination.peers``)
as :data:`CALLER`.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from chexnode.dicomweb.json_model import Json, element, sequence
from chexnode.dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, BadMediaType, MediaType, parse_media_type
from chexnode.dicomweb.multipart import MultipartError
from chexnode.receive.http_body import HttpBody, PartOutcome
from chexnode.receive.outcome import Failure
from chexnode.receive.storage import StorageService
from chexnode.vocabulary.records import Caller
from chexnode.web.dicomweb import models
from chexnode.web.dicomweb.errors import BadRequest
from chexnode.web.dicomweb.places import NO_STORE, Study, accepted_by, base_of, instance_url
from chexnode.web.visits import visit

CALLER = "STOW-RS"
"""In place of a calling AE title."""

#: What a body may be, said with 415 (RFC 9110 section 12.5.1).
TAKEN = (DICOM, *(f'multipart/related; type="{kind}"' for kind in (DICOM, DICOM_JSON, DICOM_XML)))
_ACCEPT = {"Accept": ", ".join(TAKEN)}
_BODY = {"requestBody": {"content": {kind: {} for kind in TAKEN}, "required": True}}

#: Bytes gathered from the connection before a thread takes them.
_PIECE = 1 << 18


def routes(service: StorageService) -> APIRouter:
    """Storing, into any study or into a given one."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": {DICOM_JSON: {}, DICOM_XML: {}}, "description": "All instances are stored, durably."},
        202: {"description": "Some are: the answer says which, and why the others are not."},
        400: {"description": "The body is not what its Content-Type says, or holds no instance."},
        406: {"description": f"The answer is to be had as {DICOM_JSON} or {DICOM_XML}."},
        409: {"description": "None is stored: the answer says why."},
        415: {"description": "The body is of another type; Accept says which are taken."},
        503: {"description": "None is stored: the database is away. Try again."},
        507: {"description": "None is stored: the disk is full, or nearly."},
    }

    async def store(request: Request, study: str) -> Response:
        kind = models.one_model_type(accepted_by(request))
        if not await run_in_threadpool(service.has_room):
            raise HTTPException(507, Failure.DISK_LOW, {"Connection": "close"})
        caller = Caller(CALLER, request.client.host if request.client else "")
        body = _body_of(request, service, caller, study)
        try:
            await _take(request, body)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except MultipartError as error:
            raise BadRequest(str(error)) from error
        finally:
            await run_in_threadpool(body.abandon)
            visit().stored = body.transfers
        return _answer(body.outcomes, study, base_of(request), kind)

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


async def _take(request: Request, body: HttpBody) -> None:
    pending = bytearray()
    async for piece in request.stream():
        pending += piece
        if len(pending) >= _PIECE:
            data, pending = bytes(pending), bytearray()
            await run_in_threadpool(body.feed, data)
    await run_in_threadpool(body.feed, bytes(pending))
    await run_in_threadpool(body.end)


def _answer(outcomes: Sequence[PartOutcome], study: str, base: str, kind: str) -> Response:
    """The Store Instances Response Module (PS3.18 annex I.2)."""
    failed = [one for one in outcomes if not one.is_stored]
    stored = [one for one in outcomes if one.is_stored]
    model: Json = {}
    if study and stored:
        model |= element("RetrieveURL", f"{base}/studies/{study}")
    model |= sequence("ReferencedSOPSequence", (_reference(one, base) for one in stored)) if stored else {}
    named = [one for one in failed if one.sop_instance_uid]
    others = [one for one in failed if not one.sop_instance_uid]
    model |= sequence("FailedSOPSequence", (_uids(one) | _reason(one) for one in named)) if named else {}
    model |= sequence("OtherFailuresSequence", (_reason(one) for one in others)) if others else {}
    status = _status(stored, failed)
    headers = dict(NO_STORE) | ({"Retry-After": "5"} if status == 503 else {})
    return Response(models.encode(dict(sorted(model.items())), kind), status, headers, kind)


def _status(stored: Sequence[PartOutcome], failed: Sequence[PartOutcome]) -> int:
    if not failed:
        return 200 if stored else 400
    if stored:
        return 202
    why = [one.answer.failure for one in failed]
    if all(failure is not None and failure.is_of_disk for failure in why):
        return 507
    if all(failure is Failure.BUSY for failure in why):
        return 503
    return 415 if all(one.is_of_another_type for one in failed) else 409


def _uids(one: PartOutcome) -> Json:
    return element("ReferencedSOPClassUID", one.sop_class_uid) | element(
        "ReferencedSOPInstanceUID", one.sop_instance_uid
    )


def _reference(one: PartOutcome, base: str) -> Json:
    found = _uids(one)
    if one.stored is not None and one.stored.subject.study_instance_uid and one.stored.series_instance_uid:
        place = (one.stored.subject.study_instance_uid, one.stored.series_instance_uid, one.sop_instance_uid)
        found |= element("RetrieveURL", instance_url(base, *place))
    return found


def _reason(one: PartOutcome) -> Json:
    return element("FailureReason", int(one.answer.status)) | element("ErrorComment", one.answer.comment[:64])
