"""Reading a DICOM file within limits: every element's header is walked before a library parses any of it.

pydicom parses what it is given: a million elements, 1,500 nested sequences, a deflated data set of any size. The walk
here makes no objects, so that a hostile file is answered with a code in milliseconds. Only what stands before Pixel
Data is parsed; what follows it (padding, signatures, garbage) is left alone.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

Buffer = bytes | memoryview | mmap.mmap

#: Elements longer than this are left out of the header that results are made from: no attribute that a result copies
#: may be that long (PS3.5 table 6.2-1), private dumps are.
LONG_ELEMENT = 65_536
#: The exception: a presentation state repeats look-up tables, and five VOI LUTs of 16 bits in one image are real.
LONG_TABLES = 1_048_576
#: What is left of a header after that is at most this long.
LONGEST_HEADER = 8_000_000

_PIXEL_DATA = 0x7FE00010
_TABLES = (0x00283000, 0x00283010)  # Modality LUT Sequence, VOI LUT Sequence
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # PS3.5 table 6.2-1
)


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
    elements: int
    depth: int


def encoding_of(transfer_syntax_uid: str) -> tuple[bool, bool]:
    """Return (is implicit VR, is little endian). Private syntaxes count as Explicit VR Little Endian (PS3.5 A.4)."""
    return transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian


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


@dataclass(slots=True)
class _Level:
    """One open data set, sequence or item during the walk."""

    end: int | None
    """Offset of its end; None: a delimiter ends it."""
    is_sequence: bool
    implicit: bool


def scan(encoded: Buffer, transfer_syntax_uid: str, limits: ReadLimits) -> Layout:
    """Walk the element headers of an encoded data set (no preamble, no group 0002, inflated) up to Pixel Data.

    Raises :class:`DecodeError`: ``malformed`` where a length, a VR or a delimiter cannot be right, ``too-deep`` for
    more elements or deeper nesting than ``limits`` allow.
    """
    implicit, little = encoding_of(transfer_syntax_uid)
    order = "little" if little else "big"
    size = len(encoded)
    position = elements = depth = 0
    long_elements: list[tuple[int, int]] = []
    stack = [_Level(size, False, implicit)]
    while stack:
        level = stack[-1]
        if level.end is not None and position >= level.end:
            if position > level.end:
                raise DecodeError("malformed", f"an element at offset {position} runs over the end of its item")
            stack.pop()
            continue
        start = position
        head = encoded[position : position + 12]
        if len(head) < 8:
            raise DecodeError("malformed", f"the data set breaks off at offset {start}")
        tag = int.from_bytes(head[0:2], order) << 16 | int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
        if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
            position += 8
            if tag == _ITEM and level.is_sequence:
                if length != _UNDEFINED and position + length > (size if level.end is None else level.end):
                    raise DecodeError("malformed", f"an item at offset {start} runs over its sequence")
                stack.append(_Level(None if length == _UNDEFINED else position + length, False, level.implicit))
            elif level.end is None and level.is_sequence == (tag == _SEQUENCE_END) and tag != _ITEM:
                stack.pop()
            else:
                raise DecodeError("malformed", f"an item delimiter at offset {start} where none belongs")
            continue
        if level.is_sequence:
            raise DecodeError("malformed", f"an element at offset {start} between the items of a sequence")
        elements += 1
        if elements > limits.max_elements:
            raise DecodeError("too-deep", f"more than {limits.max_elements} elements")
        vr = b""
        if level.implicit:
            length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
            position += 8
        else:
            vr = bytes(head[4:6])
            if vr in _SHORT_VRS:
                length = int.from_bytes(head[6:8], order)  # type: ignore[arg-type]
                position += 8
            elif vr in _LONG_VRS:
                if len(head) < 12:
                    raise DecodeError("malformed", f"the data set breaks off at offset {start}")
                length = int.from_bytes(head[8:12], order)  # type: ignore[arg-type]
                position += 12
            else:
                raise DecodeError("malformed", f"no value representation at offset {start}")
        if tag == _PIXEL_DATA and len(stack) == 1:
            end = _pixel_data_end(encoded, position, length, transfer_syntax_uid)
            return Layout(start, (position, end), tuple(long_elements), elements, depth)
        end_of_level = size if level.end is None else level.end
        if length != _UNDEFINED and position + length > end_of_level:
            raise DecodeError("malformed", f"an element at offset {start} is longer than what holds it")
        if length == _UNDEFINED or _is_sequence(vr, tag, encoded[position : position + 4], little):
            stack.append(
                # An UN of undefined length holds Implicit VR Little Endian (PS3.5 6.2.2 note 2)
                _Level(None if length == _UNDEFINED else position + length, True, level.implicit or vr == b"UN")
            )
            nesting = sum(1 for open_level in stack if open_level.is_sequence)
            depth = max(depth, nesting)
            if nesting > limits.max_nesting:
                raise DecodeError("too-deep", f"sequences nested more than {limits.max_nesting} deep")
            if len(stack) == 2 and length != _UNDEFINED and length > (LONG_TABLES if tag in _TABLES else LONG_ELEMENT):
                long_elements.append((start, position + length))
            continue
        position += length
        if len(stack) == 1 and length > LONG_ELEMENT:
            long_elements.append((start, position))
    return Layout(size, None, tuple(long_elements), elements, depth)


def _is_sequence(vr: bytes, tag: int, first: Buffer, little: bool) -> bool:
    if vr:
        return vr == b"SQ"
    if bytes(first) != (b"\xfe\xff\x00\xe0" if little else b"\xff\xfe\xe0\x00"):
        return False
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _pixel_data_end(encoded: Buffer, start: int, length: int, transfer_syntax_uid: str) -> int:
    encapsulated = UID(transfer_syntax_uid).is_encapsulated if UID(transfer_syntax_uid).is_transfer_syntax else True
    if length != _UNDEFINED:
        if start + length > len(encoded):
            raise DecodeError("malformed", "Pixel Data is longer than the rest of the data set")
        return start + length
    if not encapsulated:
        raise DecodeError("malformed", "native Pixel Data of undefined length")
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
    if len(content) < 132 or bytes(content[128:132]) != b"DICM":
        raise DecodeError("malformed", "not a DICOM file")
    start = _file_meta_end(content)
    encoded_file_meta = bytes(content[132:start])
    file_meta = parse_file_meta(encoded_file_meta)
    transfer_syntax_uid = file_meta.TransferSyntaxUID
    encoded: Buffer = memoryview(content)[start:]
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        encoded = inflate(encoded, limits)
    return Part10(encoded_file_meta, file_meta, encoded, scan(encoded, transfer_syntax_uid, limits))


def parse(header: bytes, file_meta: FileMetaDataset) -> Dataset:
    """Parse an encoded data set that has been walked.

    Raises :class:`DecodeError` (``malformed``) where the parser stumbles all the same.
    """
    implicit, little = encoding_of(file_meta.TransferSyntaxUID)
    try:
        ds = read_dataset(BytesIO(header), implicit, little)
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
