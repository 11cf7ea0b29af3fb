"""Silent TCP, half a header, half a TLS handshake and Store requests that take long, all at once and from the address
of the well-behaved: whoever behaves is answered as if they were not there.
"""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from chexnode.roles.certificates import Authority
from support.dicomweb import BOUNDARY, DICOM, part10_of, related
from support.nodes import Node
from support.radiographs import radiograph
from support.senders import an_image, store_file
from support.servers import LOOPBACK, free_port

SILENT, HALF_SHAKEN, STORES = 200, 50, 45
SECONDS = 2.0
"""What an answer may take, on a machine that gives it within a tenth of that when nothing else goes on."""
_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01"  # the beginning of one
_HALF_HEADER = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Never: "


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("siege")
    authority = Authority.open(folder / "certs")
    issued = authority.issue("CHEXNODE", [LOOPBACK], 1)
    node = Node(
        folder,
        limits={"negotiation_seconds": 120, "idle_seconds": 120},
        tls={
            "certificate": str(issued.certificate),
            "key": str(issued.key),
            "authorities": str(authority.path),
            "port": free_port(),
        },
        web={"requests_per_second": 0, "header_seconds": 120, "idle_seconds": 120},  # none is ended by a deadline
    )
    node.run("db", "upgrade")
    with node.role("receive"), node.role("web"):
        yield node


def hostile_store() -> bytes:
    """A request of a few kB that makes one thread of the old web role busy for minutes: the same object 2,000 times."""
    tiny = part10_of(radiograph(shape=(2, 2)))
    return gzip.compress(related([(DICOM, tiny)] * 2000), 9)


class Stores:
    """So many Store requests at once."""

    def __init__(self, node: Node) -> None:
        self._node, self._body = node, hostile_store()
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        kind = f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}'
        head = (
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Encoding: gzip\r\n"
            f"Content-Length: {len(self._body)}\r\n\r\n"
        )
        for _ in range(STORES):
            self._sockets.append(socket.create_connection((LOOPBACK, self._node.web_port), timeout=30))
            self._sockets[-1].sendall(head.encode() + self._body)

    def ended(self) -> list[bytes]:
        """The beginnings of answers; empty where a connection was ended without one."""
        found = []
        for one in self._sockets:
            one.setblocking(False)
            with suppress(BlockingIOError):
                found.append(one.recv(300, socket.MSG_PEEK))
        return found

    def stop(self) -> None:
        for one in self._sockets:
            one.close()


@contextmanager
def besieged(node: Node) -> Iterator[Stores]:
    with ExitStack() as stack:
        stores = Stores(node)
        stack.callback(stores.stop)
        stores.start()
        for _ in range(SILENT):
            stack.enter_context(socket.create_connection((LOOPBACK, node.port), timeout=30))
            half = stack.enter_context(socket.create_connection((LOOPBACK, node.web_port), timeout=30))
            with suppress(OSError):  # it may have had to make room already
                half.sendall(_HALF_HEADER)
        for _ in range(HALF_SHAKEN):
            stack.enter_context(socket.create_connection((LOOPBACK, node.tables["tls"]["port"]), timeout=30)).sendall(
                _CLIENT_HELLO
            )
        yield stores


def live(node: Node) -> float:
    """Seconds that /health/live takes."""
    started = time.monotonic()
    assert httpx.get(f"http://{LOOPBACK}:{node.web_port}/health/live", timeout=30).status_code == 200
    return time.monotonic() - started


def store(node: Node, number: int) -> float:
    """Seconds that a C-STORE takes."""
    started = time.monotonic()
    assert store_file(node.port, an_image(f"1.2.3.7.{number}", pixels=512 * 512), timeout=30).status == 0
    return time.monotonic() - started


def test_good_peers_are_served_within_two_seconds(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    live(node), store(node, 0)  # whatever is loaded once is loaded
    quiet = max(live(node), store(node, 1))
    with besieged(node) as stores:
        took = [(live(node), store(node, number)) for number in range(2, 6)]
        assert stores.ended() == [], "the siege is still on"
    with capsys.disabled():
        slowest = [max(column) for column in zip(*took, strict=True)]
        print(
            f"\nsiege of the web role: /health/live at most {slowest[0]:.2f} s, C-STORE {slowest[1]:.2f} s; "
            f"undisturbed {quiet:.2f} s"
        )
    assert max(slowest) < max(SECONDS, 10 * quiet)
