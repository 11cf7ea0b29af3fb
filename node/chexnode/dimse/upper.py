"""The upper layer of one connection (PS3.8 section 9), as acceptor or requestor: PDUs from and to a socket, blocking.

One thread blocks on its socket, and data set fragments pass through one fixed buffer whatever lengths the peer
announces. How long a wait may last differs by side: :class:`Acceptor` has kernel time-outs and a minimum rate,
:class:`Requestor` looks every quarter of a second whether it is to stop. The texts
of :class:`Closed` say what the peer did.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from typing import Any

from chexnode.dimse.pdus import (
    A_ABORT,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    FIXED_LENGTH,
    HEADER,
    P_DATA_TF,
)

# Message control header, PS3.8 E.2
COMMAND = 0x01
LAST = 0x02

# A-ABORT source and reason, PS3.8 table 9-26
BY_USER, BY_PROVIDER = 0, 2
REASON_NOT_SPECIFIED = 0
REASON_UNRECOGNISED_PDU = 1
REASON_UNEXPECTED_PDU = 2
REASON_INVALID_PARAMETER = 6

#: An A-ASSOCIATE-RQ of 128 presentation contexts with 20 transfer syntaxes each has less.
MAX_ASSOCIATE = 128 << 10

_PDV = struct.Struct(">LBB")
_PDV_IN_PDU = struct.Struct(">BxLLBB")
_BUFFER = 256 << 10
_POLL_SECONDS = 0.25


class Closed(Exception):
    """The connection ended, or was silent for too long."""


class TimedOut(Closed):
    """It did nothing for the time limit."""


class Stopped(Closed):
    """We are to stop."""


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
        self._pdu = 0
        """Bytes of the current P-DATA-TF not yet read."""
        self.heard = False
        """Whether the peer has said anything yet."""

    def read_pdu(self, largest: int) -> tuple[int, bytes]:
        """A whole PDU of up to ``largest`` bytes and its type. Raises Closed, ProtocolError."""
        header = self.take(HEADER.size)
        kind, length = HEADER.unpack(header)
        if length > largest:
            raise ProtocolError(REASON_INVALID_PARAMETER, f"PDU of type {kind:#04x} and {length} bytes")
        return kind, header + self.take(length)

    def next_fragment(self, *, within_message: bool) -> tuple[int, int, int]:
        """The next presentation data value: (context id, message control header, bytes to read with :meth:`data`).

        Raises Released (only between messages), Closed, ProtocolError.
        """
        while not self._pdu:
            kind, self._pdu = HEADER.unpack(self.take(HEADER.size))
            if kind == P_DATA_TF:
                continue
            if kind == A_ABORT:
                raise Closed("aborted the association")
            if kind == A_RELEASE_RQ and not within_message and self._pdu == 4:
                self._pdu = 0
                self.take(4)
                raise Released
            unknown = not A_ASSOCIATE_RQ <= kind <= A_ABORT
            raise ProtocolError(
                REASON_UNRECOGNISED_PDU if unknown else REASON_UNEXPECTED_PDU, f"PDU of type {kind:#04x}"
            )
        if self._pdu < _PDV.size:
            raise ProtocolError(REASON_INVALID_PARAMETER, "a PDU ends within the head of a presentation data value")
        length, context_id, control = _PDV.unpack(self.take(_PDV.size))
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

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes. Raises Closed."""
        if self._end - self._start >= length:
            self._start += length
            return bytes(self._view[self._start - length : self._start])
        return b"".join(bytes(piece) for piece in self.data(length))

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole PDUs. Raises Closed."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
                self._progressed(0)
            except (TimeoutError, BlockingIOError, ssl.SSLWantWriteError):
                self._waited("does not read")
            except OSError as error:
                raise Closed("closed the connection") from error

    def send_fragments(self, context_id: int, kind: int, content: bytes | memoryview, max_length: int) -> None:
        """Send a command set (``kind`` COMMAND) or a data set (0) as P-DATA-TF of at most ``max_length`` bytes each."""
        step = max(max_length - _PDV.size, 1)
        out = bytearray()
        for start in range(0, len(content), step):
            part = content[start : start + step]
            control = kind | (LAST if start + step >= len(content) else 0)
            out += _PDV_IN_PDU.pack(P_DATA_TF, len(part) + _PDV.size, len(part) + 2, context_id, control)
            out += part
            if len(out) >= _BUFFER:
                self.send(out)
                out = bytearray()
        self.send(out)

    def send_release(self, kind: int = A_RELEASE_RP) -> None:
        """Answer a release request, or make one."""
        self.send(HEADER.pack(kind, 4) + bytes(4))

    def send_abort(self, reason: int, source: int = BY_PROVIDER) -> None:
        """Abort; a peer that is gone is no error."""
        with suppress(OSError):
            self._sock.settimeout(1)
            self._sock.sendall(HEADER.pack(A_ABORT, 4) + bytes((0, 0, source, reason)))

    def await_close(self, seconds: float) -> None:
        """Read and drop until the peer closes, at most ``seconds``: closing first could destroy our last PDU."""
        deadline = time.monotonic() + seconds
        with suppress(OSError):
            self._shut(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not self._sock.recv_into(self._view):
                    return

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

    def _grow(self) -> None:
        """Take the large buffer of data transfer."""
        rest = bytes(self._view[self._start : self._end])
        self._buffer = bytearray(max(_BUFFER, len(rest)))
        self._view = memoryview(self._buffer)
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _fill(self) -> None:
        while True:
            try:
                self._prepare_wait()
                count = self._sock.recv_into(self._view)
            except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
                self._waited("was silent for too long")
                continue
            except OSError as error:
                raise Closed("closed the connection") from error
            if not count:
                raise Closed("closed the connection")
            self.heard = True
            self._start, self._end = 0, count
            self._progressed(count)
            return

    def _prepare_wait(self) -> None:
        """Called before each read."""

    def _progressed(self, count: int) -> None:
        """Called when ``count`` bytes were read, or some were sent."""

    def _waited(self, why: str) -> None:
        """Called when a read or write has timed out; raises Closed with ``why`` unless it is to go on."""
        raise Closed(why)


class Acceptor(Upper):
    """A connection that a peer has opened to us."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._deadline: float | None = None
        self._began = 0.0
        self._patience: float | None = None
        """How many seconds of waiting for it the message that is coming in has left."""
        self._idle_seconds = 0.0
        self._byte_seconds = 0.0

    def negotiate_until(self, deadline: float) -> None:
        """The ARTIM timer: until :meth:`established`, reads must be complete by ``deadline`` (monotonic seconds)."""
        self._deadline = deadline

    def secure(self, context: ssl.SSLContext) -> dict[str, Any]:
        """Shake hands as TLS server within the negotiation's time; return the peer's certificate, empty without one.

        Raises Closed.
        """
        try:
            self._prepare_wait()
            self.heard = bool(self._sock.recv(1, socket.MSG_PEEK))
            secured = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self._sock = secured
            self._prepare_wait()  # of the handshake as a whole
            secured.do_handshake()
            return secured.getpeercert() or {}
        except ssl.SSLError as error:
            raise NotSecured(f"TLS: {error.reason or 'no handshake'}") from error
        except TimeoutError as error:
            raise Closed("did not shake hands in time") from error
        except OSError as error:
            raise Closed("connection lost") from error

    def read_associate_head(self) -> bytes:
        """The fixed part of the A-ASSOCIATE-RQ; :meth:`take` gives the rest, as long as its header says.

        Raises Closed, ProtocolError.
        """
        header = self.take(HEADER.size)
        kind, length = HEADER.unpack(header)
        if kind != A_ASSOCIATE_RQ or not FIXED_LENGTH - HEADER.size <= length <= MAX_ASSOCIATE:
            raise ProtocolError(REASON_UNEXPECTED_PDU, f"first PDU of type {kind:#04x} and {length} bytes")
        return header + self.take(FIXED_LENGTH - HEADER.size)

    def established(self, idle_seconds: float, bytes_per_second: float) -> None:
        """Switch to data transfer: large buffer, an end after ``idle_seconds`` without a byte, and an end of messages
        that are more than ``idle_seconds`` behind ``bytes_per_second``."""
        self._deadline = None
        self._idle_seconds, self._byte_seconds = idle_seconds, 1 / bytes_per_second
        self._grow()
        # Kernel timeouts: a Python timeout would cost a poll() before every recv(). By TLS it bounds a whole record
        # instead, whose bytes, one in time after another, would else keep a read from ever returning.
        self._sock.settimeout(idle_seconds if isinstance(self._sock, ssl.SSLSocket) else None)
        limit = struct.pack("@ll", int(idle_seconds), int(idle_seconds % 1 * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def await_message(self) -> None:
        """Block until something of the next message is there, and time it from then on. Raises Closed."""
        self._patience = None
        if self._start == self._end:
            self._fill()
        self._patience = self._idle_seconds

    def _prepare_wait(self) -> None:
        self._began = time.monotonic()
        if self._deadline is not None:
            if self._deadline <= self._began:
                raise Closed("did not negotiate in time")
            self._sock.settimeout(self._deadline - self._began)

    def _progressed(self, count: int) -> None:
        if self._patience is not None and count:
            # Each byte buys time. Without this, one byte in time after another would hold an association for ever. What
            # counts is how long we waited for the peer: it waits for our disk just so.
            self._patience += count * self._byte_seconds - (time.monotonic() - self._began)
            if self._patience < 0:
                raise ProtocolError(REASON_NOT_SPECIFIED, "a message comes too slowly")


class Requestor(Upper):
    """A connection that we have opened; a wait ends ``limit`` seconds after the last progress, or with ``stop``."""

    def __init__(self, sock: socket.socket, limit: float, stop: Event) -> None:
        super().__init__(sock)
        sock.settimeout(_POLL_SECONDS)
        self._grow()
        self._stop = stop
        self._since = time.monotonic()
        self.limit = limit

    def begin(self) -> None:
        """Count the time limit from now on."""
        self._since = time.monotonic()

    def _progressed(self, count: int) -> None:
        self._since = time.monotonic()

    def _waited(self, why: str) -> None:
        if self._stop.is_set():
            raise Stopped("stopped")
        if time.monotonic() - self._since > self.limit:
            raise TimedOut(f"did not answer for {self.limit:g} s")
