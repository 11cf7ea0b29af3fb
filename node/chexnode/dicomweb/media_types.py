"""What a client accepts (PS3.18 section 8.3.3 and 8.7; RFC 9110 section 12.5.1), read and ranked. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MULTIPART = "multipart/related"
DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
JSON = "application/json"
BYTES = "application/octet-stream"

#: Encapsulated transfer syntax -> media type of one frame (PS3.18 table 8.7.3-5).
IMAGE_TYPES: Mapping[str, str] = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
}
#: Registered name -> the name that clients still use from before.
UNREGISTERED: Mapping[str, str] = {"image/dicom-rle": "image/x-dicom-rle", "image/jls": "image/x-jls"}

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  (RFC 9110 section 5.6.2)
_TYPE = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*")
#: Unquoted values may hold a slash: ``type=application/dicom`` breaks RFC 2045, and many clients send it.
_PARAMETER = re.compile(rf';\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*')
_MAX_LENGTH = 8192
_MAX_RANGES = 64


class BadMediaType(ValueError):
    """Not a media type."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type or range with its parameters; names in lower case, values as given."""

    essence: str
    """``type/subtype``; either may be ``*``."""
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        """The weight ``q`` in [0, 1]; 1 where there is none or it is nonsense."""
        try:
            return min(1.0, max(0.0, float(self.parameters.get("q", "1"))))
        except ValueError:
            return 1.0

    @property
    def is_multipart(self) -> bool:
        """Whether it asks for ``multipart/related``."""
        return self.essence == MULTIPART

    @property
    def inner(self) -> str:
        """The type asked for, of each part where it is multipart; ``*/*`` where it is not said."""
        return self.parameters.get("type", "*/*").strip().lower() if self.is_multipart else self.essence

    @property
    def transfer_syntax(self) -> str:
        """The transfer syntax asked for; ``*`` is any, empty where it is not said."""
        return self.parameters.get("transfer-syntax", "").strip()

    def covers(self, essence: str) -> bool:
        """Whether ``essence``, of a part where this is multipart, is inside this range."""
        wanted_type, _, wanted_subtype = self.inner.partition("/")
        given_type, _, given_subtype = essence.partition("/")
        return wanted_type in ("*", given_type) and wanted_subtype in ("*", given_subtype)

    @property
    def _specificity(self) -> int:
        return (self.essence != "*/*") + ("*" not in self.essence) + ("*" not in self.inner)


#: What is accepted where nothing is said.
ANYTHING = MediaType("*/*")


def transfer_syntax_of(media_type: str, codestream: bytes) -> str:
    """The transfer syntax of a frame of which only the media type is known (PS3.18 table 8.7.3-5); empty if none.

    ``codestream``: its beginning, by which the processes that share ``image/jpeg`` are told apart (ITU-T T.81 B.1).
    """
    if media_type == "image/jpeg":
        processes = {b"\xff\xc0": "50", b"\xff\xc1": "51", b"\xff\xc3": "70"}
        first = {codestream.find(marker): number for marker, number in processes.items() if marker in codestream}
        return f"1.2.840.10008.1.2.4.{first[min(first)]}" if first else ""
    registered = {old: name for name, old in UNREGISTERED.items()}.get(media_type, media_type)
    return next((syntax for syntax, kind in IMAGE_TYPES.items() if kind == registered), "")


def parse_media_type(text: str) -> MediaType:
    """Parse a Content-Type. Raises :class:`BadMediaType`."""
    found, end = _media_type(text, 0)
    if text[end:].strip():
        raise BadMediaType("not a media type")
    return found


def parse_accept(header: str | None, query: str | None = None) -> list[MediaType]:
    """The ranges of an Accept header, best first; ``query`` is the ``accept`` query parameter (PS3.18 8.3.3.1), which
    comes first where both are given. What cannot be read is passed over; ranges with weight 0 are left out."""
    # In a query a bare plus is a space, and "application/dicom+json" is seldom written with %2B
    ranges = _ranked(_ranges(re.sub(r"(?<=[a-z]) (?=[a-z])", "+", query or ""))) + _ranked(_ranges(header or ""))
    return ranges if ranges or (header or "").strip() or query else [ANYTHING]


def _ranked(ranges: Iterator[MediaType]) -> list[MediaType]:
    wanted = [one for one in ranges if one.quality > 0]
    return sorted(wanted, key=lambda one: (-one.quality, -one._specificity))


def _ranges(text: str) -> Iterator[MediaType]:
    position = 0
    text = text[:_MAX_LENGTH]
    for _ in range(_MAX_RANGES):
        if position >= len(text):
            return
        try:
            found, position = _media_type(text, position)
            yield found
        except BadMediaType:
            pass
        comma = text.find(",", position)
        position = len(text) if comma < 0 else comma + 1


def _media_type(text: str, start: int) -> tuple[MediaType, int]:
    match = _TYPE.match(text, start)
    if match is None:
        raise BadMediaType("not a media type")
    parameters: dict[str, str] = {}
    end = match.end()
    while (parameter := _PARAMETER.match(text, end)) is not None:
        name, quoted, plain = parameter.groups()
        parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain)
        end = parameter.end()
    return MediaType(f"{match[1]}/{match[2]}".lower(), parameters), end
