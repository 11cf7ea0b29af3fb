"""``multipart/related`` (RFC 2387, RFC 2046 section 5.1), read and written piece by piece. No I/O here.

A reader keeps no more than one boundary and one part's headers; what is inside a part is handed on as it comes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chexnode.dicomweb.media_types import MULTIPART

PIECE = 1 << 20
"""Bytes that a body is written in at once, where there are so many."""

#: RFC 2046 allows 70 characters; those of Orthanc's plugin have 73.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,199}[0-9A-Za-z'()+_,\-./:=?]")
MAX_HEADERS = 16_384
"""Bytes of one part's headers."""
_MAX_PADDING = 128
"""Spaces and tabs after a boundary."""


class MultipartError(ValueError):
    """The body is not what its Content-Type says. The text is safe to be shown to the sender."""


@dataclass(frozen=True, slots=True)
class PartBegins:
    """A part with these headers follows; names in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """The next piece of the part."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnds:
    """The part is complete."""


Event = PartBegins | PartData | PartEnds


class MultipartReader:
    """Feed it a body in pieces of any size. Raises :class:`MultipartError`; then it takes no more."""

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise MultipartError("no boundary, or not a valid one")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first boundary may stand at the very beginning, without the line break that belongs to it.
        self._buffer = bytearray(b"\r\n")
        self._skip = 0
        self._state = self._in_preamble
        self.is_complete = False
        """Whether the closing boundary has come."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what ``data`` completes."""
        is_within = self._state == self._in_part and not self._buffer and not self.is_complete
        if is_within and (clean := self._clean(data)):
            yield PartData(data[:clean])  # never copied to the buffer, where it is all of a piece
            data = data[clean:]
        self._buffer += data
        while not self.is_complete:
            events, going_on = self._state()
            yield from events
            if not going_on:
                break
        if self.is_complete:
            self._buffer.clear()  # the epilogue means nothing

    def close(self) -> None:
        """The body is over. Raises :class:`MultipartError` where it broke off."""
        if not self.is_complete:
            raise MultipartError("the body ends before its closing boundary")

    def _in_preamble(self) -> tuple[list[Event], bool]:
        events, going_on = self._up_to_delimiter()
        return [event for event in events if not isinstance(event, PartData)], going_on

    def _in_part(self) -> tuple[list[Event], bool]:
        return self._up_to_delimiter()

    def _up_to_delimiter(self) -> tuple[list[Event], bool]:
        """Hand on what surely is no delimiter; at one, say that the part ends and what comes next."""
        buffer, delimiter = self._buffer, self._delimiter
        start = 0
        while True:
            found = buffer.find(delimiter, start)
            if found < 0:
                return self._take(self._clean(buffer, start)), False
            after = found + len(delimiter)
            kind, end = self._after_delimiter(after)
            if kind == "unknown":
                return self._take(found), False
            if kind == "data":  # the boundary is only the beginning of this line
                start = after
                continue
            events = self._take(found)
            if self._state == self._in_part:
                events.append(PartEnds())
            del buffer[: end - found]
            self._skip = 0
            if kind == "close":
                self.is_complete = True
            else:
                self._state = self._in_headers
            return events, kind == "open"

    def _clean(self, data: bytes | bytearray, start: int = 0) -> int:
        """How many bytes at the beginning of ``data`` are before any delimiter; there is none before ``start``."""
        found = data.find(self._delimiter, start)
        if found < 0:
            found = data.find(b"\r", max(start, len(data) - len(self._delimiter) + 1))
        return found if found >= 0 else len(data)

    def _after_delimiter(self, after: int) -> tuple[str, int]:
        """What stands behind a delimiter, and where it ends."""
        buffer = self._buffer
        if buffer[after : after + 2] == b"--":
            return "close", after + 2
        position = after
        while position < len(buffer) and buffer[position] in b" \t" and position - after <= _MAX_PADDING:
            position += 1
        line_end = bytes(buffer[position : position + 2])
        if line_end == b"\r\n":
            return "open", position + 2
        if len(line_end) == 2 or (line_end and line_end not in (b"\r", b"-")) or position - after > _MAX_PADDING:
            return "data", after
        return "unknown", after

    def _in_headers(self) -> tuple[list[Event], bool]:
        buffer = self._buffer
        if buffer[:2] == b"\r\n":
            head, length = b"", 2
        else:
            end = buffer.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEADERS:
                if len(buffer) > MAX_HEADERS:
                    raise MultipartError("the headers of a part are too long")
                return [], False
            head, length = bytes(buffer[:end]), end + 4
        # The line break that ends the headers stays: if a boundary follows at once, it is that boundary's.
        del buffer[: length - 2]
        self._skip = 2
        self._state = self._in_part
        return [PartBegins(_headers(head))], True

    def _take(self, count: int) -> list[Event]:
        skipped = min(self._skip, count)
        self._skip -= skipped
        data = bytes(memoryview(self._buffer)[skipped:count])
        del self._buffer[:count]
        return [PartData(data)] if data else []


def _headers(head: bytes) -> dict[str, str]:
    """Header fields, unfolded. Raises :class:`MultipartError`."""
    found: dict[str, str] = {}
    for line in re.sub(rb"\r\n[ \t]+", b" ", head).split(b"\r\n") if head else []:
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise MultipartError("a part has a header that is none")
        found.setdefault(name.strip().decode("latin-1").lower(), value.strip().decode("latin-1"))
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """One part to be written."""

    content_type: str
    content: Iterable[bytes]
    location: str = ""
    """Content-Location, where there is one."""
    length: int | None = None
    """Bytes of the content, where they are known before it is read."""


class MultipartBody:
    """A body of ``parts`` of one ``media_type`` to be written; iterate it once, and get pieces of :data:`PIECE`."""

    def __init__(self, media_type: str, parts: Iterable[Part]) -> None:
        self._boundary = secrets.token_hex(16)
        self._parts = (
            [(self._head(part, number), part) for number, part in enumerate(parts)]
            if isinstance(parts, Sequence)
            else ((self._head(part, number), part) for number, part in enumerate(parts))
        )
        self.content_type = f'{MULTIPART}; type="{media_type}"; boundary={self._boundary}'

    @property
    def length(self) -> int | None:
        """Content-Length; None where the parts are made one by one, or the length of one is not known."""
        if not isinstance(self._parts, list):
            return None
        total = len(self._closing(bool(self._parts)))
        for head, part in self._parts:
            if part.length is None:
                return None
            total += len(head) + part.length
        return total

    def __iter__(self) -> Iterator[bytes]:
        return gathered(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        is_any = False
        for head, part in self._parts:
            yield head
            yield from part.content
            is_any = True
        yield self._closing(is_any)

    def _head(self, part: Part, number: int) -> bytes:
        before = "\r\n" if number else ""
        location = f"\r\nContent-Location: {part.location}" if part.location else ""
        head = f"{before}--{self._boundary}\r\nContent-Type: {part.content_type}{location}\r\n\r\n"
        return head.encode("latin-1", "replace")

    def _closing(self, is_any: bool) -> bytes:
        return (b"\r\n" if is_any else b"") + f"--{self._boundary}--\r\n".encode("ascii")


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """``pieces`` put together until they have :data:`PIECE` bytes: each one that goes out costs a turn of its own.

    The first have fewer, so that whoever reads them has something to do while the next are made.
    """
    waiting: list[bytes] = []
    size, enough = 0, PIECE // 4
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= enough:
            yield b"".join(waiting)
            waiting, size, enough = [], 0, min(2 * enough, PIECE)
    if size:
        yield b"".join(waiting)
