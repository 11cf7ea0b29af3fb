"""Objects in Explicit VR Little Endian, decompressed, piece by piece: their pixels are never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import chain

from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.stored import Stored

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_LONGEST = 0xFFFFFFFE


def explicit_little(stored: Stored, decoder: Decoder) -> Iterator[bytes]:
    """The file in Explicit VR Little Endian. Raises DecodeError before the first piece wherever that is possible.

    What stands behind Pixel Data (padding, signatures, which no longer fit) is left out.
    """
    ds = stored.header
    if stored.part10.pixel_data is None:
        return iter([_encoded(ds)])
    image = stored.image
    if image.all_bytes > _LONGEST:  # PS3.18 section 8.7.8 note 1
        raise DecodeError(DecodeFailure.DECODE_LIMIT, "its pixels are too many for Explicit VR Little Endian")
    pieces = image.all_native() if image.is_native else decoder.frames(stored, [*range(1, image.frames + 1)])
    first = next(pieces)  # what cannot be decoded shows now, while that can still be said
    if not image.is_native:
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            ds.pop(keyword, None)
        if image.samples > 1:
            ds.PhotometricInterpretation = "RGB"
            ds.PlanarConfiguration = 0
    length = image.all_bytes + image.all_bytes % 2
    vr = b"OB" if image.bits <= 8 and image.transfer_syntax != ImplicitVRLittleEndian else b"OW"
    element = _PIXEL_DATA + vr + b"\0\0" + length.to_bytes(4, "little")
    padding = bytes(length - image.all_bytes)
    return chain([_encoded(ds) + element, first], pieces, [padding])


def _encoded(ds: Dataset) -> bytes:
    """The file up to Pixel Data."""
    try:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        buffer = BytesIO()
        dcmwrite(buffer, ds, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except Exception as error:  # values that the library cannot write again
        raise DecodeError(DecodeFailure.UNDECODABLE, f"it cannot be encoded again ({type(error).__name__})") from error
    return buffer.getvalue()
