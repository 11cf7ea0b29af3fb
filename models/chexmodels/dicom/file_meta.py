"""File Meta Information: group 0002 in front of a stored data set (PS3.10 section 7.1), found, read and written."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from io import BytesIO

from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from chexmodels.dicom.elements import LONG_VRS, Buffer
from chexmodels.dicom.errors import DecodeError, DecodeFailure

PREAMBLE = 128
LONGEST = 65_536
_UID = re.compile(rb"[0-9.]{1,64}")


def span(head: Buffer | bytearray, *, is_all: bool) -> tuple[int, int] | None:
    """Return where group 0002 begins and ends; its own length is often wrong. ``head``: the file's first bytes.

    None where more bytes are needed to tell, unless ``is_all`` of the file is there. Where the preamble is missing,
    group 0002 stands first. Raises :class:`DecodeError` (``malformed``).
    """
    if len(head) < PREAMBLE + 4 and not is_all:
        return None
    start = PREAMBLE + 4 if bytes(head[PREAMBLE : PREAMBLE + 4]) == b"DICM" else 0
    position = start
    while len(head) >= position + 8 and bytes(head[position : position + 2]) == b"\x02\x00":
        element = bytes(head[position : position + 12])
        if position > start and not element[4:6].isalpha():
            break  # of a data set in Implicit VR, in which group 0002 has no place
        is_long = element[4:6] in LONG_VRS
        position += (12 if is_long else 8) + int.from_bytes(element[8:12] if is_long else element[6:8], "little")
        if position > LONGEST:
            raise DecodeError(DecodeFailure.MALFORMED, "the file meta information is too long")
    if position == start and len(head) >= start + 12:
        raise DecodeError(
            DecodeFailure.MALFORMED, "not a DICOM file" if not start else "the file names no transfer syntax"
        )
    if len(head) >= position + 12 or (is_all and len(head) >= position > start):
        return start, position
    if is_all:
        raise DecodeError(
            DecodeFailure.MALFORMED, "the file meta information breaks off" if position else "not a DICOM file"
        )
    return None


def parse(encoded: bytes) -> FileMetaDataset:
    """Parse group 0002.

    Raises :class:`DecodeError` (``malformed``) where it does not name a transfer syntax.
    """
    try:
        file_meta = FileMetaDataset(read_dataset(BytesIO(encoded), False, True))
        named = isinstance(file_meta.TransferSyntaxUID, UID) and file_meta.TransferSyntaxUID
    except Exception as error:  # the parser's own exceptions are of any class
        raise DecodeError(DecodeFailure.MALFORMED, "the file names no transfer syntax") from error
    if not named:
        raise DecodeError(DecodeFailure.MALFORMED, "the file names no transfer syntax")
    return file_meta


def transfer_syntax(encoded: bytes) -> str:
    """Transfer Syntax UID of group 0002 as :func:`span` found it, and nothing else of it.

    Empty where only :func:`parse` can tell: it stands there more than once, or is no UID.
    """
    position, found = 0, list[bytes]()
    while position < len(encoded):
        element = encoded[position : position + 12]
        is_long = element[4:6] in LONG_VRS
        length = int.from_bytes(element[8:12] if is_long else element[6:8], "little")
        position += (12 if is_long else 8) + length
        if element[2:6] == b"\x10\0UI":
            found.append(encoded[position - length : position].removesuffix(b"\0"))
    return found[0].decode("ascii") if len(found) == 1 and _UID.fullmatch(found[0]) else ""


def prefix(values: Sequence[tuple[int, str, str]]) -> bytes:
    """Return preamble, ``DICM`` and group 0002 of version 1 with the (element, VR, text) of ``values``.

    Written here because UIDs may break the rules that pydicom enforces (such a data set is stored and quarantined), and
    because pydicom takes a millisecond for it, a third of what receiving an image takes.
    """
    body = struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1"
    for element, vr, text in values:
        value = text.encode("latin-1", "replace")
        if len(value) % 2:
            value += b"\0" if vr == "UI" else b" "
        body += struct.pack("<HH2sH", 0x0002, element, vr.encode(), len(value)) + value
    return bytes(PREAMBLE) + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(body)) + body
