"""Audit messages on their way to a collector: RFC 5424 by UDP (RFC 5426), TCP (RFC 6587) and TLS (RFC 5425).

As PS3.15 annexes A.6 (Syslog-TLS) and A.7 (Syslog-UDP) want it. Syslog has no acknowledgement. Over TCP and TLS a
message counts as delivered when the collector's host has acknowledged all of its bytes and the connection still
stands: what had not come so far is sent again on the next connection, so that a message may come twice and none is
lost with a connection. A datagram counts as delivered when it is sent.
"""

from __future__ import annotations

import array
import fcntl
import select
import socket
import ssl
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from typing import Protocol
from urllib.parse import urlsplit

from chexnode.audit.elements import EventOutcome, Message
from chexnode.tls import explained
from chexnode.vocabulary.errors import Transient

MSGID = "DICOM+RFC3881"
"""PS3.15 A.6 and A.7."""

MOST_OCTETS = 65_000
"""A datagram holds no more; A.6 asks for 32,768 at least."""

_PORTS = {"udp": 514, "tcp": 514, "tls": 6514}
_FACILITY = 10  # security and authorisation messages
_NOTICE, _WARNING, _CRITICAL = 5, 4, 2
_SECONDS = 10.0
_BOM = b"\xef\xbb\xbf"


class CollectorDown(Transient):
    """The collector cannot be reached, or has not taken what was sent."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a collector listens."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``SCHEME://HOST`` or ``SCHEME://HOST:PORT``, as the settings have checked it."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        return cls(parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def encode(message: Message, host: str, application: str, process_id: int) -> bytes:
    """Return the SYSLOG-MSG of RFC 5424 section 6, without the transport's framing."""
    severity = {EventOutcome.SUCCESS: _NOTICE, EventOutcome.MAJOR_FAILURE: _CRITICAL}.get(message.outcome, _WARNING)
    at = message.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    names = f"{_name(host, 255)} {_name(application, 48)} {process_id} {MSGID}"
    head = f"<{_FACILITY * 8 + severity}>1 {at} {names} - "
    return head.encode("ascii") + _BOM + b'<?xml version="1.0" encoding="UTF-8"?>' + message.xml.encode("utf-8")


def _name(text: str, length: int) -> str:
    return "".join(c for c in text if "!" <= c <= "~")[:length] or "-"


class Collector(Protocol):
    """A way to a collector; connects when it has to."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Return when all of ``messages`` are delivered. Raises CollectorDown; some may have come then."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


def collector(address: Address, tls: ssl.SSLContext | None) -> Collector:
    """The way to ``address``; ``tls`` is needed for one that speaks it."""
    return _Datagrams(address) if address.scheme == "udp" else _Stream(address, tls)


class _Datagrams:
    """One message a datagram (RFC 5426)."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        try:
            if self._socket is None:
                self._socket = _connected(self._address, socket.SOCK_DGRAM)
            for message in messages:
                self._socket.send(message[:MOST_OCTETS])
            # A host without a collector says so (ICMP); it shows with the next call, here or in the next batch.
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "nobody listens there")
        except OSError as error:
            self.close()
            raise CollectorDown(f"{self._address}: {explained(error)}") from error

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Stream:
    """Octet counting (RFC 5425 section 4.3, RFC 6587 section 3.4.1)."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        if address.scheme == "tls" and tls is None:
            raise ValueError("TLS without a context")
        self._address = address
        self._tls = tls if address.scheme == "tls" else None
        self._socket: socket.socket | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._listen()
            self._socket.sendall(b"".join(b"%d %s" % (len(message), message) for message in messages))
            self._await_acknowledged()
            self._listen()
        except OSError as error:
            self.close()
            raise CollectorDown(f"{self._address}: {explained(error)}") from error

    def _connect(self) -> socket.socket:
        sock = _connected(self._address, socket.SOCK_STREAM)
        if self._tls is None:
            return sock
        try:
            secured = self._tls.wrap_socket(sock, server_hostname=self._address.host)
        except OSError:
            sock.close()
            raise
        # TLS 1.3: the server judges our certificate after our side of the handshake is over. What it says then, an
        # alert or session tickets, comes first; one that says nothing is taken as content.
        if secured.version() == "TLSv1.3":
            select.select([secured], [], [], 1.0)
        return secured

    def _listen(self) -> None:
        """Raise OSError if the collector has hung up. It has nothing to say; what it says is dropped."""
        assert self._socket is not None
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connection lost")
        self._socket.setblocking(False)
        try:
            while self._socket.recv(4096):
                pass
            raise ConnectionResetError(0, "it hung up")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self._socket.settimeout(_SECONDS)

    def _await_acknowledged(self) -> None:
        assert self._socket is not None
        deadline = time.monotonic() + _SECONDS
        pause = 0.001
        while _unacknowledged(self._socket):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None


def _connected(address: Address, kind: socket.SocketKind) -> socket.socket:
    last: OSError = OSError(0, "no address")
    for family, _, protocol, _, where in socket.getaddrinfo(address.host, address.port, type=kind):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_SECONDS)
            sock.connect(where)
            return sock
        except OSError as error:
            sock.close()
            last = error
    raise last


def _unacknowledged(sock: socket.socket) -> int:
    """Octets that the peer's kernel has not acknowledged: SIOCOUTQ, tcp(7)."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return count[0]
