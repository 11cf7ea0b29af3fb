"""JPEG frames (ITU-T T.81) decoded by libjpeg-turbo, as pydicom's plugin for these transfer syntaxes.

One library for all JPEG processes of DICOM (PS3.5 section 8.2.1): 8 and 12 bits with loss, 2 to 16 bits without.
"""

from __future__ import annotations

from functools import cache

from imagecodecs import jpeg8_decode
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder
from pydicom.uid import UID

from chexmodels.dicom.transfer_syntaxes import JPEG

DECODER_DEPENDENCIES = {uid: ("imagecodecs",) for uid in JPEG}
"""What pydicom names where a plugin is not available."""


def is_available(uid: str) -> bool:
    """Whether frames of this transfer syntax are decoded here; pydicom asks."""
    return uid in JPEG


def decode_frame(codestream: bytes, runner: DecodeRunner) -> bytes:
    """The samples of ``codestream``, one pixel after the other, in bytes up to 8 bits and little endian words above.

    Colours stay as they are in the codestream: Photometric Interpretation says what they are, not the markers of JFIF
    or Adobe. Raises what the binding of libjpeg-turbo raises.
    """
    space = "RGB" if runner.samples_per_pixel == 3 else None
    samples = jpeg8_decode(codestream, colorspace=space, outcolorspace=space)
    runner.set_option("bits_allocated", samples.itemsize * 8)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    return bytes(samples.data)


@cache
def decoder_of(transfer_syntax_uid: str) -> Decoder:
    """pydicom's decoder; of JPEG one that knows this plugin alone: what it refuses no more lenient one is asked for.

    Raises NotImplementedError for a transfer syntax that pydicom has no decoder of.
    """
    uid = UID(transfer_syntax_uid)
    if uid not in JPEG:
        return get_decoder(uid)
    decoder = Decoder(uid)
    decoder.add_plugin("libjpeg-turbo", (__name__, decode_frame.__name__))
    return decoder
