"""A DICOMweb service that answers STOW-RS as a test wants."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pydicom

from support import servers


@dataclass
class Request:
    """One Store request, as it came."""

    path: str
    headers: Mapping[str, str]
    parts: list[bytes]
    connection: int
    """Number of the TCP connection, from 1."""

    @property
    def uids(self) -> list[str]:
        return [str(pydicom.dcmread(BytesIO(part), stop_before_pixels=True).SOPInstanceUID) for part in self.parts]


@dataclass
class Reply:
    """What to answer."""

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False


def module(stored: Mapping[str, int] = {}, failed: Mapping[str, int] = {}) -> bytes:
    """A Store Instances Response Module: SOP Instance UID -> Warning Reason (0: none), or Failure Reason."""

    def items(reasons: Mapping[str, int], reason_tag: str) -> list[dict[str, Any]]:
        return [
            {"00081155": {"vr": "UI", "Value": [uid]}}
            | ({reason_tag: {"vr": "US", "Value": [reason]}} if reason else {})
            for uid, reason in reasons.items()
        ]

    lists = {"00081199": items(stored, "00081196"), "00081198": items(failed, "00081197")}
    return json.dumps({tag: {"vr": "SQ", "Value": value} for tag, value in lists.items() if value}).encode()


def all_stored(request: Request) -> Reply:
    """What a well service says."""
    return Reply(200, module(dict.fromkeys(request.uids, 0)))


@contextmanager
def service(
    answer: Callable[[Request], Reply] = all_stored,
    tls: ssl.SSLContext | None = None,
    search: Callable[[str], Reply] = lambda _: Reply(404),
) -> Iterator[tuple[str, list[Request]]]:
    """Serve; yields the base URL and the Store requests, which grow as they come. ``search`` answers a path asked."""
    seen: list[Request] = []
    connections = iter(range(1, 1_000_000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.number = next(connections)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Request(self.path, dict(self.headers), _parts(self.headers["Content-Type"], body), self.number)
            seen.append(request)
            reply = answer(request)
            self.close_connection = reply.hang_up
            if reply.hang_up:
                return
            self.reply(reply)

        def do_GET(self) -> None:
            self.reply(search(self.path))

        def reply(self, reply: Reply) -> None:
            content = reply.body or b""
            self.send_response(reply.status)
            for name, value in ({"Content-Type": "application/dicom+json"} | dict(reply.headers)).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((servers.LOOPBACK, 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        scheme = "https" if tls is not None else "http"
        yield f"{scheme}://{servers.LOOPBACK}:{server.server_address[1]}/dicom-web", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _parts(content_type: str, body: bytes) -> list[bytes]:
    """The parts of a multipart body (RFC 2046 section 5.1.1), by their boundary alone."""
    head = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode())
    assert head.get_content_type() == "multipart/related"
    assert head.get_param("type") == "application/dicom"
    boundary = f"--{head.get_boundary()}".encode()
    assert body.startswith(boundary)
    assert body.endswith(boundary + b"--\r\n")
    parts = []
    for part in body.removesuffix(boundary + b"--\r\n").split(boundary + b"\r\n")[1:]:
        headers, _, content = part.partition(b"\r\n\r\n")
        assert headers == b"Content-Type: application/dicom"
        assert content.endswith(b"\r\n")
        parts.append(content[:-2])
    return parts
