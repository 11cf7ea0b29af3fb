"""Reading a DICOM file within limits: every element's header is walked before a library parses any of it.

pydicom parses what it is given: a million elements, 1,500 nested sequences, a deflated data set of any size. The walk
here makes no objects, so that a hostile file is answered with a code in milliseconds. Only what stands before Pixel
Data is parsed; what follows it (padding, signatures, garbage) is left alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from chexmodels.dicom.elements import (
    PIXEL_DATA,
    Broken,
    Buffer,
    Element,
    Encoding,
    Fault,
    TooDeep,
    TooMany,
    encoding_of,
    walk,
)

#: Elements longer than this are left out of the header that results are made from: no attribute that a result copies
#: may be that long (PS3.5 table 6.2-1), private dumps are.
LONG_ELEMENT = 65_536
#: The exception: a presentation state repeats look-up tables, and five VOI LUTs of 16 bits in one image are real.
LONG_TABLES = 1_048_576
#: What is left of a header after that is at most this long.
LONGEST_HEADER = 8_000_000

_PIXEL_DATA = 0x7FE00010
_TABLES = (0x00283000, 0x00283010)  # Modality LUT Sequence, VOI LUT Sequence
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


class DecodeError(Exception):
    """This file cannot be read or decoded; ``code`` is the value of one of the node's reasons.

    Codes: ``malformed``, ``too-deep``, ``undecodable``, ``pixel-size``, ``decode-limit``. ``detail`` is a short
    sentence without patient data.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds on one file."""

    max_elements: int = 20_000
    """Data elements, those in items of sequences included."""
    max_nesting: int = 64
    """Depth of nested sequences."""
    inflate_bytes: int = 512_000_000
    """Longest inflated data set."""
    max_pixels: int = 64_000_000
    """Rows times Columns."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in an encoded data set (PS3.5 section 7.1), by byte offsets into it."""

    header_end: int
    """Where the elements before Pixel Data end."""
    pixel_data: tuple[int, int] | None
    """(start, end) of the value of Pixel Data (7FE0,0010); an encapsulated value runs to the end of the buffer."""
    long_elements: tuple[tuple[int, int], ...]
    """(start, end) of top-level elements longer than :data:`LONG_ELEMENT`."""


