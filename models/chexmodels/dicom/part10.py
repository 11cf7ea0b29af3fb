"""Reading a DICOM file within limits: every element's header is walked before a library converts any of it.

pydicom parses what it is given: a million elements, 1,500 nested sequences, a deflated data set of any size. The walk
makes no objects, so that a hostile file is answered with a code in milliseconds; the data set is then made of what it
found. What follows Pixel Data (padding, signatures, garbage) is left alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pydicom.dataset import Dataset, FileMetaDataset

from chexmodels.dicom import file_meta as group_2
from chexmodels.dicom.elements import Broken, Buffer, Element, Scan, dataset_of, fragments, scan
from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.transfer_syntaxes import DEFLATED, JPEG, JPEG_2000, JPEG_LS, Encoding, encoding_of

#: Elements longer than this are left out of the header that results are made from: no attribute that a result copies
#: may be that long (PS3.5 table 6.2-1), private dumps are.
LONG_ELEMENT = 65_536
#: The exception: a presentation state repeats look-up tables, and five VOI LUTs of 16 bits in one image are real.
LONG_TABLES = 1_048_576
#: What is left of a header after that is at most this long.
LONGEST_HEADER = 8_000_000

_PIXEL_DATA = 0x7FE00010
_TABLES = (0x00283000, 0x00283010)  # Modality LUT Sequence, VOI LUT Sequence
_MARKED = JPEG | JPEG_LS | JPEG_2000
_INFLATE_STEP = 1 << 20


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


@dataclass(frozen=True)
class Part10:
    """One DICOM file (PS3.10 section 7), walked up to its pixels."""

    encoded_file_meta: bytes
    """Group 0002 as it stands in the file."""
    file_meta: FileMetaDataset
    encoded: Buffer
    """The data set, inflated where it was deflated."""
    scan: Scan

    @property
    def encoding(self) -> Encoding:
        """How the data set is encoded."""
        return encoding_of(self.file_meta.TransferSyntaxUID)

    @property
    def pixel_data(self) -> tuple[int, int] | None:
        """(start, end) of the value of Pixel Data in ``encoded``; an encapsulated value runs to the end."""
        pixels = self.scan.pixels
        if pixels is None or pixels.tag != _PIXEL_DATA:
            return None
        return pixels.start, len(self.encoded) if pixels.undefined else pixels.start + pixels.length

    def pixel_bytes(self) -> Buffer:
        """The value of Pixel Data; an encapsulated one as PS3.5 section A.4 has it, whatever its delimiters were.

        Raises :class:`DecodeError` where there is none, or it breaks off.
        """
        if self.pixel_data is None:
            raise DecodeError(DecodeFailure.UNDECODABLE, "the object has no pixels")
        start, end = self.pixel_data
        if self.scan.pixels is None or not self.scan.pixels.undefined:
            return memoryview(self.encoded)[start:end]
        try:
            spans, end, is_regular = fragments(self.encoded, start)
        except Broken as error:
            raise DecodeError(DecodeFailure.UNDECODABLE, str(error)) from error
        if is_regular:
            return memoryview(self.encoded)[start:end]
        values = [bytes(self.encoded[first:last]) for first, last in spans]
        # Where the delimiter is missing, more may be: a codestream of these says where it ends.
        if self.file_meta.TransferSyntaxUID in _MARKED and not values[-1].rstrip(b"\0").endswith(b"\xff\xd9"):
            raise DecodeError(DecodeFailure.UNDECODABLE, "the pixel data breaks off")
        items = (struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in values)
        return b"".join((*items, struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)))

    def encoded_header(self) -> bytes:
        """The encoded elements before Pixel Data without the long ones."""
        return b"".join(bytes(self.encoded[e.at : e.start + e.length]) for e in self._short())

    @cached_property
    def header(self) -> Dataset:
        """The data set with file meta, without Pixel Data and the long elements; values still raw."""
        return self._dataset(self._short())

    def whole_header(self) -> Dataset:
        """The data set with file meta, without Pixel Data; values still raw."""
        return self._dataset(iter(self.scan.elements.values()))

    def dataset(self) -> Dataset:
        """The data set with file meta and Pixel Data, without anything behind Pixel Data."""
        ds = self.whole_header()
        if self.pixel_data is not None:
            ds.add_new(_PIXEL_DATA, "OW", bytes(self.pixel_bytes()))
        return ds

    def _short(self) -> Iterator[Element]:
        for element in self.scan.elements.values():
            if element.length <= (LONG_TABLES if element.tag in _TABLES else LONG_ELEMENT):
                yield element

    def _dataset(self, elements: Iterator[Element]) -> Dataset:
        ds = dataset_of(self.encoded, elements, self.encoding)
        ds.file_meta = self.file_meta
        return ds


def inflate(deflated: Buffer, most: int) -> Iterator[bytes]:
    """Inflate a data set of a deflated transfer syntax (PS3.5 A.5), piece by piece, at most ``most`` bytes.

    Raises :class:`DecodeError` (``decode-limit`` for a bomb, ``malformed`` for what is no deflate stream).
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for start in range(0, len(deflated), _INFLATE_STEP):
            pending = bytes(deflated[start : start + _INFLATE_STEP])
            while pending and not stream.eof:
                piece = stream.decompress(pending, _INFLATE_STEP)
                pending = stream.unconsumed_tail
                most -= len(piece)
                if most < 0:
                    raise DecodeError(DecodeFailure.DECODE_LIMIT, "the data set inflates beyond the limit")
                yield piece
        yield stream.flush()
    except zlib.error as error:
        raise DecodeError(DecodeFailure.MALFORMED, "the deflated data set cannot be inflated") from error


