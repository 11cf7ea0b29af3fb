"""A storage SCU that sends exactly the bytes it is given, malformed ones too, and tells exactly what came back.

Written with :mod:`struct` alone, so that it shares no code, and so no fault, with the receiver.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

VERIFICATION = "1.2.840.10008.1.1"
CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
IMPLICIT_VR = "1.2.840.10008.1.2"
EXPLICIT_VR = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


@dataclass(frozen=True)
class Part10:
    """A file taken apart: what to announce and the encoded data set as it stands in the file."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes


def take_apart(content: bytes) -> Part10:
    """Split a Part 10 file; what is none is all data set, announced as a CR image in Explicit VR Little Endian."""
    if content[128:132] != b"DICM":
        return Part10(CR_IMAGE, "1.2.3.4", EXPLICIT_VR, content)
    meta: dict[int, bytes] = {}
    position = 132
    while position + 8 <= len(content) and content[position : position + 2] == b"\x02\x00":
        element, vr, length = struct.unpack_from("<2xH2sH", content, position)
        position += 8
        if vr in LONG_VRS:
            (length,) = struct.unpack_from("<L", content, position)
            position += 4
        meta[element] = content[position : position + length]
        position += length
    text = {element: value.decode("latin-1").rstrip("\0 ") for element, value in meta.items()}
    return Part10(text.get(0x02, CR_IMAGE), text.get(0x03, "1.2.3.4"), text.get(0x10, IMPLICIT_VR), content[position:])


def read_part10(path: Path) -> Part10:
    """Read and split a file."""
    return take_apart(path.read_bytes())


class Refused(Exception):
    """The association was rejected; ``code`` is (result, source, reason)."""

    def __init__(self, code: tuple[int, int, int]) -> None:
        super().__init__(f"association rejected: {code}")
        self.code = code


class Aborted(Exception):
    """The acceptor aborted; ``code`` is (source, reason)."""

    def __init__(self, code: tuple[int, int]) -> None:
        super().__init__(f"aborted: {code}")
        self.code = code


class Gone(Exception):
    """The acceptor closed the connection without a word."""


@dataclass(frozen=True)
class Response:
    """A DIMSE response: command elements by number, and the status."""

    status: int
    comment: str
    elements: dict[int, bytes]


