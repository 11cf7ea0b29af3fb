"""Answers of the DICOMweb service: refusals (PS3.18 section 8.5), models, multipart, and single representations."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from anyio import to_thread
from fastapi import HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from chexmodels.dicom.errors import DecodeError
from chexnode.dicomweb.json_model import Json, to_json
from chexnode.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, MULTIPART, MediaType, parse_accept
from chexnode.dicomweb.multipart import MultipartBody, Part
from chexnode.dicomweb.xml_model import to_xml
from chexnode.web import conditions

#: Patient data: no cache may keep it.
NO_STORE = {"Cache-Control": "no-store"}

Descriptions = dict[int | str, dict[str, object]]
"""Status -> what an OpenAPI document says of it."""

#: The types of models.
MODELS: Mapping[str, object] = {DICOM_JSON: {}, f'{MULTIPART}; type="{DICOM_XML}"': {}}

CONDITIONAL: Descriptions = {
    304: {"description": "The caller has it already (If-None-Match)."},
    412: {"description": "It is not what the caller wants it to be (If-Match)."},
    416: {"description": "There are no such bytes (Range)."},
}
"""What a :class:`Representation` may be besides 200 and 206."""


class BadRequest(HTTPException):
    """400: the request cannot be read."""

    def __init__(self, detail: str) -> None:
        super().__init__(400, detail)


class NotFound(HTTPException):
    """404: the node never held it."""

    def __init__(self, detail: str = "nothing of that UID is held here") -> None:
        super().__init__(404, detail)


class NotAcceptable(HTTPException):
    """406: it is held, but not to be had in any form that the client accepts."""

    def __init__(self, detail: str) -> None:
        super().__init__(406, detail)


class Gone(HTTPException):
    """410: the node held it, and retention has deleted the file."""

    def __init__(self) -> None:
        super().__init__(410, "received, analysed and deleted when its retention had passed (retention.days)")


def warning(service: str, texts: Sequence[str]) -> dict[str, str]:
    """The Warning header (PS3.18 sections 8.3.4 and 8.5; RFC 7234 section 5.5); none where there is nothing to say."""
    return {"Warning": ", ".join(f'299 {service} "{text}"' for text in texts)} if texts else {}


def accepted_by(request: Request) -> list[MediaType]:
    """What the client accepts, best first: its ``accept`` query parameter, then its Accept header."""
    return parse_accept(request.headers.get("accept"), request.query_params.get("accept"))


def takes_multipart(accepted: MediaType) -> bool:
    """Whether several parts fit into this range."""
    return accepted.is_multipart or accepted.essence == "*/*"


def multipart(media_type: str, parts: Iterable[Part], status: int = 200) -> StreamingResponse:
    """``parts`` of ``media_type``, with their length where it is known."""
    body = MultipartBody(media_type, parts)
    length = {} if body.length is None else {"Content-Length": str(body.length)}
    return StreamingResponse(ahead(iter(body)), status, NO_STORE | length, body.content_type)


async def ahead(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """``pieces`` for an answer, each made in a thread while the one before it goes out.

    Where the caller is gone, the piece that is being made is waited for and ``pieces`` closed, and its files with it.
    """

    def begin() -> asyncio.Task[bytes | None]:
        return asyncio.create_task(to_thread.run_sync(next, pieces, None))

    making = begin()
    try:
        while (piece := await making) is not None:
            making = begin()
            yield piece
    finally:
        await asyncio.wait([making])
        if not making.cancelled():
            making.exception()  # was raised above, or nobody is left to be told
        if isinstance(pieces, Generator):
            pieces.close()


def several_models_as(accepted: Sequence[MediaType]) -> str:
    """The type that several models are answered with, of each part where it is XML. Raises NotAcceptable.

    XML comes in parts also where it is asked for by itself (``application/dicom+xml``), as other servers answer.
    """
    for one in accepted:
        for offered in (DICOM_JSON, JSON, DICOM_XML):
            if one.covers(offered) and (offered == DICOM_XML or not one.is_multipart):
                return offered
    raise NotAcceptable(f'this is to be had as {DICOM_JSON}, or as {MULTIPART}; type="{DICOM_XML}"')


def single_model_as(accepted: Sequence[MediaType]) -> str:
    """The type that a single model is answered with. Raises NotAcceptable."""
    for one in accepted:
        for offered in (DICOM_JSON, JSON, DICOM_XML):
            if one.covers(offered) and not one.is_multipart:
                return offered
    raise NotAcceptable(f"this is to be had as {DICOM_JSON} or {DICOM_XML}")


def single_model(model: Json, kind: str, status: int, headers: Mapping[str, str]) -> Response:
    """One model in the type that :func:`single_model_as` chose."""
    return Response(to_xml(model) if kind == DICOM_XML else to_json(model), status, headers, kind)


def several_models(
    request: Request, models: Iterable[bytes], kind: str, status: int, headers: Mapping[str, str]
) -> Response:
    """Models encoded as JSON, one after the other in the type that :func:`several_models_as` chose (PS3.18 8.7.3.2).

    Compressed where the client accepts gzip. They are streamed, unless they are a list.
    """
    if kind == DICOM_XML:
        body = MultipartBody(DICOM_XML, (Part(DICOM_XML, [to_xml(json.loads(model))]) for model in models))
        kind, content = body.content_type, iter(body)
    else:
        content = _array(models)
    headers = {**headers, "Vary": "Accept-Encoding"}
    if conditions.takes_gzip(request.headers):
        headers["Content-Encoding"], content = "gzip", _compressed(content)
    if isinstance(models, list):
        return Response(b"".join(content), status, headers, kind)
    return StreamingResponse(content, status, headers, kind)


def _array(models: Iterable[bytes]) -> Iterator[bytes]:
    between = b"["
    for model in models:
        yield between + model
        between = b","
    yield b"[]" if between == b"[" else b"]"


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


@dataclass(frozen=True, slots=True)
class Representation:
    """One thing by itself, not a part of many and not read yet, with its entity tag."""

    url: str
    content_type: str
    tag: str
    """Its strong entity tag (RFC 9110 section 8.8.3)."""
    length: int | None
    """Bytes; None where that is not known before they are made."""
    read: Callable[[int, int | None], Iterator[bytes]]
    """Its bytes from one offset to another, or to its end; all of them where ``length`` is not known.

    May raise DecodeError.
    """

    def answer(self, request: Request) -> Response:
        """What ``request`` asks for of it: all, a range, or nothing where its conditions say so.

        Raises NotAcceptable, 412 and 416.
        """
        headers = NO_STORE | {"ETag": self.tag, "Content-Location": self.url}
        if conditions.is_another(request.headers, self.tag):
            raise HTTPException(412, "there is another version now, or it was another form", headers)
        if conditions.is_known(request.headers, self.tag):
            return Response(None, 304, headers)
        if self.length is None:
            return StreamingResponse(self.opened(), 200, headers, self.content_type)
        headers["Accept-Ranges"] = "bytes"
        wanted = conditions.byte_range(request.headers, self.tag, self.length)
        if wanted is None:
            headers["Content-Length"] = str(self.length)
            return StreamingResponse(self.opened(), 200, headers, self.content_type)
        start, end = wanted
        if start >= end:
            raise HTTPException(416, "there are no such bytes", headers | {"Content-Range": f"bytes */{self.length}"})
        headers |= {"Content-Range": f"bytes {start}-{end - 1}/{self.length}", "Content-Length": str(end - start)}
        return StreamingResponse(self.opened(start, end), 206, headers, self.content_type)

    def part(self) -> Part:
        """It as a part of a multipart body. Raises NotAcceptable."""
        return Part(self.content_type, self.opened(), self.url, self.length)

    def opened(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Its bytes. What cannot be had shows now, while that can still be said: raises NotAcceptable."""
        content = self.read(start, end)
        try:
            first = next(content, b"")
        except DecodeError as error:
            raise NotAcceptable(f"it cannot be had in this form: {error.detail}") from error
        return chain([first], content)


def cut(content: Iterator[bytes], start: int, end: int | None) -> Iterator[bytes]:
    """The bytes of ``content`` from ``start`` to ``end``, where there is no other way to them than from the first."""
    position = 0
    for piece in content:
        if end is not None and position >= end:
            return
        if part := piece[max(0, start - position) : None if end is None else end - position]:
            yield part
        position += len(piece)
