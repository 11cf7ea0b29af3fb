"""Pixel Data to stored pixel values, in this process.

Codecs without GPL: pydicom's own for native and RLE, libjpeg-turbo for JPEG, OpenJPEG for JPEG 2000, CharLS for
JPEG-LS. Whatever the codestream says of its own size is compared with the data set's before a
decoder runs; where it says another depth or sign, the codestream is right. Decoders are native code and this function
trusts them: strangers' files belong in the node's sandbox.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_fragments
from pydicom.uid import UID, ExplicitVRLittleEndian

from chexmodels.dicom.codestream import Frame, check_rle, frame_of
from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.jpeg import decoder_of
from chexmodels.dicom.overlays import has_embedded_overlay
from chexmodels.dicom.part10 import ReadLimits
from chexmodels.dicom.transfer_syntaxes import ENCAPSULATED_UNCOMPRESSED
from chexmodels.dicom.values import integer, texts, unsigned

_MAX_PIXELS = ReadLimits().max_pixels
_DEEPEST = 16
"""Bits of the deepest samples that are decoded from a codestream."""


def decode(ds: Dataset, max_pixels: int = _MAX_PIXELS) -> NDArray[np.integer]:
    """Decode the one frame of a monochrome data set that has ``file_meta``.

    Returns stored values (PS3.5 section 8), ``(Rows, Columns)``, an integer dtype of 8, 16 or 32 bits.
    Raises :class:`DecodeError`: ``pixel-size`` where Pixel Data and the Image Pixel attributes contradict each other,
    ``decode-limit`` for more than ``max_pixels`` pixels or frames, ``undecodable`` otherwise.
    """
    rows, columns, bits_allocated, bits_stored = (
        unsigned(ds, keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored")
    )
    if not rows or not columns or bits_allocated not in (8, 16, 32) or not 1 <= bits_stored <= bits_allocated:
        raise DecodeError(DecodeFailure.UNDECODABLE, "the Image Pixel attributes are impossible")
    if unsigned(ds, "SamplesPerPixel") != 1:
        raise DecodeError(DecodeFailure.UNDECODABLE, "more than one sample per pixel")
    if (integer(ds, "NumberOfFrames") if texts(ds, "NumberOfFrames") else 1) not in (
        0,
        1,
    ):  # 0 is what a sender writes that counts no frames
        raise DecodeError(DecodeFailure.DECODE_LIMIT, "more than one frame")
    if rows * columns > max_pixels:
        raise DecodeError(DecodeFailure.DECODE_LIMIT, f"{rows} x {columns} pixels; at most {max_pixels} are decoded")
    transfer_syntax_uid = UID(str(ds.file_meta.get("TransferSyntaxUID", "")))
    if not transfer_syntax_uid.is_transfer_syntax:
        raise DecodeError(DecodeFailure.UNDECODABLE, "no decoder for this transfer syntax")
    high_bit = unsigned(ds, "HighBit")
    high_bit = bits_stored - 1 if high_bit is None else high_bit
    if high_bit >= bits_allocated:
        raise DecodeError(DecodeFailure.UNDECODABLE, "the Image Pixel attributes are impossible")
    image = _image(ds)
    frame = None
    if transfer_syntax_uid == ENCAPSULATED_UNCOMPRESSED:
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = transfer_syntax_uid = ExplicitVRLittleEndian
        image.add_new("PixelData", "OW", _codestream(ds))
    elif transfer_syntax_uid.is_encapsulated:
        codestream = _codestream(ds)
        frame = _checked_frame(codestream, transfer_syntax_uid, rows, columns, bits_allocated)
    if not transfer_syntax_uid.is_encapsulated:
        native = image.get("PixelData") or b""
        _check_length(native, rows, columns, bits_allocated // 8)
        image.add_new("PixelData", "OW", native[: rows * columns * bits_allocated // 8])
    is_shifted = high_bit >= bits_stored and frame is None
    if is_shifted:  # the decoder would drop the upper bits
        image.BitsStored = bits_allocated
    elif frame is not None:
        _follow(image, frame, keeps_bits=has_embedded_overlay(ds))
    try:
        pixels = decoder_of(transfer_syntax_uid).as_array(image, raw=True)[0]
        if is_shifted:
            pixels = _aligned(pixels, high_bit, bits_stored, image.PixelRepresentation == 1)
    except MemoryError as error:
        raise DecodeError(DecodeFailure.DECODE_LIMIT, "out of memory while decoding") from error
    except Exception as error:  # decoders raise anything; their messages may quote the data set
        raise DecodeError(DecodeFailure.UNDECODABLE, f"the decoder failed ({type(error).__name__})") from error
    if pixels.shape != (rows, columns) or not np.issubdtype(pixels.dtype, np.integer):
        raise DecodeError(DecodeFailure.PIXEL_SIZE, f"decoded to {pixels.shape} instead of {(rows, columns)}")
    return cast("NDArray[np.integer]", pixels)


def _aligned(pixels: NDArray[Any], high_bit: int, bits_stored: int, is_signed: bool) -> NDArray[Any]:
    """Samples whose highest bit is ``high_bit`` (PS3.5 8.1.1), moved down to bit 0; other bits are dropped."""
    width = pixels.dtype.itemsize * 8
    kind = "i" if is_signed else "u"
    raised = pixels.view(f"{pixels.dtype.str[0]}u{pixels.dtype.itemsize}") << (width - 1 - high_bit)
    return raised.view(f"{pixels.dtype.str[0]}{kind}{pixels.dtype.itemsize}") >> (width - bits_stored)


def _image(ds: Dataset) -> Dataset:
    """The Image Pixel attributes as a decoder wants them, whatever their padding and case, and the pixels."""
    image = Dataset()
    image.file_meta = ds.file_meta
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        setattr(image, keyword, unsigned(ds, keyword))
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    if "PixelData" in ds:
        image["PixelData"] = ds["PixelData"]
    return image


def _follow(image: Dataset, frame: Frame, *, keeps_bits: bool) -> None:
    """Let ``image`` say the depth and sign that its codestream has, which are right (PS3.5 8.2).

    ``keeps_bits``: the bits above Bits Stored are an overlay. The depth of signed samples whose format knows no sign
    stays, because the header alone says which bit is the sign's.
    """
    image.BitsAllocated = 8 if frame.precision <= 8 else 16
    if frame.is_signed is not None:
        image.PixelRepresentation = int(frame.is_signed)
    if not keeps_bits and (frame.is_signed is not None or image.PixelRepresentation == 0):
        image.BitsStored = frame.precision
    image.BitsStored = min(image.BitsStored, image.BitsAllocated)


def _codestream(ds: Dataset) -> bytes:
    """Join the fragments of the one frame (PS3.5 A.4)."""
    try:
        _offsets, *fragments = generate_fragments(ds.PixelData)
    except Exception as error:
        raise DecodeError(DecodeFailure.UNDECODABLE, "Pixel Data is not a sequence of fragments") from error
    return b"".join(fragments)


def _checked_frame(
    codestream: bytes, transfer_syntax_uid: UID, rows: int, columns: int, bits_allocated: int
) -> Frame | None:
    """Return what the codestream says of itself, None for RLE. Raises DecodeError where it cannot be of this image."""
    if not codestream:
        raise DecodeError(DecodeFailure.UNDECODABLE, "Pixel Data has no fragment with content")
    frame = frame_of(codestream, transfer_syntax_uid)
    if frame is None:
        check_rle(codestream, bits_allocated // 8)
    elif (frame.rows, frame.columns) != (rows, columns):
        raise DecodeError(
            DecodeFailure.PIXEL_SIZE,
            f"the codestream is {frame.rows} x {frame.columns}, Rows x Columns {rows} x {columns}",
        )
    elif frame.components != 1 or frame.precision > _DEEPEST:
        raise DecodeError(
            DecodeFailure.PIXEL_SIZE, f"the codestream has {frame.components} components of {frame.precision} bits"
        )
    return frame


def _check_length(pixel_data: bytes, rows: int, columns: int, bytes_allocated: int) -> None:
    """Native Pixel Data holds the image; receivers accept padding behind it (PS3.5 8.1.1).

    More than that, and as much as other Columns, Bits Allocated or frames would have, is a contradiction unless it is
    all of one value: the image would be sheared.
    """
    expected = rows * columns * bytes_allocated
    excess = pixel_data[expected:]
    other_image = (
        len(excess) >= max(2, columns * bytes_allocated)
        and len(excess) // 2 * 2 % (rows * bytes_allocated) == 0
        and excess.strip(excess[:1]) != b""
    )
    if len(pixel_data) < expected or other_image:
        raise DecodeError(DecodeFailure.PIXEL_SIZE, f"Pixel Data has {len(pixel_data)} bytes where {expected} belong")
