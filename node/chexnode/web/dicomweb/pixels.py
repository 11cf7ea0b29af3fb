"""The pixels of one object: frames as they are stored, and the values of their pixels.

What is native is cut out of the file; what a codec must decode is decoded by :meth:`Image.values`, in a child process
only (:mod:`chexnode.web.dicomweb.decoder`). Whatever a codestream says of its own size is compared with the data set's
before a decoder runs, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import SEEK_CUR, SEEK_END, SEEK_SET
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from chexmodels.dicom.codestream import frame_of
from chexmodels.dicom.decode import decode
from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.jpeg import decoder_of
from chexmodels.dicom.part10 import Part10
from chexmodels.dicom.transfer_syntaxes import DECODED, NATIVE

_LOSSLESS = frozenset({RLELossless}) | {
    f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80, 90, 92, 201, 202)
}  # fmt: skip

_PIECE = 1 << 20


def can_decode(transfer_syntax_uid: str) -> bool:
    """Whether there is a decoder, or none is needed."""
    return transfer_syntax_uid in NATIVE or transfer_syntax_uid in DECODED


def default_syntax(stored: str) -> str:
    """The transfer syntax of an answer where none is asked for (PS3.18 sections 8.7.3.1 and 8.7.3.3).

    Explicit VR Little Endian, unless the node has the pixels only as lossy compression left them.
    """
    return ExplicitVRLittleEndian if stored in NATIVE or stored in (_LOSSLESS & DECODED) else stored


class _Reader:
    """Bytes that are read as a file is, so that only what is asked for is copied."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._position = content, 0

    def read(self, size: int = -1, /) -> bytes:
        start = self._position
        self._position = len(self._content) if size < 0 else min(start + size, max(start, len(self._content)))
        return bytes(self._content[start : self._position])

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        self._position = offset + {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: len(self._content)}[whence]
        return self._position

    def tell(self) -> int:
        return self._position


