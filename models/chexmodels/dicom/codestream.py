"""What a compressed frame says of itself, read before any decoder sees it.

A forged header of 2 kB makes a decoder allocate gigabytes; the sizes in the codestream are therefore compared with the
data set's first. JPEG: ITU-T T.81 B.2.2; JPEG-LS: T.87 C.2.2; JPEG 2000: T.800 A.5.1 and I.4; RLE: PS3.5 annex G.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import error as StructError
from struct import unpack_from

from pydicom.uid import RLELossless

from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.transfer_syntaxes import JPEG, JPEG_2000, JPEG_LS

#: Start-of-frame markers: FFC0 to FFCF without DHT, JPG and DAC; SOF55 is JPEG-LS's.
_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_LS_SOF = frozenset({0xF7})
_SOS = 0xDA
_MOST_TILES = 65_535


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of one frame as its codestream tells it."""

    rows: int
    columns: int
    components: int
    precision: int
    """Bits per sample."""
    is_signed: bool | None = None
    """Whether samples are signed; None where the format does not say."""


def frame_of(codestream: bytes, transfer_syntax_uid: str) -> Frame | None:
    """Read the frame header of ``codestream``; None for RLE, whose codestream tells no rows and columns.

    Raises :class:`DecodeError` (``undecodable``) where the codestream is not of the transfer syntax, or none that this
    node can decode.
    """
    try:
        if transfer_syntax_uid in JPEG:
            return _jpeg(codestream, _JPEG_SOF)
        if transfer_syntax_uid in JPEG_LS:
            return _jpeg(codestream, _JPEG_LS_SOF)
        if transfer_syntax_uid in JPEG_2000:
            return _jpeg_2000(codestream)
    except StructError as error:
        raise DecodeError(DecodeFailure.UNDECODABLE, "the codestream breaks off in its header") from error
    if transfer_syntax_uid == RLELossless:
        return None
    raise DecodeError(DecodeFailure.UNDECODABLE, "no decoder for this transfer syntax")


def _jpeg(codestream: bytes, start_of_frame: frozenset[int]) -> Frame:
    if codestream[:2] != b"\xff\xd8":
        raise DecodeError(DecodeFailure.UNDECODABLE, "the codestream does not start like JPEG")
    position = 2
    while True:
        prefix, marker = unpack_from(">BB", codestream, position)
        if prefix != 0xFF or marker == _SOS:
            raise DecodeError(DecodeFailure.UNDECODABLE, "the JPEG codestream has no frame header")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in start_of_frame:
            precision, rows, columns, components = unpack_from(">BHHB", codestream, position + 4)
            return Frame(rows, columns, components, precision)
        (length,) = unpack_from(">H", codestream, position + 2)
        position += 2 + max(2, length)


def _jpeg_2000(codestream: bytes) -> Frame:
    start = _contiguous_codestream(codestream)
    soc, siz = unpack_from(">HH", codestream, start)
    if (soc, siz) != (0xFF4F, 0xFF51):
        raise DecodeError(DecodeFailure.UNDECODABLE, "the codestream does not start like JPEG 2000")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = unpack_from(">8IH", codestream, start + 8)
    depth, sub_x, sub_y = unpack_from(">BBB", codestream, start + 42)
    if not (tile_x and tile_y and x1 > x0 >= tile_x0 and y1 > y0 >= tile_y0) or (sub_x, sub_y) != (1, 1):
        raise DecodeError(DecodeFailure.UNDECODABLE, "the JPEG 2000 image and tile sizes are impossible")
    if -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y) > _MOST_TILES:
        raise DecodeError(DecodeFailure.UNDECODABLE, "more JPEG 2000 tiles than the format allows")
    return Frame(y1 - y0, x1 - x0, components, (depth & 0x7F) + 1, bool(depth & 0x80))


def _contiguous_codestream(data: bytes) -> int:
    """Offset of the codestream, past the boxes of a JP2 file where somebody stored a whole one."""
    if data[4:8] != b"jP  ":
        return 0
    position = 0
    while True:
        length, kind = unpack_from(">I4s", data, position)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if length < 8:
            raise DecodeError(DecodeFailure.UNDECODABLE, "the JP2 file has no codestream")
        position += length


def check_rle(frame: bytes, bytes_per_pixel: int) -> None:
    """Check the header of an RLE frame of one sample per pixel (PS3.5 G.5).

    Raises :class:`DecodeError` (``undecodable``).
    """
    if len(frame) < 64:
        raise DecodeError(DecodeFailure.UNDECODABLE, "the RLE header breaks off")
    count, *offsets = unpack_from("<16I", frame)
    if count != bytes_per_pixel:
        raise DecodeError(DecodeFailure.UNDECODABLE, f"{count} RLE segments where {bytes_per_pixel} belong")
    used = offsets[:count]
    if used[0] != 64 or sorted(set(used)) != used or used[-1] >= len(frame):
        raise DecodeError(DecodeFailure.UNDECODABLE, "the RLE segments overlap or lie outside the frame")
