"""Audit collectors: a syslog server in this process, which can vanish and come back, and rsyslog."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lxml import etree

from chexnode.roles.certificates import Authority, Issued
from support.servers import LOOPBACK, Server, find_tool, free_port, listens, wait_for

SCHEMA = etree.RelaxNG(file=str(Path(__file__).parents[1] / "unit" / "node" / "audit" / "audit_message.rng"))


class Told:
    """One message as it came: RFC 5424 header fields, and the XML, which the schema of PS3.15 A.5.1 allows."""

    def __init__(self, content: bytes) -> None:
        head, bom, body = content.partition(b"\xef\xbb\xbf")
        assert bom, content[:200]
        self.priority, self.timestamp, self.host, self.application, self.process, self.kind, _, _ = head.decode(
            "ascii"
        ).split(" ")
        self.root = etree.fromstring(body)
        SCHEMA.assertValid(self.root)

    @property
    def event(self) -> str:
        """EventID's meaning, and that of its type: ``Application Activity/Application Start``."""
        identification = self.root.find("EventIdentification")
        return "/".join(code.get("originalText") for code in identification if code.get("originalText"))

    @property
    def action(self) -> str:
        return str(self.root.find("EventIdentification").get("EventActionCode"))

    @property
    def users(self) -> list[str]:
        """AE titles, or what else the participants are called."""
        found = self.root.findall("ActiveParticipant")
        return [str(p.get("AlternativeUserID") or p.get("UserID")).removeprefix("AETITLES=") for p in found]

    @property
    def objects(self) -> list[str]:
        return [o.get("ParticipantObjectID") for o in self.root.findall("ParticipantObjectIdentification")]

    @property
    def counts(self) -> dict[str, int]:
        """SOP Class UID -> instances."""
        return {c.get("UID"): int(c.get("NumberOfInstances")) for c in self.root.iter("SOPClass")}


class Collector:
    """``udp``, ``tcp`` or ``tls`` with octet counting. Down until it is entered; may be entered again."""

    def __init__(self, scheme: str, tls: ssl.SSLContext | None = None) -> None:
        self.scheme, self.port, self._tls = scheme, free_port(), tls
        self.url = f"{scheme}://{LOOPBACK}:{self.port}"
        self.raw: list[bytes] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def told(self) -> list[Told]:
        return [Told(content) for content in list(self.raw)]

    def events(self) -> list[str]:
        return [one.event for one in self.told]

    def wait_for(self, event: str, count: int = 1) -> list[Told]:
        """Wait until ``count`` messages of this kind have come, and return them."""
        wait_for(lambda: self.events().count(event) >= count, f"{count} x {event}")
        return [one for one in self.told if one.event == event]

    def __enter__(self) -> Self:
        kind = socket.SOCK_DGRAM if self.scheme == "udp" else socket.SOCK_STREAM
        self._listener = socket.socket(socket.AF_INET, kind)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((LOOPBACK, self.port))
        if self.scheme != "udp":
            self._listener.listen()
        self._start(self._datagrams if self.scheme == "udp" else self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(20)
        self._threads.clear()

    def hang_up(self) -> None:
        """End all connections at once, as a collector that dies does."""
        connections, self._open = self._open, []
        for connection in connections:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _datagrams(self) -> None:
        with suppress(OSError):
            while content := self._listener.recv(1 << 16):
                self.raw.append(content)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._start(self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self.connections += 1
            self._open.append(connection)
            with connection, connection.makefile("rb") as stream:
                while digits := _number(stream):
                    content = stream.read(int(digits))
                    if len(content) < int(digits):
                        return  # cut off: a collector that dies has not read it either
                    self.raw.append(content)


def _number(stream: object) -> bytes:
    digits = b""
    while (octet := stream.read(1)) not in (b" ", b""):  # type: ignore[attr-defined]
        digits += octet
    return digits


class Rsyslog(Server):
    """rsyslog, by TCP or, with a certificate, by TLS; it writes each message to ``messages``."""

    name = "rsyslogd"

    def __init__(self, folder: Path, papers: tuple[Authority, Issued] | None = None) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"{'tls' if papers else 'tcp'}://{LOOPBACK}:{self.port}"
        self.messages = folder / "messages"
        driver = ""
        secured = 'global(maxMessageSize="64k")'
        if papers:
            authority, issued = papers
            secured = (
                'global(maxMessageSize="64k" defaultNetstreamDriver="gtls" '
                f'defaultNetstreamDriverCAFile="{authority.path}" '
                f'defaultNetstreamDriverCertFile="{issued.certificate}" defaultNetstreamDriverKeyFile="{issued.key}")'
            )
            driver = ' streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid"'
        self.config = folder / "rsyslog.conf"
        self.config.write_text(
            f"{secured}\n"
            f'module(load="imtcp"{driver})\n'
            f'input(type="imtcp" address="{LOOPBACK}" port="{self.port}")\n'
            'template(name="raw" type="string" string="%rawmsg%\\n")\n'
            f'*.* action(type="omfile" file="{self.messages}" template="raw")\n'
        )

    def command(self) -> list[str | Path]:
        program = find_tool("rsyslogd", "rsyslog rsyslog-gnutls")
        return [program, "-n", "-f", self.config, "-i", self.folder / "pid"]

    def is_ready(self) -> bool:
        return listens(self.port)

    @property
    def told(self) -> list[Told]:
        lines = self.messages.read_bytes().splitlines() if self.messages.exists() else []
        return [Told(line) for line in lines if b"DICOM+RFC3881" in line]