class Image:
    """The pixels of one object. Raises DecodeError where it has none, or its attributes are impossible."""

    def __init__(self, part10: Part10, max_pixels: int) -> None:
        if part10.pixel_data is None:
            raise DecodeError(DecodeFailure.UNDECODABLE, "the object has no pixels")
        self.part10 = part10
        self.max_pixels = max_pixels
        self.ds = part10.whole_header()
        self.transfer_syntax = str(part10.file_meta.TransferSyntaxUID)
        self.is_native = self.transfer_syntax in NATIVE
        self._start, self._end = part10.pixel_data
        try:
            self.rows, self.columns = int(self.ds.Rows), int(self.ds.Columns)
            self.samples = int(self.ds.get("SamplesPerPixel") or 1)
            self.bits = int(self.ds.BitsAllocated)
            self.frames = int(self.ds.get("NumberOfFrames") or 1)
        except Exception as error:  # conversion of hostile values raises any class
            raise DecodeError(DecodeFailure.UNDECODABLE, "the Image Pixel attributes are impossible") from error
        if min(self.rows, self.columns, self.frames) < 1 or self.bits not in (1, 8, 16, 32, 64) or self.samples > 4:
            raise DecodeError(DecodeFailure.UNDECODABLE, "the Image Pixel attributes are impossible")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame by itself."""
        return (self.rows * self.columns * self.samples * self.bits + 7) // 8

    @property
    def all_bytes(self) -> int:
        """Bytes of all decoded frames, one behind the other; those of single bits share bytes (PS3.5 8.1.1)."""
        return (self.frames * self.rows * self.columns * self.samples * self.bits + 7) // 8

    def stored(self, numbers: list[int]) -> Iterator[bytes]:
        """Encapsulated frames as they are stored, by number from 1, in the order given. Raises DecodeError."""
        wanted = sorted(set(numbers))
        frames = self._some(wanted)
        if numbers != wanted:
            kept = dict(zip(wanted, frames, strict=True))
            frames = (kept[number] for number in numbers)
        yield from frames

    def _some(self, numbers: list[int]) -> Iterator[bytes]:
        """Frames by number, whose order is theirs in the file. There may be others than the object says."""
        frames, position = self._all(), 0
        for number in numbers:
            frame = next(islice(frames, number - position - 1, None), None)
            if frame is None:
                raise DecodeError(DecodeFailure.UNDECODABLE, "the object has fewer frames than it says")
            position = number
            yield frame

    def _all(self) -> Iterator[bytes]:
        try:
            encapsulated = _Reader(memoryview(self.part10.pixel_bytes()))
            yield from generate_frames(encapsulated, number_of_frames=self.frames)
        except DecodeError:
            raise
        except Exception as error:  # the parser's own exceptions are of any class
            raise DecodeError(DecodeFailure.UNDECODABLE, "Pixel Data is not a sequence of frames") from error

    def native(self, number: int) -> bytes:
        """A frame of native Pixel Data in little endian, by number from 1. Raises DecodeError."""
        self._check_length(number)
        if self._is_inside_bytes:
            size = self.rows * self.columns * self.samples
            first = (number - 1) * size
            piece = np.frombuffer(self._little(first // 8, (first + size + 7) // 8), np.uint8)
            bits = np.unpackbits(piece, bitorder="little")[first % 8 : first % 8 + size]
            return np.packbits(bits, bitorder="little").tobytes()
        begin = (number - 1) * self.frame_bytes
        return self._little(begin, begin + self.frame_bytes)

    def native_part(self, number: int, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` of :meth:`native`, in pieces. Raises DecodeError."""
        if self._is_inside_bytes:
            yield self.native(number)[start:end]
            return
        self._check_length(number)
        first = (number - 1) * self.frame_bytes
        yield from self._pieces(first + start, first + (self.frame_bytes if end is None else end))

    def all_native(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Native Pixel Data of all frames in little endian, or a part of it, in pieces. Raises DecodeError."""
        self._check_length(self.frames)
        yield from self._pieces(start, self.all_bytes if end is None else end)

    @property
    def _is_inside_bytes(self) -> bool:
        """Whether frames begin inside bytes (PS3.5 section 8.1.1)."""
        return self.bits == 1 and (self.rows * self.columns * self.samples) % 8 != 0

    def _pieces(self, begin: int, end: int) -> Iterator[bytes]:
        for start in range(begin, end, _PIECE):
            yield self._little(start, min(start + _PIECE, end))

    def _check_length(self, frames: int) -> None:
        if frames * self.rows * self.columns * self.samples * self.bits > (self._end - self._start) * 8:
            raise DecodeError(DecodeFailure.PIXEL_SIZE, "Pixel Data is shorter than its frames")

    def _little(self, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` of native Pixel Data, with their words turned where they are big endian."""
        encoded = self.part10.encoded
        word = self._word()
        if word == 1:
            return bytes(encoded[self._start + begin : self._start + end])
        first = begin // word * word
        last = min(-(-end // word) * word, self._end - self._start)
        words = np.frombuffer(bytes(encoded[self._start + first : self._start + last]), np.uint8)
        turned = words[: len(words) // word * word].reshape(-1, word)[:, ::-1].tobytes()
        return turned[begin - first : end - first]

    def _word(self) -> int:
        """Bytes whose order big endian has turned (PS3.5 section 7.3 and 8.1.2); 1 where there is nothing to turn."""
        if self.transfer_syntax != ExplicitVRBigEndian:
            return 1
        is_words = bytes(self.part10.encoded[self._start - 8 : self._start - 6]) == b"OW"
        return max(self.bits // 8, 2 if is_words else 1)

    def values(self, numbers: list[int]) -> Iterator[NDArray[Any]]:
        """Stored values, ``(Rows, Columns)`` or ``(Rows, Columns, 3)`` RGB. Raises DecodeError."""
        if self.rows * self.columns > self.max_pixels:
            raise DecodeError(DecodeFailure.DECODE_LIMIT, f"more than {self.max_pixels} pixels")
        if self.samples == 1 and self.frames == 1 and self.bits >= 8:
            yield from (decode(self.part10.dataset(), self.max_pixels) for _ in numbers)
            return
        if not can_decode(self.transfer_syntax):
            raise DecodeError(DecodeFailure.UNDECODABLE, "no decoder for this transfer syntax")
        if not self.is_native:
            for codestream in self.stored(numbers):
                frame = frame_of(codestream, UID(self.transfer_syntax))
                if frame is not None and (frame.rows, frame.columns) != (self.rows, self.columns):
                    raise DecodeError(
                        DecodeFailure.PIXEL_SIZE, "a codestream is not of the size that the data set says"
                    )
        ds = self.part10.dataset()
        decoder = decoder_of(self.transfer_syntax)
        for number in numbers:
            try:
                yield decoder.as_array(ds, index=number - 1)[0]
            except MemoryError:
                raise
            except Exception as error:  # decoders raise anything; their messages may quote the data set
                raise DecodeError(DecodeFailure.UNDECODABLE, f"the decoder failed ({type(error).__name__})") from error

    def encoded_values(self, numbers: list[int]) -> Iterator[bytes]:
        """Frames decoded by a codec, in little endian and BitsAllocated, colours as RGB. Raises DecodeError."""
        if self.bits < 8:
            raise DecodeError(DecodeFailure.UNDECODABLE, "single bits in an encapsulated transfer syntax")
        for values in self.values(numbers):
            kind = "i" if values.dtype.kind == "i" else "u"
            frame = np.ascontiguousarray(values, f"<{kind}{self.bits // 8}").tobytes()
            if len(frame) != self.frame_bytes:
                raise DecodeError(DecodeFailure.PIXEL_SIZE, "a decoded frame is not of the size that the data set says")
            yield frame