def inflate(deflated: Buffer, limits: ReadLimits) -> bytes:
    """Inflate a data set of the Deflated syntax (PS3.5 A.5), at most ``limits.inflate_bytes`` long.

    Raises :class:`DecodeError` (``decode-limit`` for a bomb, ``malformed`` for what is no deflate stream).
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(deflated, limits.inflate_bytes + 1)
    except zlib.error as error:
        raise DecodeError("malformed", "the deflated data set cannot be inflated") from error
    if len(inflated) > limits.inflate_bytes:
        raise DecodeError("decode-limit", f"the data set inflates to more than {limits.inflate_bytes} bytes")
    return inflated


def scan(encoded: Buffer, transfer_syntax_uid: str, limits: ReadLimits) -> Layout:
    """Walk an encoded data set (no preamble, no group 0002, inflated) up to Pixel Data.

    Raises :class:`DecodeError`: ``malformed`` where a length, a VR or a delimiter cannot be right, ``too-deep`` for
    more elements or deeper nesting than ``limits`` allow.
    """
    encoding = encoding_of(transfer_syntax_uid)
    long_elements: list[tuple[int, int]] = []
    try:
        for element in walk(encoded, encoding, limits.max_elements, limits.max_nesting):
            if element.tag == _PIXEL_DATA:
                pixel_data = element.start, _pixel_data_end(encoded, element, encoding)
                return Layout(element.at, pixel_data, tuple(long_elements))
            if not element.undefined and element.length > (LONG_TABLES if element.tag in _TABLES else LONG_ELEMENT):
                long_elements.append((element.at, element.start + element.length))
    except Broken as fault:
        raise DecodeError("malformed", f"{fault} (offset {fault.at})") from fault
    except (TooMany, TooDeep) as fault:
        raise DecodeError("too-deep", str(fault)) from fault
    return Layout(len(encoded), None, tuple(long_elements))


def _pixel_data_end(encoded: Buffer, element: Element, encoding: Encoding) -> int:
    if not element.undefined:
        if element.start + element.length > len(encoded):
            raise Broken("the pixel data goes past the end")
        return element.start + element.length
    if encoding.encapsulated is False:
        raise Broken("encapsulated pixel data in a native transfer syntax")
    return len(encoded)


@dataclass(frozen=True, slots=True)
class Part10:
    """One DICOM file (PS3.10 section 7), walked but not parsed."""

    encoded_file_meta: bytes
    """Group 0002 as it stands in the file."""
    file_meta: FileMetaDataset
    encoded: Buffer
    """The data set, inflated where it was deflated."""
    layout: Layout

    def header(self) -> bytes:
        """The encoded elements before Pixel Data without the long ones."""
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        position = 0
        for start, end in self.layout.long_elements:
            yield bytes(self.encoded[position:start])
            position = end
        yield bytes(self.encoded[position : self.layout.header_end])

    def dataset(self) -> Dataset:
        """The data set with file meta and Pixel Data, without anything behind Pixel Data."""
        ds = parse(bytes(self.encoded[: self.layout.header_end]), self.file_meta)
        if self.layout.pixel_data is not None:
            start, end = self.layout.pixel_data
            ds.add_new(_PIXEL_DATA, "OW", bytes(self.encoded[start:end]))
        return ds


def read(content: Buffer, limits: ReadLimits) -> Part10:
    """Walk the content of a DICOM file; its pixels are not touched.

    Raises :class:`DecodeError`.
    """
    encoded_file_meta, file_meta, encoded = _opened(content, limits)
    return Part10(encoded_file_meta, file_meta, encoded, scan(encoded, file_meta.TransferSyntaxUID, limits))


def read_sound(content: Buffer, limits: ReadLimits) -> Dataset:
    """Parse what can be read of a broken DICOM file: the elements before the first fault, or before Pixel Data.

    Elements stand in the order of their tags (PS3.5 section 7.1): where a study is named, its patient was named before.
    Raises :class:`DecodeError` where not even the file meta information can be read.
    """
    _meta, file_meta, encoded = _opened(content, limits)
    end = 0
    with suppress(Fault):
        for element in walk(encoded, encoding_of(file_meta.TransferSyntaxUID), limits.max_elements, limits.max_nesting):
            if element.tag in PIXEL_DATA or element.start + element.length > LONGEST_HEADER:
                break
            end = element.start + element.length
    return parse(bytes(encoded[:end]), file_meta)


def _opened(content: Buffer, limits: ReadLimits) -> tuple[bytes, FileMetaDataset, Buffer]:
    """Group 0002, as encoded and parsed, and the data set, inflated if need be."""
    if len(content) < 132 or bytes(content[128:132]) != b"DICM":
        raise DecodeError("malformed", "not a DICOM file")
    start = _file_meta_end(content)
    encoded_file_meta = bytes(content[132:start])
    file_meta = parse_file_meta(encoded_file_meta)
    encoded: Buffer = memoryview(content)[start:]
    if file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        encoded = inflate(encoded, limits)
    return encoded_file_meta, file_meta, encoded


def parse(header: bytes, file_meta: FileMetaDataset) -> Dataset:
    """Parse an encoded data set that has been walked.

    Raises :class:`DecodeError` (``malformed``) where the parser stumbles all the same.
    """
    encoding = encoding_of(file_meta.TransferSyntaxUID)
    try:
        ds = read_dataset(BytesIO(header), encoding.implicit, encoding.little)
    except Exception as error:  # the parser's own exceptions are of any class
        raise DecodeError("malformed", f"the header cannot be parsed ({type(error).__name__})") from error
    ds.file_meta = file_meta
    return ds


def parse_file_meta(encoded_file_meta: bytes) -> FileMetaDataset:
    """Parse group 0002 (PS3.10 section 7.1).

    Raises :class:`DecodeError` (``malformed``) where it does not name a transfer syntax.
    """
    try:
        file_meta = FileMetaDataset(read_dataset(BytesIO(encoded_file_meta), False, True))
        named = isinstance(file_meta.TransferSyntaxUID, UID) and file_meta.TransferSyntaxUID
    except Exception as error:  # the parser's own exceptions are of any class
        raise DecodeError("malformed", "the file names no transfer syntax") from error
    if not named:
        raise DecodeError("malformed", "the file names no transfer syntax")
    return file_meta


def _file_meta_end(content: Buffer) -> int:
    """Offset behind group 0002, which is always Explicit VR Little Endian; its own length is often wrong."""
    position = 132
    while bytes(content[position : position + 2]) == b"\x02\x00":
        head = bytes(content[position : position + 12])
        long = head[4:6] in _LONG_VRS
        length = int.from_bytes(head[8:12] if long else head[6:8], "little")
        position += (12 if long else 8) + length
        if position > len(content) or position > LONG_ELEMENT:
            raise DecodeError("malformed", "the file meta information breaks off")
    return position