class Sender:
    """One association. ``contexts``: (abstract syntax, transfer syntaxes); their ids are 1, 3, 5 ..."""

    def __init__(
        self,
        port: int,
        contexts: Sequence[tuple[str, Sequence[str]]] = ((VERIFICATION, (IMPLICIT_VR,)),),
        *,
        calling: str = "SENDER",
        called: str = "CHEXNODE",
        host: str = "127.0.0.1",
        timeout: float = 30,
        pdu_length: int = 16384,
        max_length: int = 16384,
        user_items: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.pdu_length = pdu_length
        self.accepted: dict[int, str] = {}
        """Context id -> transfer syntax, of accepted contexts."""
        self.user_information = b""
        self.sock = socket.create_connection((host, port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)
        self._message_id = 0
        try:
            self.sock.sendall(associate_rq(contexts, calling, called, max_length, user_items))
            self._read_answer()
        except BaseException:
            self.sock.close()
            raise

    def _read_answer(self) -> None:
        kind, body = self.read_pdu()
        if kind == 0x03:
            raise Refused((body[1], body[2], body[3]))
        assert kind == 0x02, f"PDU type {kind}"
        position = 68
        while position < len(body):
            item, length = struct.unpack_from(">BxH", body, position)
            content = body[position + 4 : position + 4 + length]
            if item == 0x21 and content[2] == 0:
                self.accepted[content[0]] = content[8:].decode().rstrip("\0")
            elif item == 0x50:
                self.user_information = content
            position += 4 + length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.release()
        self.sock.close()

    def echo(self, context_id: int = 1) -> Response:
        """C-ECHO."""
        return self.request(context_id, {0x0002: VERIFICATION.encode(), 0x0100: us(0x0030)}, None)

    def store(self, part: Part10, context_id: int = 1) -> Response:
        """C-STORE of the data set as it is."""
        return self.request(context_id, self.store_elements(part), part.data)

    @staticmethod
    def store_elements(part: Part10) -> dict[int, bytes]:
        """The C-STORE-RQ for ``part``, without message id and data set type."""
        return {
            0x0002: part.sop_class_uid.encode("latin-1"),
            0x0100: us(0x0001),
            0x0700: us(0),
            0x1000: part.sop_instance_uid.encode("latin-1"),
        }

    def request(self, context_id: int, elements: dict[int, bytes], data: bytes | None) -> Response:
        """Send a request and wait for its response."""
        self.send_command(context_id, elements, has_data_set=data is not None)
        if data is not None:
            self.send_data(context_id, data)
        return self.read_response()

    def send_command(self, context_id: int, elements: dict[int, bytes], *, has_data_set: bool) -> None:
        """Send a command set."""
        self._message_id += 1
        command = elements | {0x0110: us(self._message_id), 0x0800: us(1 if has_data_set else 0x0101)}
        body = b"".join(command_element(element, command[element]) for element in sorted(command))
        self._fragments(context_id, command_element(0, struct.pack("<L", len(body))) + body, 0x01)

    def send_data(self, context_id: int, data: bytes, *, last: bool = True) -> None:
        """Send (a part of) a data set."""
        self._fragments(context_id, data, 0x00, last=last)

    def _fragments(self, context_id: int, data: bytes, control: int, *, last: bool = True) -> None:
        step = self.pdu_length - 6
        for start in range(0, max(len(data), 1), step):
            part = data[start : start + step]
            flags = control | (0x02 if last and start + step >= len(data) else 0)
            self.sock.sendall(pdu(0x04, struct.pack(">LBB", len(part) + 2, context_id, flags) + part))

    def read_response(self) -> Response:
        """Wait for a DIMSE response."""
        command = b""
        while True:
            kind, body = self.read_pdu()
            assert kind == 0x04, f"PDU type {kind}"
            position = 0
            while position < len(body):
                length, _, control = struct.unpack_from(">LBB", body, position)
                command += body[position + 6 : position + 4 + length]
                position += 4 + length
                if control & 0x02:
                    return read_command(command)

    def release(self) -> None:
        """Orderly release: the answer must come."""
        self.sock.sendall(pdu(0x05, bytes(4)))
        kind, _ = self.read_pdu()
        assert kind == 0x06, f"PDU type {kind}"

    def read_pdu(self) -> tuple[int, bytes]:
        """The next PDU: type and content. Raises Aborted and Gone."""
        kind, length = struct.unpack(">BxL", self._exactly(6))
        body = self._exactly(length)
        if kind == 0x07:
            raise Aborted((body[2], body[3]))
        return kind, body

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                part = self.sock.recv(count - len(data))
            except ConnectionResetError as error:
                raise Gone from error
            if not part:
                raise Gone
            data += part
        return data


def store_file(port: int, part: Part10, **kwargs: object) -> Response:
    """One association for one data set, in its own transfer syntax."""
    with Sender(port, [(part.sop_class_uid, (part.transfer_syntax_uid,))], **kwargs) as sender:  # type: ignore[arg-type]
        return sender.store(part)


def associate_rq(
    contexts: Sequence[tuple[str, Sequence[str]]],
    calling: str = "SENDER",
    called: str = "CHEXNODE",
    max_length: int = 16384,
    user_items: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ PDU (PS3.8 9.3.2)."""
    items = item(0x10, APPLICATION_CONTEXT.encode())
    for index, (abstract, transfers) in enumerate(contexts):
        syntaxes = item(0x30, abstract.encode()) + b"".join(item(0x40, t.encode()) for t in transfers)
        items += item(0x20, bytes(((2 * index + 1) % 256, 0, 0, 0)) + syntaxes)  # beyond 128 they come again
    user = item(0x51, struct.pack(">L", max_length)) + item(0x52, b"1.2.3.4.5") + user_items
    items += item(0x50, user)
    head = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    return pdu(0x01, head + items)


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of any type."""
    return struct.pack(">BxL", kind, len(body)) + body


def item(kind: int, body: bytes) -> bytes:
    """An item of an association PDU."""
    return struct.pack(">BxH", kind, len(body)) + body


def us(value: int) -> bytes:
    """A US value."""
    return struct.pack("<H", value)


def command_element(element: int, value: bytes) -> bytes:
    """An element of group 0000 in Implicit VR Little Endian, padded with NUL."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, element, len(value)) + value


def read_command(data: bytes) -> Response:
    """Parse a response's command set."""
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        element, length = struct.unpack_from("<2xHL", data, position)
        elements[element] = data[position + 8 : position + 8 + length]
        position += 8 + length
    (status,) = struct.unpack("<H", elements[0x0900])
    return Response(status, elements.get(0x0902, b"").decode().strip(), elements)


def is_acknowledged(port: int, content: bytes) -> bool:
    """Send one file on an association of its own; whether it was answered with 0x0000."""
    try:
        return store_file(port, take_apart(content)).status == 0
    except (Refused, Aborted, Gone):
        return False


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    long = vr in LONG_VRS
    value += b"\0" * (len(value) % 2)
    length = len(value).to_bytes(4, "little") if long else len(value).to_bytes(2, "little")
    return (
        ((tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr + bytes(2 if long else 0))
        + length
        + value
    )


_VRS = {0x00080005: b"CS", 0x00080050: b"SH"}
"""Of elements that an image may have, and has only if asked."""


def an_image(uid: str = "1.2.3.4", pixels: int = 128 * 128, **values: bytes) -> Part10:
    """A CR image in Explicit VR Little Endian that the gate lets through; ``_00080060=b"DX"`` replaces an element."""
    side = int(pixels**0.5)
    elements = {
        0x00080016: (b"UI", CR_IMAGE.encode()),
        0x00080018: (b"UI", uid.encode()),
        0x00080060: (b"CS", b"CR"),
        0x00100010: (b"PN", b"Secret^Patient"),
        0x00100020: (b"LO", b"SECRET-ID"),
        0x00180015: (b"CS", b"CHEST "),
        0x00185101: (b"CS", b"PA"),
        0x0020000D: (b"UI", b"1.2.3"),
        0x0020000E: (b"UI", b"1.2.3.1"),
        0x00280002: (b"US", us(1)),
        0x00280004: (b"CS", b"MONOCHROME2 "),
        0x00280010: (b"US", us(side)),
        0x00280011: (b"US", us(side)),
        0x00280100: (b"US", us(16)),
        0x00280101: (b"US", us(12)),
        0x00280102: (b"US", us(11)),
        0x00280103: (b"US", us(0)),
        0x7FE00010: (b"OW", os.urandom(side * side * 2)),
    }
    for name, value in values.items():
        tag = int(name.lstrip("_"), 16)
        elements[tag] = (elements[tag][0] if tag in elements else _VRS[tag], value)
    data = b"".join(element(tag, vr, value) for tag, (vr, value) in sorted(elements.items()))
    return Part10(CR_IMAGE, uid, EXPLICIT_VR, data)
