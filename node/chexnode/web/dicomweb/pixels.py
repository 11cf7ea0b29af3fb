"""Frames: as they are stored, decoded, and whole objects in Explicit VR Little Endian.

Whatever a codestream says of its own size is compared with the data set's before a decoder runs, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from chexmodels.codestream import frame_of
from chexmodels.decode import decode
from chexmodels.part10 import DecodeError, Part10
from chexnode.web.dicomweb.shelf import header_of

#: Media types of encapsulated transfer syntaxes (PS3.18 table 8.7.3-5).
_IMAGE_TYPES = {
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
_NATIVE = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
)  # fmt: skip


def image_type(transfer_syntax_uid: str) -> str | None:
    """The media type of one frame of this transfer syntax; None where it has none."""
    return _IMAGE_TYPES.get(transfer_syntax_uid)


def can_decode(transfer_syntax_uid: str) -> bool:
    """Whether there is a decoder, or none is needed."""
    return transfer_syntax_uid in _NATIVE or transfer_syntax_uid in _IMAGE_TYPES


class Image:
    """The pixels of one object. Raises DecodeError where it has none, or its attributes are impossible."""

    def __init__(self, part10: Part10, max_pixels: int) -> None:
        if part10.layout.pixel_data is None:
            raise DecodeError("undecodable", "the object has no pixels")
        self.part10 = part10
        self.max_pixels = max_pixels
        self.ds = header_of(part10)
        self.transfer_syntax = str(part10.file_meta.TransferSyntaxUID)
        self.is_native = self.transfer_syntax in _NATIVE
        try:
            self.rows, self.columns = int(self.ds.Rows), int(self.ds.Columns)
            self.samples = int(self.ds.get("SamplesPerPixel") or 1)
            self.bits = int(self.ds.BitsAllocated)
            self.frames = int(self.ds.get("NumberOfFrames") or 1)
        except (AttributeError, TypeError, ValueError) as error:
            raise DecodeError("undecodable", "the Image Pixel attributes are impossible") from error
        if min(self.rows, self.columns, self.frames) < 1 or self.bits not in (1, 8, 16, 32, 64) or self.samples > 4:
            raise DecodeError("undecodable", "the Image Pixel attributes are impossible")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return (self.rows * self.columns * self.samples * self.bits + 7) // 8

    def stored(self, numbers: list[int]) -> Iterator[bytes]:
        """Encapsulated frames as they are stored, by number from 1, in the order given. Raises DecodeError."""
        assert self.part10.layout.pixel_data is not None
        start, end = self.part10.layout.pixel_data
        if numbers == [*range(1, self.frames + 1)]:
            yield from self._all(start, end)
            return
        kept: dict[int, bytes] = {}
        for number, frame in enumerate(self._all(start, end), 1):
            if number in numbers:
                kept[number] = frame
        for number in numbers:
            if number not in kept:
                raise DecodeError("undecodable", "the object has fewer frames than it says")
            yield kept[number]

    def _all(self, start: int, end: int) -> Iterator[bytes]:
        try:
            yield from generate_frames(bytes(self.part10.encoded[start:end]), number_of_frames=self.frames)
        except DecodeError:
            raise
        except Exception as error:  # the parser's own exceptions are of any class
            raise DecodeError("undecodable", "Pixel Data is not a sequence of frames") from error

    def native(self, numbers: list[int]) -> Iterator[bytes]:
        """Decoded frames in little endian, by number from 1, colours as RGB. Raises DecodeError."""
        if not self.is_native:
            for values in self.values(numbers):
                yield values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
            return
        assert self.part10.layout.pixel_data is not None
        start, end = self.part10.layout.pixel_data
        if max(numbers) * self.rows * self.columns * self.samples * self.bits > (end - start) * 8:
            raise DecodeError("pixel-size", "Pixel Data is shorter than its frames")
        for number in numbers:
            yield self._slice(number)

    def _slice(self, number: int) -> bytes:
        assert self.part10.layout.pixel_data is not None
        start, end = self.part10.layout.pixel_data
        pixels = self.part10.encoded
        if self.bits == 1 and (self.rows * self.columns) % 8:  # frames begin inside bytes (PS3.5 section 8.1.1)
            size = self.rows * self.columns
            first = (number - 1) * size
            piece = np.frombuffer(
                bytes(pixels[start + first // 8 : min(end, start + (first + size + 7) // 8)]), np.uint8
            )
            bits = np.unpackbits(piece, bitorder="little")[first % 8 : first % 8 + size]
            return np.packbits(bits, bitorder="little").tobytes()
        begin = start + (number - 1) * self.frame_bytes
        frame = bytes(pixels[begin : begin + self.frame_bytes])
        if self.transfer_syntax == ExplicitVRBigEndian and self.bits > 8:
            return np.frombuffer(frame, f">u{self.bits // 8}").astype(f"<u{self.bits // 8}").tobytes()
        return frame

    def values(self, numbers: list[int]) -> Iterator[NDArray[Any]]:
        """Stored values, ``(Rows, Columns)`` or ``(Rows, Columns, 3)`` RGB. Raises DecodeError."""
        if self.rows * self.columns > self.max_pixels:
            raise DecodeError("decode-limit", f"more than {self.max_pixels} pixels")
        if self.samples == 1 and self.frames == 1 and self.bits >= 8:
            yield from (decode(self.part10.dataset(), self.max_pixels) for _ in numbers)
            return
        if not can_decode(self.transfer_syntax):
            raise DecodeError("undecodable", "no decoder for this transfer syntax")
        if not self.is_native:
            for codestream in self.stored(numbers):
                frame = frame_of(codestream, UID(self.transfer_syntax))
                if frame is not None and (frame.rows, frame.columns) != (self.rows, self.columns):
                    raise DecodeError("pixel-size", "a codestream is not of the size that the data set says")
        ds = self.part10.dataset()
        decoder = get_decoder(UID(self.transfer_syntax))
        for number in numbers:
            try:
                yield decoder.as_array(ds, index=number - 1)[0]
            except Exception as error:  # decoders raise anything; their messages may quote the data set
                raise DecodeError("undecodable", f"the decoder failed ({type(error).__name__})") from error


def explicit_little(part10: Part10, max_pixels: int) -> bytes:
    """The object as a file in Explicit VR Little Endian, decompressed. Raises DecodeError."""
    ds = part10.dataset()
    try:
        if part10.layout.pixel_data is not None:
            _decompress(ds, Image(part10, max_pixels))
        elif ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
            _swap(ds)
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        buffer = BytesIO()
        ds.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except DecodeError:
        raise
    except Exception as error:  # values that the library cannot write again
        raise DecodeError("undecodable", f"it cannot be encoded again ({type(error).__name__})") from error
    return buffer.getvalue()


def _decompress(ds: Dataset, image: Image) -> None:
    if image.is_native:
        if image.transfer_syntax == ExplicitVRBigEndian:
            _swap(ds)
        return
    frames = [*image.values([*range(1, image.frames + 1)])]
    values = np.stack(frames)
    if values.dtype.itemsize * 8 != image.bits:
        values = values.astype(f"<u{image.bits // 8}" if values.dtype.kind == "u" else f"<i{image.bits // 8}")
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if image.bits > 8 else "OB"
    ds["PixelData"].is_undefined_length = False
    if image.samples > 1:
        ds.PhotometricInterpretation = "RGB"
        ds.PlanarConfiguration = 0


def _swap(ds: Dataset) -> None:
    """Turn words of big endian into little (PS3.5 section 7.3); single values the library swaps itself."""
    sizes = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
    for one in ds.iterall():
        size = sizes.get(one.VR)
        if size and isinstance(one.value, bytes) and len(one.value) % size == 0:
            one.value = np.frombuffer(one.value, f">u{size}").astype(f"<u{size}").tobytes()
