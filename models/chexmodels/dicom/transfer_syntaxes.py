"""Transfer syntaxes (PS3.5 section 10 and annex A) by what reading a data set and its pixels needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

#: Pixel Data as it is.
NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
)
#: The whole data set is deflated: PS3.5 A.5, A.7 and the JPIP HTJ2K one.
DEFLATED = frozenset({DeflatedExplicitVRLittleEndian, UID("1.2.840.10008.1.2.4.95"), UID("1.2.840.10008.1.2.4.205")})
#: Fragments of uncompressed pixels (PS3.5 A.4.11).
ENCAPSULATED_UNCOMPRESSED = UID("1.2.840.10008.1.2.1.98")
JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1})
JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
JPEG_2000 = frozenset({JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})
#: Encapsulated, with a decoder here.
DECODED = frozenset({RLELossless}) | JPEG | JPEG_LS | JPEG_2000
#: Compressed with loss, whatever the header says.
LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
#: With loss or without.
PERHAPS_LOSSY = frozenset({JPEG2000, HTJ2K})

_GE_PRIVATE = "1.2.840.113619.5.2"  # Implicit VR, only the pixels big endian


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is encoded."""

    implicit: bool
    little: bool
    encapsulated: bool | None
    """Whether Pixel Data is encapsulated; None where the transfer syntax is unknown."""


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How a data set of this transfer syntax is encoded; private ones are taken for Explicit VR Little Endian."""
    known = transfer_syntax_uid.startswith("1.2.840.10008.")
    return Encoding(
        implicit=transfer_syntax_uid in (ImplicitVRLittleEndian, _GE_PRIVATE),
        little=transfer_syntax_uid != ExplicitVRBigEndian,
        encapsulated=transfer_syntax_uid not in NATIVE if known else None,
    )
