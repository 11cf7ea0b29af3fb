"""The upper layer of one accepted connection (PS3.8 section 9): PDUs from and to a socket, blocking, without copies.

pynetdicom's reactor polls every millisecond, keeps a whole message in memory and reads a PDU of any announced length;
here one thread blocks on its socket, and data set fragments pass through one fixed buffer whatever lengths the peer
announces. The association PDUs themselves are still coded by pynetdicom (contexts.py).
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

# PDU types, PS3.8 9.3.1
A_ASSOCIATE_RQ = 0x01
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_RELEASE_RP = 0x06
A_ABORT = 0x07

# Message control header, PS3.8 E.2
COMMAND = 0x01
LAST = 0x02

# A-ABORT source and reason, PS3.8 table 9-26
BY_PROVIDER = 2
REASON_NOT_SPECIFIED = 0
REASON_UNRECOGNISED_PDU = 1
REASON_UNEXPECTED_PDU = 2
REASON_INVALID_PARAMETER = 6

#: An A-ASSOCIATE-RQ has at most 128 presentation contexts; a real one is far smaller than this.
MAX_ASSOCIATE_RQ = 1 << 20

_HEADER = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")
_BUFFER = 256 << 10


class Closed(Exception):
    """The connection ended, or was silent for too long."""


class NotSecured(Closed):
    """The TLS handshake failed: a certificate that is not trusted, a version or a cipher that is not spoken."""


class Released(Exception):
    """The peer asked for release between messages."""


class ProtocolError(Exception):
    """The peer broke the protocol; ``reason`` goes into our A-ABORT."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Upper:
    """PDUs of one connection. Not thread safe, except :meth:`wake` and :meth:`cut`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(1 << 10)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._deadline: float | None = None
        self.heard = False
        """Whether the peer has said anything yet."""
        self._pdu = 0
        """Bytes of the current P-DATA-TF not yet read."""
        self._patience: float | None = None
        """How many seconds of waiting for it the message that is coming in has left."""
        self._idle_seconds = 0.0
        self._byte_seconds = 0.0

    def negotiate_until(self, deadline: float) -> None:
        """The ARTIM timer: until :meth:`established`, reads must be complete by ``deadline`` (monotonic seconds)."""
        self._deadline = deadline

    def secure(self, context: ssl.SSLContext) -> dict[str, Any]:
        """Shake hands as TLS server within the negotiation's time; return the peer's certificate, empty without one.

        Raises :class:`Closed`.
        """
        try:
            self._sock.settimeout(self._left())
            self.heard = bool(self._sock.recv(1, socket.MSG_PEEK))
            secured = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self._sock = secured
            secured.settimeout(self._left())  # of the handshake as a whole
            secured.do_handshake()
            return secured.getpeercert() or {}
        except ssl.SSLError as error:
            raise NotSecured(f"TLS: {error.reason or 'no handshake'}") from error
        except TimeoutError as error:
            raise Closed("did not shake hands in time") from error
        except OSError as error:
            raise Closed("connection lost") from error

    def established(self, idle_seconds: float, bytes_per_second: float) -> None:
        """Switch to data transfer: large buffer, an end after ``idle_seconds`` without a byte, and an end of messages
        that are more than ``idle_seconds`` behind ``bytes_per_second``."""
        self._deadline = None
        self._idle_seconds, self._byte_seconds = idle_seconds, 1 / bytes_per_second
        rest = bytes(self._view[self._start : self._end])
        self._buffer = bytearray(max(_BUFFER, len(rest)))
        self._view = memoryview(self._buffer)
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
        # Kernel timeouts: a Python timeout would cost a poll() before every recv(). By TLS it bounds a whole record
        # instead, whose bytes, one in time after another, would else keep a read from ever returning.
        self._sock.settimeout(idle_seconds if isinstance(self._sock, ssl.SSLSocket) else None)
        limit = struct.pack("@ll", int(idle_seconds), int(idle_seconds % 1 * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def read_associate_rq(self) -> bytes:
        """The whole first PDU. Raises :class:`Closed`, :class:`ProtocolError`."""
        header = self._take(_HEADER.size)
        kind, length = _HEADER.unpack(header)
        if kind != A_ASSOCIATE_RQ or length > MAX_ASSOCIATE_RQ:
            raise ProtocolError(REASON_UNEXPECTED_PDU, f"first PDU of type {kind:#04x} and {length} bytes")
        return header + self._take(length)

    def next_fragment(self, *, within_message: bool) -> tuple[int, int, int]:
        """The next presentation data value: (context id, message control header, bytes to read with :meth:`data`).

        Raises :class:`Released` (only between messages), :class:`Closed`, :class:`ProtocolError`.
        """
        while not self._pdu:
            kind, self._pdu = _HEADER.unpack(self._take(_HEADER.size))
            if kind == P_DATA_TF:
                continue
            if kind == A_ABORT:
                raise Closed("aborted by the peer")
            if kind == A_RELEASE_RQ and not within_message and self._pdu == 4:
                self._pdu = 0
                self._take(4)
                raise Released
            unknown = not A_ASSOCIATE_RQ <= kind <= A_ABORT
            raise ProtocolError(
                REASON_UNRECOGNISED_PDU if unknown else REASON_UNEXPECTED_PDU, f"PDU of type {kind:#04x}"
            )
        if self._pdu < _PDV.size:
            raise ProtocolError(REASON_INVALID_PARAMETER, "a PDU ends within the head of a presentation data value")
        length, context_id, control = _PDV.unpack(self._take(_PDV.size))
        if length < 2 or length + 4 > self._pdu:
            raise ProtocolError(REASON_INVALID_PARAMETER, "a presentation data value is longer than its PDU")
        self._pdu -= length + 4
        return context_id, control, length - 2

    def data(self, length: int) -> Iterator[memoryview]:
        """Yield the ``length`` bytes of a fragment in pieces; a piece is valid until the next is asked for."""
        while length:
            if self._start == self._end:
                self._fill()
            end = min(self._end, self._start + length)
            piece = self._view[self._start : end]
            self._start = end
            length -= len(piece)
            yield piece

    def await_message(self) -> None:
        """Block until something of the next message is there, and time it from then on. Raises :class:`Closed`."""
        self._patience = None
        if self._start == self._end:
            self._fill()
        self._patience = self._idle_seconds

    def send(self, data: bytes) -> None:
        """Send whole PDUs. Raises :class:`Closed`."""
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise Closed("the peer does not read") from error

    def send_message(self, context_id: int, command: bytes, max_length: int, data: bytes = b"") -> None:
        """Send a command set, and perhaps a data set, as P-DATA-TF, in fragments if the peer's maximum length (0: none)
        asks for it."""
        self._send_fragments(context_id, command, max_length, COMMAND)
        if data:
            self._send_fragments(context_id, data, max_length, 0)

    def _send_fragments(self, context_id: int, content: bytes, max_length: int, kind: int) -> None:
        step = max(max_length - _PDV.size, 1) if max_length else len(content)
        out = b""
        for start in range(0, len(content), step):
            part = content[start : start + step]
            control = kind | (LAST if start + step >= len(content) else 0)
            out += _HEADER.pack(P_DATA_TF, len(part) + _PDV.size) + _PDV.pack(len(part) + 2, context_id, control) + part
        self.send(out)

    def send_release(self) -> None:
        """Answer a release request."""
        self.send(_HEADER.pack(A_RELEASE_RP, 4) + bytes(4))

    def send_abort(self, reason: int) -> None:
        """Abort as the service provider; a peer that is gone is no error."""
        try:
            self._sock.settimeout(1)
            self._sock.sendall(_HEADER.pack(A_ABORT, 4) + bytes((0, 0, BY_PROVIDER, reason)))
        except OSError:
            pass

    def await_close(self, seconds: float) -> None:
        """Read and drop until the peer closes, at most ``seconds``: closing first could destroy our last PDU."""
        deadline = time.monotonic() + seconds
        try:
            self._shut(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not self._sock.recv_into(self._view):
                    return
        except OSError:
            pass

    def wake(self) -> None:
        """End a blocked read from another thread; what has arrived can still be read."""
        with suppress(OSError):
            self._shut(socket.SHUT_RD)

    def cut(self) -> None:
        """End the connection, from any thread."""
        with suppress(OSError):
            self._shut(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()

    def _shut(self, how: int) -> None:
        # The connection's, not the TLS session's: SSLSocket.shutdown would drop the keys a reader is just using.
        socket.socket.shutdown(self._sock, how)

    def _take(self, length: int) -> bytes:
        if self._end - self._start >= length:
            self._start += length
            return bytes(self._view[self._start - length : self._start])
        return b"".join(bytes(piece) for piece in self.data(length))

    def _fill(self) -> None:
        try:
            if self._deadline is not None:
                self._sock.settimeout(self._left())
            began = time.monotonic()
            count = self._sock.recv_into(self._view)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError) as error:
            raise Closed("silent for too long") from error
        except OSError as error:
            raise Closed("connection lost") from error
        if not count:
            raise Closed("closed by the peer")
        self.heard = True
        self._start, self._end = 0, count
        if self._patience is not None:
            # Each byte buys time. Without this, one byte in time after another would hold an association for ever. What
            # counts is how long we waited for the peer: it waits for our disk just so.
            self._patience += count * self._byte_seconds - (time.monotonic() - began)
            if self._patience < 0:
                raise ProtocolError(REASON_NOT_SPECIFIED, "a message comes too slowly")

    def _left(self) -> float:
        """Seconds of the negotiation's time that are left. Raises :class:`Closed`."""
        assert self._deadline is not None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Closed("did not negotiate in time")
        return left
