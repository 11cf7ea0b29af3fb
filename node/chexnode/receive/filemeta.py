"""The preamble and file meta information in front of a stored data set (PS3.10 section 7.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION


@dataclass(frozen=True, slots=True)
class Announced:
    """What a sender says of a data set before it comes."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str = ""
    """Of the study it must belong to; empty: any."""


def file_prefix(announced: Announced, calling_ae_title: str) -> bytes:
    """Preamble of zeros, ``DICM`` and group 0002, in Explicit VR Little Endian.

    Written here because the UIDs may break the rules that pydicom enforces: such a data set is stored and quarantined.
    """
    body = (
        _long(0x0001, b"OB", b"\0\1")
        + _short(0x0002, b"UI", announced.sop_class_uid)
        + _short(0x0003, b"UI", announced.sop_instance_uid)
        + _short(0x0010, b"UI", announced.transfer_syntax_uid)
        + _short(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID)
        + _short(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION)
        + _short(0x0016, b"AE", calling_ae_title)
    )
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(body))
    return bytes(128) + b"DICM" + length + body


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _long(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHL", 0x0002, element, vr, 0, len(value)) + value
