"""Instances that come as metadata and bulk data in separate parts (PS3.18 section 10.5.1.4), put together as files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from chexmodels.dicom.codestream import Frame, frame_of
from chexmodels.dicom.errors import DecodeError
from chexnode.dicomweb.json_model import Json
from chexnode.dicomweb.media_types import (
    BYTES,
    DICOM_JSON,
    DICOM_XML,
    JSON,
    BadMediaType,
    MediaType,
    parse_media_type,
    transfer_syntax_of,
)
from chexnode.dicomweb.multipart import MultipartError, PartBegins
from chexnode.dicomweb.xml_model import NotNative, from_xml
from chexnode.spool.spool import DiskRefused, Incoming, Spool

_MOST_METADATA = 8_000_000
"""Bytes of all metadata parts of a request."""
_PIXEL_DATA = "7FE00010"
_PIECE = 1 << 20
_NUMBERS = {"FD": "<f8", "FL": "<f4", "SL": "<i4", "SS": "<i2", "SV": "<i8", "UL": "<u4", "US": "<u2", "UV": "<u8"}
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
#: What a byte of a value that is not binary takes while it is a list of numbers or words.
_SPREAD = 16


class NoInstance(ValueError):
    """The parts make no instance. The text is safe to be shown to the sender."""


class Writer(Protocol):
    """What takes the content of a part."""

    def write(self, data: bytes) -> None:
        """Take the next piece."""


@dataclass(slots=True)
class _Metadata:
    media_type: str
    room: Callable[[int], None]
    content: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        self.room(len(data))
        self.content += data


@dataclass(slots=True)
class _Bulk:
    """One part, behind the others in the one file of a request."""

    media_type: MediaType
    content: Incoming
    largest: int
    start: int
    size: int = 0

    def write(self, data: bytes) -> None:
        if self.size + len(data) > self.largest:
            raise MultipartError("a part is larger than an object may be (limits.max_object_mb)")
        self.content.write(data)
        self.size += len(data)

    def view(self) -> memoryview:
        return self.content.view()[self.start : self.start + self.size]


class StowParts:
    """The parts of one request. End it with :meth:`close`."""

    def __init__(self, spool: Spool, largest: int) -> None:
        """``largest``: bytes that one bulk data part may have."""
        self._content, self._largest = spool.incoming(), largest
        self._metadata: list[_Metadata] = []
        self._bulk: dict[str, _Bulk] = {}
        self._room = _MOST_METADATA
        self._values_room = largest
        self._is_ascii = True

    def part(self, begins: PartBegins) -> Writer:
        """Where the content of a part goes. Raises MultipartError and DiskRefused."""
        try:
            kind = parse_media_type(begins.headers.get("content-type", BYTES))
        except BadMediaType:
            raise MultipartError("the type of a part cannot be read") from None
        if kind.essence in (DICOM_JSON, JSON, DICOM_XML):
            self._metadata.append(_Metadata(kind.essence, self._take_room))
            return self._metadata[-1]
        location = begins.headers.get("content-location", "").strip()
        if not location:
            raise MultipartError("a part with bulk data has no Content-Location")
        self._bulk[location] = _Bulk(kind, self._content, self._largest, self._content.size)
        return self._bulk[location]

    def _take_room(self, count: int) -> None:
        self._room -= count
        if self._room < 0:
            raise MultipartError(f"more than {_MOST_METADATA} bytes of metadata")

    def models(self) -> Iterator[Json]:
        """The metadata of each instance. Raises MultipartError."""
        for part in self._metadata:
            if part.media_type == DICOM_XML:
                try:
                    yield from_xml(bytes(part.content))
                except NotNative as error:
                    raise MultipartError(str(error)) from error
                continue
            try:
                found = json.loads(part.content)
            except (ValueError, RecursionError) as error:
                raise MultipartError("the metadata is not JSON") from error
            found = found if isinstance(found, list) else [found]
            if not all(isinstance(one, dict) for one in found):
                raise MultipartError("the metadata is no array of data sets")
            yield from found

    def file(self, model: Json) -> Iterator[bytes]:
        """The instance of ``model`` as a DICOM file, in pieces. Raises :class:`NoInstance` before the first.

        Raises DiskRefused where the parts could not be kept: then nothing that needs one can be made any more.
        """
        pixels = model.get(_PIXEL_DATA)
        rest = {tag: one for tag, one in model.items() if tag < _PIXEL_DATA and not tag.startswith("0002")}
        rest.pop("00083002", None)  # Available Transfer Syntax UID: of what a server held, not of this
        self._values_room, self._is_ascii = self._largest, True
        try:
            ds = Dataset.from_json(rest, self._value)
            if not (self._is_ascii and json.dumps(rest, ensure_ascii=False).isascii()):
                ds.SpecificCharacterSet = "ISO_IR 192"
            frames = self._frames(pixels) if isinstance(pixels, dict) else _Frames("", [])
            if frames.transfer_syntax and frames.transfer_syntax != ExplicitVRLittleEndian:
                _describe(ds, frames)
            return self._encoded(ds, pixels, frames)
        except (NoInstance, DiskRefused):
            raise
        except Exception as error:  # whatever a stranger's model makes the library raise
            raise NoInstance(f"the metadata is no data set: {_culprit(rest)} ({type(error).__name__})") from error

    def _encoded(self, ds: Dataset, pixels: Mapping[str, Any] | None, frames: _Frames) -> Iterator[bytes]:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(frames.transfer_syntax or ExplicitVRLittleEndian)
        buffer = BytesIO()
        ds.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=True)
        head = buffer.getvalue()
        if pixels is None:
            return iter([head])
        if not frames.transfer_syntax or frames.transfer_syntax == ExplicitVRLittleEndian:
            vr = b"OB" if pixels.get("vr") == "OB" else b"OW"
            return _native(head, vr, b"".join(frames.inline), frames.parts)
        return _encapsulated(head, frames.parts)

    def _value(self, tag: str, vr: str, uri: str) -> Any:
        """The value of an element that stands in a part of its own."""
        part = self._found(uri)
        self._values_room -= part.size if vr in _BINARY else _SPREAD * part.size  # many elements may name one part
        if self._values_room < 0:
            raise NoInstance("its values are larger than an object may be (limits.max_object_mb)")
        content = bytes(part.view())
        if vr in _BINARY:
            return content
        if vr in _NUMBERS:
            return np.frombuffer(content, _NUMBERS[vr]).tolist()
        text = content.decode("utf-8").rstrip(" \0")
        self._is_ascii = self._is_ascii and text.isascii()
        return text if vr in ("LT", "ST", "UT", "UR") else text.split("\\")

    def _found(self, uri: str) -> _Bulk:
        if uri not in self._bulk:
            raise NoInstance("there is no part for a BulkDataURI")
        return self._bulk[uri]

    def _frames(self, pixels: Mapping[str, Any]) -> _Frames:
        uri = pixels.get("BulkDataURI")
        if uri is None:
            inline = Dataset.from_json({_PIXEL_DATA: dict(pixels)}).get("PixelData") or b""
            return _Frames(ExplicitVRLittleEndian, [], [inline])
        parts = [self._bulk[uri]] if uri in self._bulk else []
        while (one := self._bulk.get(f"{uri}/frames/{len(parts) + 1}")) is not None:
            parts.append(one)
        if not parts:
            raise NoInstance("there is no part for the BulkDataURI of Pixel Data")
        kind = parts[0].media_type
        if kind.essence == BYTES:
            return _Frames(kind.transfer_syntax or ExplicitVRLittleEndian, parts)
        syntax = kind.transfer_syntax or transfer_syntax_of(kind.essence, bytes(parts[0].view()[:65_536]))
        if not syntax:
            raise NoInstance(f"pixels are not stored as {kind.essence}")
        return _Frames(syntax, parts)

    def close(self) -> None:
        """Leave nothing behind."""
        self._content.discard()
        self._bulk.clear()


@dataclass(frozen=True, slots=True)
class _Frames:
    """Pixel Data: its transfer syntax, and the parts that hold it, or what stood inside the metadata."""

    transfer_syntax: str
    parts: Sequence[_Bulk]
    inline: Sequence[bytes] = ()


def _culprit(model: Json) -> str:
    """The first attribute of which no element can be made, by keyword or tag."""
    for tag, one in model.items():
        try:
            ds = Dataset.from_json({tag: one}, lambda *_: b"")
            ds.save_as(BytesIO(), implicit_vr=False, little_endian=True)
        except Exception:  # of any class, as above
            name = keyword_for_tag(tag) if re.fullmatch("[0-9A-Fa-f]{8}", tag) else ""
            return name or tag[:16]
    return "its attributes contradict each other"


def _native(head: bytes, vr: bytes, inline: bytes, parts: Sequence[_Bulk]) -> Iterator[bytes]:
    length = len(inline) + sum(part.size for part in parts)
    yield head + b"\xe0\x7f\x10\x00" + vr + b"\0\0" + (length + length % 2).to_bytes(4, "little") + inline
    for part in parts:
        yield from _pieces(part)
    yield bytes(length % 2)


def _encapsulated(head: bytes, parts: Sequence[_Bulk]) -> Iterator[bytes]:
    """One fragment a frame and an empty Basic Offset Table (PS3.5 section A.4)."""
    yield head + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0"
    for part in parts:
        length = part.size
        yield b"\xfe\xff\x00\xe0" + (length + length % 2).to_bytes(4, "little")
        yield from _pieces(part)
        yield bytes(length % 2)
    yield b"\xfe\xff\xdd\xe0\0\0\0\0"


def _pieces(part: _Bulk) -> Iterator[bytes]:
    view = part.view()
    for start in range(0, len(view), _PIECE):
        yield bytes(view[start : start + _PIECE])


def _describe(ds: Dataset, frames: _Frames) -> None:
    """The Image Pixel attributes that the sender may leave out, from the first codestream (PS3.18 table 10.5.2-1)."""
    if "Rows" in ds:
        return
    try:
        frame = frame_of(bytes(frames.parts[0].view()), frames.transfer_syntax)
    except DecodeError as error:
        raise NoInstance(f"the pixels cannot be read: {error.detail}") from error
    if frame is None:
        return
    ds.Rows, ds.Columns, ds.SamplesPerPixel = frame.rows, frame.columns, frame.components
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = -(-frame.precision // 8) * 8, frame.precision, frame.precision - 1
    ds.PixelRepresentation = 0
    if len(frames.parts) > 1:
        ds.NumberOfFrames = len(frames.parts)
    if frame.components > 1:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = _photometric(frame, frames.transfer_syntax)


def _photometric(frame: Frame, transfer_syntax: str) -> str:
    if frame.components == 1:
        return "MONOCHROME2"
    number = transfer_syntax.rpartition(".")[2]
    return {"50": "YBR_FULL_422", "90": "YBR_RCT", "91": "YBR_ICT", "201": "YBR_RCT"}.get(number, "RGB")
