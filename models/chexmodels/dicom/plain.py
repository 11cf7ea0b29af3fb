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

    The transfer syntax is the native one that the first element is in, if all elements up to Pixel Data can be walked
    in it. None where ``content`` has its ``DICM``, or is no such data set: compressed pixels name no codec.
    """
    if bytes(content[PREAMBLE : PREAMBLE + 4]) == b"DICM":
        return None
    if bytes(content[:6]) == _FILE_META:
        return bytes(PREAMBLE) + b"DICM" + bytes(content)
    names_vr = bytes(content[4:6]).isalpha() and bytes(content[4:6]).isupper()
    explicit = ExplicitVRBigEndian if content[:1] == b"\0" else ExplicitVRLittleEndian
    transfer_syntax_uid = explicit if names_vr else ImplicitVRLittleEndian
    encoding = encoding_of(transfer_syntax_uid)
    found = scan(content, encoding, limits.max_elements, limits.max_nesting, until_pixels=True)
    if found.broken or found.pixels is None or found.pixels.length == UNDEFINED:
        return None
    ds = dataset_of(content, found.elements.values(), encoding)
    classed, instance = uid(ds, "SOPClassUID"), uid(ds, "SOPInstanceUID")
    if not classed or not instance:
        return None
    names = [(0x0002, "UI", classed), (0x0003, "UI", instance), (0x0010, "UI", transfer_syntax_uid)]
    return prefix(names) + bytes(content)
