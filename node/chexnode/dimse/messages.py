"""Command sets of storage and storage commitment (PS3.7 section 6.3 and annex E): always Implicit VR Little Endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_ELEMENT = struct.Struct("<HHL")

# Command Field (0000,0100), PS3.7 E.1
C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
N_EVENT_REPORT_RQ = 0x0100
N_ACTION_RQ = 0x0130
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000

_NO_DATA_SET = 0x0101
_ERROR_COMMENT_LENGTH = 64


class Status(IntEnum):
    """The statuses this SCP answers with."""

    SUCCESS = 0x0000
    """PS3.7 annex C, PS3.4 B.2.3: the file is durable and its row committed, or both were before."""
    PROCESSING_FAILURE = 0x0110
    """PS3.7 annex C: a fault of this node."""
    NO_SUCH_ACTION = 0x0123
    """PS3.7 annex C: an N-ACTION that is no request for storage commitment."""
    UNRECOGNISED_OPERATION = 0x0211
    """PS3.7 annex C: anything but C-ECHO, C-STORE, and N-ACTION and N-EVENT-REPORT of storage commitment."""
    OUT_OF_RESOURCES = 0xA700
    """PS3.4 B.2.3: the disk is low, the database is down, or the object is larger than the limit."""
    DATA_SET_MISMATCH = 0xA900
    """PS3.4 B.2.3: the data set's SOP Class or Instance UID is not the one it was announced under."""
    CANNOT_UNDERSTAND = 0xC000
    """PS3.4 B.2.3: the data set, or a UID that identifies it, cannot be read."""


class CommandError(ValueError):
    """The command set cannot be read."""


@dataclass(frozen=True, slots=True)
class Command:
    """The elements of a request that matter here."""

    field: int
    message_id: int
    has_data_set: bool
    affected_sop_class_uid: str
    """Of an N-ACTION: the requested one."""
    affected_sop_instance_uid: str
    """Of an N-ACTION: the requested one."""
    type_id: int | None = None
    """Action or Event Type ID."""


def read_command(data: bytes) -> Command:
    """Parse an encoded command set. Raises :class:`CommandError`."""
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + 8 > len(data):
            raise CommandError("an element is cut short")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += 8
        if group != 0 or position + length > len(data):
            raise CommandError("an element is not of group 0000 or is cut short")
        elements[element] = data[position : position + length]
        position += length
    field = _us(elements, 0x0100)
    if field is None:
        raise CommandError("no Command Field")
    return Command(
        field,
        _us(elements, 0x0110) or 0,
        _us(elements, 0x0800) not in (None, _NO_DATA_SET),
        _ui(elements, 0x0002) or _ui(elements, 0x0003),
        _ui(elements, 0x1000) or _ui(elements, 0x1001),
        _us(elements, 0x1008) or _us(elements, 0x1002),
    )


def write_response(command: Command, status: int, comment: str = "") -> bytes:
    """Encode the response to ``command``, without data set; ``comment`` becomes Error Comment (0000,0902)."""
    body = b""
    if command.affected_sop_class_uid:
        body += _element(0x0002, _padded(command.affected_sop_class_uid, b"\0"))
    body += _element(0x0100, struct.pack("<H", command.field | RESPONSE))
    body += _element(0x0120, struct.pack("<H", command.message_id))
    body += _element(0x0800, struct.pack("<H", _NO_DATA_SET))
    body += _element(0x0900, struct.pack("<H", status))
    if comment:
        body += _element(0x0902, _padded(comment[:_ERROR_COMMENT_LENGTH], b" "))
    if command.affected_sop_instance_uid:
        body += _element(0x1000, _padded(command.affected_sop_instance_uid, b"\0"))
    if command.type_id is not None and status == Status.SUCCESS:
        body += _element(0x1002 if command.field == N_EVENT_REPORT_RQ else 0x1008, struct.pack("<H", command.type_id))
    return _element(0x0000, struct.pack("<L", len(body))) + body


def write_event_report(sop_class_uid: str, sop_instance_uid: str, message_id: int, event_type: int) -> bytes:
    """Encode an N-EVENT-REPORT request (PS3.7 table 10.3-1), whose data set follows."""
    body = _element(0x0002, _padded(sop_class_uid, b"\0"))
    body += _element(0x0100, struct.pack("<H", N_EVENT_REPORT_RQ))
    body += _element(0x0110, struct.pack("<H", message_id))
    body += _element(0x0800, struct.pack("<H", 0x0001))
    body += _element(0x1000, _padded(sop_instance_uid, b"\0"))
    body += _element(0x1002, struct.pack("<H", event_type))
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _us(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element)
    return int.from_bytes(value[:2], "little") if value and len(value) >= 2 else None


def _ui(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("latin-1").strip("\0 ")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _padded(value: str, pad: bytes) -> bytes:
    data = value.encode("latin-1", "replace")
    return data + pad if len(data) % 2 else data
