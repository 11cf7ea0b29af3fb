"""What the fuzzer starts from: small radiographs in every transfer syntax, and the hostile files that others made.

No image of any person is in it, but for the files under CHEXNODE_SHARED where there are some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from support.radiographs import part10, picture, radiograph
from support.senders import Part10, take_apart

SHAPE = (96, 80)
_LARGEST = 100_000
_UID = b"1.2.826.0.1.3680043.8.498.1000000000"


def images() -> list[Part10]:
    """One radiograph in each transfer syntax, and one with everything a header may hold."""
    made = [radiograph(kind, SHAPE) for kind in ("CR", "DX", "SC")]
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        made.append(_in_syntax(syntax, radiograph("DX", SHAPE)))
    for syntax in (RLELossless, JPEGLSLossless):
        ds = radiograph("CR", SHAPE)
        ds.compress(syntax, generate_instance_uid=False)
        made.append(ds)
    made.append(_in_syntax(JPEG2000Lossless, radiograph("CR", SHAPE, PixelData=encapsulate([_jpeg_2000()]))))
    made.append(_in_syntax(JPEGBaseline8Bit, radiograph("CR", SHAPE, PixelData=encapsulate([_jpeg()]))))
    made.append(_rich())
    for ds in made:
        ds.SOPInstanceUID = _UID.decode()
    return [take_apart(part10(ds)) for ds in made]


def hostile(folder: Path) -> list[Part10]:
    """The small files under ``folder``, real and forged; none where there is no such folder."""
    paths = sorted(folder.rglob("*.dcm")) if folder.is_dir() else []
    return [take_apart(path.read_bytes()) for path in paths if path.stat().st_size <= _LARGEST]


def renamed(part: Part10, number: int) -> Part10:
    """``part`` under a SOP Instance UID of its own where it is one of :func:`images` and not deflated."""
    uid = f"{_UID[:-10].decode()}{1_000_000_000 + number}"
    if _UID not in part.data:
        return part
    return replace(part, sop_instance_uid=uid, data=part.data.replace(_UID, uid.encode()))


def _in_syntax(syntax: UID, ds: Dataset) -> Dataset:
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def _jpeg() -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture(SHAPE)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _jpeg_2000() -> bytes:
    return bytes(encode_array(np.ascontiguousarray(picture(SHAPE))))


def _rich() -> Dataset:
    """Nested sequences, private elements, look-up tables, patient geometry, a character set with code extensions."""
    ds = radiograph("DX", SHAPE, SpecificCharacterSet=["ISO 2022 IR 6", "ISO 2022 IR 87"])
    ds.PatientName = "Yamada^Tarou=山田^太郎"
    ds.PatientComments, ds.PatientAge, ds.PatientSex = "line\r\nline", "061Y", "F"
    ds.PixelSpacing = ds.ImagerPixelSpacing
    ds.FrameOfReferenceUID = "1.2.3.4"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 0, -1]
    ds.WindowCenter, ds.WindowWidth = [128, 100], [256, 50]
    ds.VOILUTSequence = [_table()]
    request = Dataset()
    request.RequestedProcedurePriority, request.RequestedProcedureDescription = "STAT", "Chest"
    request.ReferencedStudySequence = [Dataset()]
    ds.RequestAttributesSequence = [request]
    block = ds.private_block(0x0019, "FUZZ", create=True)
    block.add_new(1, "LO", "private")
    block.add_new(2, "SQ", [_table()])
    return ds


def _table() -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table["LUTDescriptor"].VR = "US"
    table.add_new(0x00283006, "OW", np.arange(256, dtype="<u2").tobytes())
    return table


def pick(parts: Sequence[Part10], number: int) -> Part10:
    """The ``number``-th part, over and over."""
    return parts[number % len(parts)]