def read(content: Buffer, limits: ReadLimits) -> Part10:
    """Walk the content of a DICOM file; its pixels are not touched.

    Raises :class:`DecodeError`: ``malformed`` where a length, a VR or a delimiter cannot be right, ``too-deep`` for
    more elements or deeper nesting than ``limits`` allow, ``decode-limit``.
    """
    part10 = _opened(content, limits)
    if part10.scan.broken:
        deep = part10.scan.over_limit or part10.scan.too_deep
        failure = DecodeFailure.TOO_DEEP if deep else DecodeFailure.MALFORMED
        where = "" if deep else f" (offset {part10.scan.at})"
        raise DecodeError(failure, part10.scan.broken + where)
    pixels = part10.scan.pixels
    if pixels is not None and pixels.undefined and part10.encoding.encapsulated is False:
        raise DecodeError(DecodeFailure.MALFORMED, "encapsulated pixel data in a native transfer syntax")
    if part10.pixel_data is not None and part10.pixel_data[1] > len(part10.encoded):
        raise DecodeError(DecodeFailure.MALFORMED, "the pixel data goes past the end")
    return part10


def read_intact(content: Buffer, limits: ReadLimits) -> Dataset:
    """Read what can be read of a broken DICOM file: the elements before the first fault, or before Pixel Data.

    Elements stand in the order of their tags (PS3.5 section 7.1): where a study is named, its patient was named before.
    Raises :class:`DecodeError` where not even the file meta information can be read.
    """
    return _opened(content, limits).header


def parse_header(encoded: Buffer, file_meta: FileMetaDataset, limits: ReadLimits) -> Dataset:
    """Read a header that :meth:`Part10.encoded_header` gave elsewhere. Raises :class:`DecodeError`."""
    part10 = Part10(b"", file_meta, encoded, _scan(encoded, file_meta.TransferSyntaxUID, limits))
    if part10.scan.broken:
        raise DecodeError(DecodeFailure.MALFORMED, part10.scan.broken)
    return part10.header


def _opened(content: Buffer, limits: ReadLimits) -> Part10:
    """Walk the data set, inflated if need be, as far as it goes."""
    if len(content) < 132 or bytes(content[128:132]) != b"DICM":
        raise DecodeError(DecodeFailure.MALFORMED, "not a DICOM file")
    found = group_2.span(content, is_all=True)
    assert found is not None
    encoded_file_meta = bytes(content[found[0] : found[1]])
    file_meta = group_2.parse(encoded_file_meta)
    encoded: Buffer = memoryview(content)[found[1] :]
    if file_meta.TransferSyntaxUID in DEFLATED:
        encoded = b"".join(inflate(encoded, limits.inflate_bytes))
    return Part10(encoded_file_meta, file_meta, encoded, _scan(encoded, file_meta.TransferSyntaxUID, limits))


def _scan(encoded: Buffer, transfer_syntax_uid: str, limits: ReadLimits) -> Scan:
    encoding = encoding_of(transfer_syntax_uid)
    return scan(encoded, encoding, limits.max_elements, limits.max_nesting, until_pixels=True)
