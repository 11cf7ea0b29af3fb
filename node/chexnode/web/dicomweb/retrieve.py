"""WADO-RS: studies, series and instances as DICOM files (PS3.18 section 10.4), streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydicom.uid import ExplicitVRLittleEndian

from chexmodels.part10 import DecodeError
from chexnode.ledger.objects import Held
from chexnode.web.dicomweb.accept import MULTIPART, MediaType, parse_accept
from chexnode.web.dicomweb.errors import NotAcceptable
from chexnode.web.dicomweb.multipart import closing, new_boundary, part_head
from chexnode.web.dicomweb.pixels import can_decode, explicit_little
from chexnode.web.dicomweb.places import DICOM, NO_STORE, Instance, Series, Study, base_of, url_of
from chexnode.web.dicomweb.shelf import Shelf


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of the answer."""

    held: Held
    transfer_syntax: str

    @property
    def is_as_stored(self) -> bool:
        return self.transfer_syntax == self.held.transfer_syntax_uid

    @property
    def content_type(self) -> str:
        return f"{DICOM};transfer-syntax={self.transfer_syntax}" if self.transfer_syntax else DICOM


def routes(shelf: Shelf) -> APIRouter:
    """Retrieval at three levels."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": {f'{MULTIPART}; type="{DICOM}"': {}}, "description": "The files."},
        206: {"description": "Some of them: retention has deleted others, or they cannot be had in this form."},
        404: {"description": "Never held here."},
        406: {"description": "Not to be had in any form that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
    }

    def retrieve(
        request: Request, study: str, series: str | None = None, instance: str | None = None
    ) -> StreamingResponse:
        accepted = parse_accept(request.headers.get("accept"), request.query_params.get("accept"))
        found = shelf.find(study, series, instance)
        ranges, is_multipart = _container(accepted, len(found.objects))
        parts = [part for held in found.objects if (part := _choose(ranges, held)) is not None]
        if not parts:
            raise NotAcceptable("it is stored in another transfer syntax and cannot be converted to one accepted")
        partial = found.missing > 0 or len(parts) < len(found.objects)
        status = 206 if partial else 200
        if not is_multipart:
            return _single(shelf, parts[0], status)
        return _multi(shelf, parts, base_of(request), status)

    @router.get("/studies/{study}", responses=answers)
    def study(request: Request, study: Study) -> StreamingResponse:
        """All files of a study (WADO-RS)."""
        return retrieve(request, study)

    @router.get("/studies/{study}/series/{series}", responses=answers)
    def series(request: Request, study: Study, series: Series) -> StreamingResponse:
        """All files of a series (WADO-RS)."""
        return retrieve(request, study, series)

    @router.get("/studies/{study}/series/{series}/instances/{instance}", responses=answers)
    def instance(request: Request, study: Study, series: Series, instance: Instance) -> StreamingResponse:
        """The file of an instance (WADO-RS)."""
        return retrieve(request, study, series, instance)

    return router


def _container(accepted: Sequence[MediaType], count: int) -> tuple[list[MediaType], bool]:
    """The ranges of the best container, and whether that is multipart."""
    fitting = [one for one in accepted if one.covers(DICOM) and (_is_multi(one) or count == 1)]
    if not fitting:
        raise NotAcceptable(f'this is to be had as {MULTIPART}; type="{DICOM}", a single instance as {DICOM} too')
    is_multipart = _is_multi(fitting[0])
    return [one for one in fitting if _is_multi(one) == is_multipart], is_multipart


def _is_multi(one: MediaType) -> bool:
    return one.is_multipart or one.essence == "*/*"


def _choose(ranges: Sequence[MediaType], held: Held) -> _Part | None:
    """The file as stored where that will do, else in Explicit VR Little Endian; None where neither will."""
    for one in ranges:
        wanted = one.transfer_syntax
        if wanted in ("", "*", held.transfer_syntax_uid):
            return _Part(held, held.transfer_syntax_uid)
        if wanted == ExplicitVRLittleEndian and can_decode(held.transfer_syntax_uid):
            return _Part(held, wanted)
    return None


def _single(shelf: Shelf, part: _Part, status: int) -> StreamingResponse:
    headers = dict(NO_STORE)
    content: Iterator[bytes]
    if part.is_as_stored:
        headers["Content-Length"] = str(part.held.size)
        content = shelf.content(part.held)
    else:
        converted = _converted(shelf, part.held)
        headers["Content-Length"] = str(len(converted))
        content = iter([converted])
    return StreamingResponse(content, status, headers, part.content_type)


def _multi(shelf: Shelf, parts: Sequence[_Part], base: str, status: int) -> StreamingResponse:
    boundary = new_boundary()
    heads = [part_head(boundary, p.content_type, url_of(base, p.held), first=not n) for n, p in enumerate(parts)]
    end = closing(boundary)
    headers = dict(NO_STORE)
    if all(part.is_as_stored for part in parts):
        length = sum(len(head) for head in heads) + sum(part.held.size for part in parts) + len(end)
        headers["Content-Length"] = str(length)
    elif len(parts) == 1:
        # Whether it can be converted shows only when it is tried, and an answer that has begun cannot say so.
        converted = _converted(shelf, parts[0].held)

    def body() -> Iterator[bytes]:
        for head, part in zip(heads, parts, strict=True):
            yield head
            if part.is_as_stored:
                yield from shelf.content(part.held)
            else:
                yield converted if len(parts) == 1 else _converted(shelf, part.held)
        yield end

    return StreamingResponse(body(), status, headers, f'{MULTIPART}; type="{DICOM}"; boundary={boundary}')


def _converted(shelf: Shelf, held: Held) -> bytes:
    try:
        return explicit_little(shelf.read(held), shelf.limits.max_pixels)
    except DecodeError as error:
        raise NotAcceptable(f"it cannot be converted: {error.detail}") from error
