"""DIMSE messages (PS3.7 section 6.3 and annex E): command sets, in Implicit VR Little Endian, and their exchange."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from chexnode.dimse.upper import (
    COMMAND,
    LAST,
    REASON_INVALID_PARAMETER,
    REASON_NOT_SPECIFIED,
    ProtocolError,
    Upper,
)

_ELEMENT = struct.Struct("<HHL")

# Command Field (0000,0100), PS3.7 E.1
C_STORE_RQ = 0x0001
C_GET_RQ = 0x0010
C_FIND_RQ = 0x0020
C_MOVE_RQ = 0x0021
C_ECHO_RQ = 0x0030
N_EVENT_REPORT_RQ = 0x0100
N_ACTION_RQ = 0x0130
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000

# Elements of group 0000, PS3.7 E.1
AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID = 0x0002, 0x0003
_COMMAND_FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x0100, 0x0110, 0x0120
MOVE_DESTINATION = 0x0600
PRIORITY = 0x0700
_DATA_SET_TYPE, _STATUS, _ERROR_COMMENT = 0x0800, 0x0900, 0x0902
AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID = 0x1000, 0x1001
EVENT_TYPE_ID, ACTION_TYPE_ID = 0x1002, 0x1008
_COMPLETED_SUBOPERATIONS = 0x1021

_NO_DATA_SET = 0x0101
_ERROR_COMMENT_LENGTH = 64
_MAX_COMMAND = 1 << 16
_UIDS = (AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID)


class Status(IntEnum):
    """The statuses this SCP answers with."""

    SUCCESS = 0x0000
    """PS3.7 annex C, PS3.4 B.2.3: the file is durable and its row committed, or both were before."""
    PROCESSING_FAILURE = 0x0110
    """PS3.7 annex C: a fault of this node."""
    INVALID_ARGUMENT = 0x0115
    """PS3.7 annex C: a request or report of storage commitment that names no instance, or names it by no UID."""
    MISSING_ATTRIBUTE = 0x0120
    """PS3.7 annex C: storage commitment without Transaction UID."""
    NO_SUCH_ACTION = 0x0123
    """PS3.7 annex C: an N-ACTION that is no request for storage commitment."""
    UNRECOGNISED_OPERATION = 0x0211
    """PS3.7 annex C: anything but C-ECHO, C-STORE, and N-ACTION and N-EVENT-REPORT of storage commitment."""
    RESOURCE_LIMITATION = 0x0213
    """PS3.7 annex C: storage commitment of more instances than the limit."""
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
    """The elements of a request or response that matter here."""

    field: int
    message_id: int
    has_data_set: bool
    affected_sop_class_uid: str
    """Of an N-ACTION: the requested one."""
    affected_sop_instance_uid: str
    """Of an N-ACTION: the requested one."""
    type_id: int | None = None
    """Action or Event Type ID."""
    status: int | None = None
    """Of a response."""
    comment: str = ""
    """Error Comment of a response."""
    completed: int | None = None
    """Number of Completed Sub-operations of a C-MOVE or C-GET response."""


class Sink(Protocol):
    """What takes a data set, piece by piece."""

    def write(self, data: memoryview, /) -> None:
        """Take the next piece, which is valid during the call only."""

    @property
    def endless(self) -> bool:
        """Whether so much has come that reading on to answer it is not worth it."""
        ...


class Collected:
    """A data set kept in memory, up to ``limit`` bytes; what is more is dropped, and ``whole`` says so.

    Reading on is worth it up to ``most`` bytes, 16 times the limit by default.
    """

    def __init__(self, limit: int, most: int = 0) -> None:
        self._limit = limit
        self._most = most or 16 * limit
        self._length = 0
        self._data = bytearray()

    def write(self, data: memoryview, /) -> None:
        """Take the next piece."""
        self._length += len(data)
        if self._length <= self._limit:
            self._data += data

    @property
    def whole(self) -> bytes | None:
        """The data set; None where it was larger than the limit."""
        return bytes(self._data) if self._length <= self._limit else None

    @property
    def endless(self) -> bool:
        """Whether it is far larger than the limit."""
        return self._length > self._most


class Messages:
    """Messages over the upper layer of one association."""

    def __init__(self, upper: Upper, max_length: int) -> None:
        """``max_length``: the largest P-DATA-TF to send."""
        self._upper = upper
        self._max_length = max_length

    def send(self, context_id: int, command: bytes, data: bytes | memoryview = b"") -> None:
        """Send a command set and, if it is not empty, a data set. Raises Closed."""
        self._upper.send_fragments(context_id, COMMAND, command, self._max_length)
        if data:
            self._upper.send_fragments(context_id, 0, data, self._max_length)

    def command(self) -> tuple[int, Command]:
        """Read a whole command set; return the context it came on and what it says.

        Raises Closed, Released, ProtocolError.
        """
        data = bytearray()
        context_id: int | None = None
        control = 0
        while not control & LAST:
            identity, control, length = self._upper.next_fragment(within_message=bool(data))
            if not control & COMMAND or (context_id is not None and identity != context_id):
                raise ProtocolError(REASON_INVALID_PARAMETER, "fragments of messages are mixed")
            if len(data) + length > _MAX_COMMAND:
                raise ProtocolError(REASON_INVALID_PARAMETER, "the command set is too long")
            context_id = identity
            for piece in self._upper.data(length):
                data += piece
        assert context_id is not None
        try:
            return context_id, read_command(bytes(data))
        except CommandError as error:
            raise ProtocolError(REASON_INVALID_PARAMETER, str(error)) from error

    def data_set(self, context_id: int, sink: Sink) -> None:
        """Read the data set that follows a command set into ``sink``. Raises Closed, ProtocolError."""
        control = 0
        while not control & LAST:
            identity, control, length = self._upper.next_fragment(within_message=True)
            if control & COMMAND or identity != context_id:
                raise ProtocolError(REASON_INVALID_PARAMETER, "fragments of messages are mixed")
            for piece in self._upper.data(length):
                sink.write(piece)
                if sink.endless:
                    raise ProtocolError(REASON_NOT_SPECIFIED, "far more data than the limit")


def read_command(data: bytes) -> Command:
    """Parse an encoded command set. Raises CommandError."""
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + 8 > len(data):
            raise CommandError("an element is cut short")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += 8
        if position + length > len(data):
            raise CommandError("an element is cut short")
        if group == 0:  # Orthanc lists what a C-GET could not send, elements of group 0008, in the command set
            elements[element] = data[position : position + length]
        position += length
    command_field = _us(elements, _COMMAND_FIELD)
    if command_field is None:
        raise CommandError("no Command Field")
    event_type = _us(elements, EVENT_TYPE_ID)
    return Command(
        command_field,
        _us(elements, _RESPONDED_TO if command_field & RESPONSE else _MESSAGE_ID) or 0,
        _us(elements, _DATA_SET_TYPE) not in (None, _NO_DATA_SET),
        _text(elements, AFFECTED_SOP_CLASS_UID) or _text(elements, REQUESTED_SOP_CLASS_UID),
        _text(elements, AFFECTED_SOP_INSTANCE_UID) or _text(elements, REQUESTED_SOP_INSTANCE_UID),
        _us(elements, ACTION_TYPE_ID) or event_type,
        _us(elements, _STATUS),
        _text(elements, _ERROR_COMMENT),
        _us(elements, _COMPLETED_SUBOPERATIONS),
    )


def write_request(
    command_field: int, message_id: int, elements: Mapping[int, int | str], *, has_data_set: bool
) -> bytes:
    """Encode a request: ``elements`` of group 0000 beside those that every request has."""
    common = {
        _COMMAND_FIELD: command_field,
        _MESSAGE_ID: message_id,
        _DATA_SET_TYPE: 0x0001 if has_data_set else _NO_DATA_SET,
    }
    return _command_set(common | dict(elements))


def write_event_report(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """Encode an N-EVENT-REPORT request (PS3.7 table 10.3-1), whose data set follows."""
    elements: dict[int, int | str] = {
        AFFECTED_SOP_CLASS_UID: sop_class_uid,
        AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        EVENT_TYPE_ID: event_type,
    }
    return write_request(N_EVENT_REPORT_RQ, message_id, elements, has_data_set=True)


def write_response(command: Command, status: int, comment: str = "") -> bytes:
    """Encode the response to ``command``, without data set; ``comment`` becomes Error Comment (0000,0902)."""
    elements: dict[int, int | str] = {
        AFFECTED_SOP_CLASS_UID: command.affected_sop_class_uid,
        _COMMAND_FIELD: command.field | RESPONSE,
        _RESPONDED_TO: command.message_id,
        _DATA_SET_TYPE: _NO_DATA_SET,
        _STATUS: status,
        _ERROR_COMMENT: comment[:_ERROR_COMMENT_LENGTH],
        AFFECTED_SOP_INSTANCE_UID: command.affected_sop_instance_uid,
    }
    if command.type_id is not None and status == Status.SUCCESS:
        elements[EVENT_TYPE_ID if command.field == N_EVENT_REPORT_RQ else ACTION_TYPE_ID] = command.type_id
    return _command_set({element: value for element, value in elements.items() if value != ""})


def _command_set(elements: Mapping[int, int | str]) -> bytes:
    body = b"".join(_element(element, _value(element, value)) for element, value in sorted(elements.items()))
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _value(element: int, value: int | str) -> bytes:
    if isinstance(value, int):
        return struct.pack("<H", value)
    data = value.encode("latin-1", "replace")
    return data + (b"\0" if element in _UIDS else b" ") * (len(data) % 2)


def _us(elements: Mapping[int, bytes], element: int) -> int | None:
    value = elements.get(element)
    return int.from_bytes(value[:2], "little") if value and len(value) >= 2 else None


def _text(elements: Mapping[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("latin-1").strip("\0 ")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value
