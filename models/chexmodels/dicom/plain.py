"""Data sets in files without preamble and file meta information, as archives exported them before PS3.10."""

from __future__ import annotations

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from chexmodels.dicom.elements import UNDEFINED, Buffer, dataset_of, scan
from chexmodels.dicom.file_meta import PREAMBLE, prefix
from chexmodels.dicom.part10 import ReadLimits
from chexmodels.dicom.transfer_syntaxes import encoding_of
from chexmodels.dicom.values import uid

_FILE_META = b"\x02\x00\x00\x00UL"


def as_part10(content: Buffer, limits: ReadLimits) -> bytes | None:
    """Return ``content`` as a DICOM file (PS3.10) where it lacks the preamble, or all that stands before the data set.

    The transfer syntax is the one of the native ones in which all elements up to Pixel Data can be walked. None where
    ``content`` has its ``DICM``, or is no data set of which that can be told: compressed pixels name no codec.
    """
    if bytes(content[PREAMBLE : PREAMBLE + 4]) == b"DICM":
        return None
    if bytes(content[:6]) == _FILE_META:
        return bytes(PREAMBLE) + b"DICM" + bytes(content)
    for transfer_syntax_uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        encoding = encoding_of(transfer_syntax_uid)
        found = scan(content, encoding, limits.max_elements, limits.max_nesting, until_pixels=True)
        if found.broken or found.pixels is None or found.pixels.length == UNDEFINED:
            continue
        ds = dataset_of(content, found.elements.values(), encoding)
        classed, instance = uid(ds, "SOPClassUID"), uid(ds, "SOPInstanceUID")
        if classed and instance:
            names = [(0x0002, "UI", classed), (0x0003, "UI", instance), (0x0010, "UI", transfer_syntax_uid)]
            return prefix(names) + bytes(content)
    return None
