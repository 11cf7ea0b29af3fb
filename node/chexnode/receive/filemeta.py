"""The preamble and file meta information in front of a stored data set (PS3.10 section 7.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from chexmodels.dicom.elements import Buffer
from chexmodels.dicom.file_meta import prefix
from chexnode.dimse.pdus import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


@dataclass(frozen=True, slots=True)
class Announced:
    """What a sender says of a data set before it comes."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str = ""
    """Of the study it must belong to; empty: any."""


def file_prefix(announced: Announced, calling_ae_title: str) -> bytes:
    """Preamble and file meta information of what is stored as it comes."""
    return prefix(
        (
            (0x0002, "UI", announced.sop_class_uid),
            (0x0003, "UI", announced.sop_instance_uid),
            (0x0010, "UI", announced.transfer_syntax_uid),
            (0x0012, "UI", IMPLEMENTATION_CLASS_UID),
            (0x0013, "SH", IMPLEMENTATION_VERSION_NAME),
            (0x0016, "AE", calling_ae_title),
        )
    )


def read_prefix(content: Buffer) -> tuple[Announced, str, int]:
    """What :func:`file_prefix` wrote: what was announced, the calling AE title, and where the data set begins.

    Raises ValueError where ``content`` begins with anything else.
    """
    values: dict[int, str] = {}
    if len(content) < 144 or bytes(content[128:140]) != b"DICM" + struct.pack("<HH2sH", 2, 0, b"UL", 4):
        raise ValueError("not a file of ours")
    position, end = 144, 144 + int.from_bytes(content[140:144], "little")
    while position < min(end, len(content) - 8):
        _, element, vr, length = struct.unpack_from("<HH2sH", content, position)
        position += 8
        if vr == b"OB":
            length = int.from_bytes(content[position : position + 4], "little")
            position += 4
        values[element] = bytes(content[position : position + length]).decode("latin-1").rstrip("\0 ")
        position += length
    if position != end or not {0x0002, 0x0003, 0x0010} <= values.keys():
        raise ValueError("not a file of ours")
    return Announced(values[0x0002], values[0x0003], values[0x0010]), values.get(0x0016, ""), end
