"""An answer that is one representation by itself, not a part of many: with its entity tag, or a range of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from fastapi import HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from chexmodels.dicom.part10 import DecodeError
from chexnode.web import conditions
from chexnode.web.dicomweb.errors import NotAcceptable
from chexnode.web.dicomweb.places import NO_STORE

ANSWERS: dict[int | str, dict[str, object]] = {
    304: {"description": "The caller has it already (If-None-Match)."},
    412: {"description": "It is not what the caller wants it to be (If-Match)."},
    416: {"description": "There are no such bytes (Range)."},
}
"""What it may be besides 200 and 206."""


@dataclass(frozen=True, slots=True)
class Single:
    """One representation, not read yet."""

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
