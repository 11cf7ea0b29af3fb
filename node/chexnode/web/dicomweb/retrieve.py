"""WADO-RS: studies, series and instances as DICOM files (PS3.18 section 10.4), streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydicom.uid import ExplicitVRLittleEndian

from chexmodels.dicom.part10 import DecodeError
from chexnode.dicomweb.media_types import DICOM, MULTIPART, MediaType
from chexnode.dicomweb.multipart import closing, new_boundary, part_head
from chexnode.ledger.objects import Held
from chexnode.web.dicomweb.convert import explicit_little
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.errors import NotAcceptable
from chexnode.web.dicomweb.pixels import can_decode, default_syntax
from chexnode.web.dicomweb.places import NO_STORE, Instance, Series, Study, accepted_by, base_of, url_of
from chexnode.web.dicomweb.shelf import Shelf
from chexnode.web.dicomweb.single import ANSWERS, Single


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of the answer."""

    held: Held
    transfer_syntax: str
    is_asked_for: bool = True
    """Whether nothing but this transfer syntax will do."""

    @property
    def is_as_stored(self) -> bool:
        return self.transfer_syntax == self.held.transfer_syntax_uid

    @property
    def content_type(self) -> str:
        return f"{DICOM};transfer-syntax={self.transfer_syntax}" if self.transfer_syntax else DICOM


def routes(shelf: Shelf, decoder: Decoder) -> APIRouter:
    """Retrieval at three levels."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": {f'{MULTIPART}; type="{DICOM}"': {}}, "description": "The files."},
        206: {
            "description": "Some of them: retention has deleted others, or they cannot be had in this form. Or a Range."
        },
        404: {"description": "Never held here."},
        406: {"description": "Not to be had in any form that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
        **ANSWERS,
    }

    def retrieve(request: Request, study: str, series: str | None = None, instance: str | None = None) -> Response:
        found = shelf.find(study, series, instance)
        ranges, is_multipart = _container(accepted_by(request), len(found.objects))
        parts = [part for held in found.objects if (part := _choose(ranges, held)) is not None]
        if not parts:
            raise NotAcceptable("it is stored in another transfer syntax and cannot be converted to one accepted")
        is_all = not found.missing and len(parts) == len(found.objects)
        if is_multipart:
            return _multi(shelf, decoder, parts, base_of(request), 200 if is_all else 206)
        one = _single(shelf, decoder, parts[0], base_of(request))
        # What is left of more has the status of a range, and so none can be given of it.
        return one.answer(request) if is_all else StreamingResponse(one.opened(), 206, NO_STORE, one.content_type)

    @router.get("/studies/{study}", responses=answers)
    def study(request: Request, study: Study) -> Response:
        """All files of a study (WADO-RS)."""
        return retrieve(request, study)

    @router.get("/studies/{study}/series/{series}", responses=answers)
    def series(request: Request, study: Study, series: Series) -> Response:
        """All files of a series (WADO-RS)."""
        return retrieve(request, study, series)

    @router.get("/studies/{study}/series/{series}/instances/{instance}", responses=answers)
    def instance(request: Request, study: Study, series: Series, instance: Instance) -> Response:
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
    """The file as stored or in Explicit VR Little Endian, whichever is asked for; None where neither will do."""
    stored = held.transfer_syntax_uid
    for one in ranges:
        wanted = one.transfer_syntax
        if not wanted:
            return _Part(held, default_syntax(stored), is_asked_for=False)
        if wanted in ("*", stored):
            return _Part(held, stored)
        if wanted == ExplicitVRLittleEndian and can_decode(stored):
            return _Part(held, wanted)
    return None


def _single(shelf: Shelf, decoder: Decoder, part: _Part, base: str) -> Single:
    """One file by itself. Raises NotAcceptable and Gone."""
    part, converted = _content(shelf, decoder, part)
    url, tag = url_of(base, part.held), shelf.tag(part.held, part.content_type)
    if part.is_as_stored:
        return Single(url, part.content_type, tag, part.held.size, partial(shelf.content, part.held))
    return Single(url, part.content_type, tag, None, lambda *_: converted)


def _content(shelf: Shelf, decoder: Decoder, part: _Part) -> tuple[_Part, Iterator[bytes]]:
    """The file, and how it comes: what cannot be converted is given as it is stored, unless that will not do.

    Raises NotAcceptable.
    """
    if not part.is_as_stored:
        try:
            return part, explicit_little(shelf.open(part.held), decoder)
        except DecodeError as error:
            if part.is_asked_for:
                raise NotAcceptable(f"it cannot be converted: {error.detail}") from error
            part = _Part(part.held, part.held.transfer_syntax_uid)
    return part, shelf.content(part.held)


def _multi(shelf: Shelf, decoder: Decoder, parts: Sequence[_Part], base: str, status: int) -> StreamingResponse:
    boundary = new_boundary()
    headers = dict(NO_STORE)
    end = closing(boundary)

    def head(part: _Part, number: int) -> bytes:
        return part_head(boundary, part.content_type, url_of(base, part.held), first=not number)

    if all(part.is_as_stored for part in parts):
        heads = sum(len(head(part, number)) for number, part in enumerate(parts))
        headers["Content-Length"] = str(heads + sum(part.held.size for part in parts) + len(end))
    # Whether it can be converted shows only when it is tried, and an answer that has begun cannot say so.
    first = _content(shelf, decoder, parts[0])

    def body() -> Iterator[bytes]:
        for number, planned in enumerate(parts):
            part, content = _content(shelf, decoder, planned) if number else first
            yield head(part, number)
            yield from content
        yield end

    return StreamingResponse(body(), status, headers, f'{MULTIPART}; type="{DICOM}"; boundary={boundary}')
