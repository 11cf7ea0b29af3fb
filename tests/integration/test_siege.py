"""Two hundred silent connections, fifty halves of a TLS handshake, a sender that trickles and one that vanishes in the
middle of a PDU, all at once: whoever behaves stores as if they were not there.
"""

from __future__ import annotations

import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from chexnode.roles.certificates import Authority
from chexnode.settings.limits import LimitSettings
from chexnode.settings.tls import TlsSettings
from chexnode.tls import client_context
from support.receivers import a_settings, receiving, rows, spooled
from support.senders import CR_IMAGE, EXPLICIT_VR, Sender, an_image, store_file
from support.servers import LOOPBACK, wait_for

SILENT, HALF_SHAKEN = 200, 50
STORES = 10
SECONDS = 2.0
"""What a store may take, on a machine that does it within a tenth of that when nothing else goes on."""

_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01"  # the beginning of one
_LONG_FRAGMENT = struct.pack(">BxLLBB", 0x04, 1 << 20, (1 << 20) - 4, 1, 0x00)


class Trickler(threading.Thread):
    """Sends one byte of a data set at a time, for ever."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.sent = 0
        self.sender = _storing(port)

    def run(self) -> None:
        with suppress(OSError):
            self.sender.sock.sendall(_LONG_FRAGMENT)
            while not self.done.wait(0.05):
                self.sender.sock.sendall(b"\0")
                self.sent += 1


class Vanisher(threading.Thread):
    """Breaks off in the middle of a PDU, by a reset as often as by an orderly end, again and again."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.port = port
        self.times = 0

    def run(self) -> None:
        while not self.done.wait(0.02):
            with suppress(OSError):
                sender = _storing(self.port)
                sender.sock.sendall(_LONG_FRAGMENT + bytes(300_000))
                if self.times % 2:
                    sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sender.sock.close()
                self.times += 1


def _storing(port: int) -> Sender:
    """An association in the middle of a C-STORE request."""
    sender = Sender(port, [(CR_IMAGE, (EXPLICIT_VR,))])
    sender.send_command(1, sender.store_elements(an_image("1.2.3.666")), has_data_set=True)
    return sender


@contextmanager
def besieged(port: int, tls_port: int) -> Iterator[tuple[Trickler, Vanisher]]:
    """All of them at once, from the address of the well-behaved."""
    with ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(socket.create_connection((LOOPBACK, port), timeout=30))
        for _ in range(HALF_SHAKEN):
            stack.enter_context(socket.create_connection((LOOPBACK, tls_port), timeout=30)).sendall(_CLIENT_HELLO)
        trickler, vanisher = Trickler(port), Vanisher(port)
        stack.callback(trickler.sender.sock.close)
        for one in (trickler, vanisher):
            one.start()
            stack.callback(one.join, 30)
            stack.callback(one.done.set)
        wait_for(lambda: vanisher.times >= 2 and trickler.sent >= 2, "the siege to be on")
        yield trickler, vanisher


@pytest.mark.timeout(600)
def test_a_well_behaved_peer_stores_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority.open(tmp_path / "certs")
    issued = authority.issue("CHEXNODE", [LOOPBACK], 1)
    tls = TlsSettings(certificate=issued.certificate, key=issued.key, authorities=authority.path, port=0)
    limits = LimitSettings(negotiation_seconds=120, idle_seconds=120)  # none of them goes away by itself
    settings = a_settings(tmp_path, tls=tls, limits=limits)
    context = client_context(tls)
    with receiving(settings) as (receiver, ledger, _):
        port, tls_port = receiver.port, receiver.tls_port
        assert port is not None
        assert tls_port is not None
        numbers = iter(range(10_000))

        def store(over_tls: bool) -> float:
            part = an_image(f"1.2.3.5.{next(numbers)}", pixels=512 * 512)
            started = time.monotonic()
            answer = store_file(tls_port if over_tls else port, part, tls=context if over_tls else None, timeout=120)
            assert answer.status == 0
            return time.monotonic() - started

        store(False), store(True)  # whatever is loaded once is loaded
        quiet = {over_tls: [store(over_tls) for _ in range(STORES)] for over_tls in (False, True)}
        with besieged(port, tls_port) as (trickler, vanisher):
            under_siege = {over_tls: [store(over_tls) for _ in range(STORES)] for over_tls in (False, True)}
            assert trickler.is_alive(), "it is still at it"
            vanished = vanisher.times
        stored = 2 + 4 * STORES
        assert len(rows(ledger)) == stored
        wait_for(lambda: len(spooled(settings)) == stored, "what was broken off to be removed")
    with capsys.disabled():
        for over_tls in (False, True):
            print(
                f"\nsiege{' by TLS' if over_tls else ''}: a store takes {statistics.median(quiet[over_tls]):.3f} s, at "
                f"most {max(quiet[over_tls]):.3f}; under siege {statistics.median(under_siege[over_tls]):.3f}, at most "
                f"{max(under_siege[over_tls]):.3f} ({vanished} vanished)"
            )
    for over_tls in (False, True):
        assert max(under_siege[over_tls]) <= max(SECONDS, 10 * max(quiet[over_tls]))
