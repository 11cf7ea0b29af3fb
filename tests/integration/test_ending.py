"""SIGTERM: every role ends within ten seconds whatever is under way, says so, and loses nothing acknowledged."""

from __future__ import annotations

import gzip
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.dicomweb import BOUNDARY, DICOM, part10_of, related
from support.nodes import Node, loopback_destination
from support.radiographs import radiograph
from support.senders import CR_IMAGE, EXPLICIT_VR, Sender, an_image, store_file, take_apart
from support.servers import LOOPBACK, wait_for

SECONDS = 10.0
BUSY_SECONDS = 5.0
"""What a machine that runs other tests too may add."""


def half_a_store(port: int) -> socket.socket:
    """An association in the middle of a data set."""
    sender = Sender(port, [(CR_IMAGE, (EXPLICIT_VR,))])
    sender.send_command(1, sender.store_elements(an_image("1.2.3.666")), has_data_set=True)
    sender.send_data(1, bytes(1000), last=False)
    return sender.sock


def endless_store(port: int) -> socket.socket:
    """A Store request of a few kB that keeps a thread busy for a minute."""
    body = gzip.compress(related([(DICOM, part10_of(radiograph(shape=(2, 2))))] * 5000))
    kind = f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}'
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sock = socket.create_connection((LOOPBACK, port), timeout=30)
    sock.sendall(head.encode() + body)
    return sock


@pytest.mark.timeout(300)
def test_every_role_ends_in_time_whatever_is_under_way(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server((LOOPBACK, 0)))  # takes connections and never answers
        destination = loopback_destination("PACS", "PACS", silent.getsockname()[1], timeout_seconds=120)
        node = Node(tmp_path, destination=[destination])
        up = node.up
        up.start()
        stack.callback(up.kill)
        assert store_file(node.port, take_apart(part10_of(radiograph("DX")))).status == 0
        delivering, _ = silent.accept()
        stack.enter_context(delivering)
        stack.enter_context(half_a_store(node.port))
        for _ in range(3):
            stack.enter_context(endless_store(node.web_port))
        wait_for(lambda: "STOW-RS" in up.latest(), "a Store request to be under way")
        assert up.process is not None
        asked = time.monotonic()
        up.process.terminate()
        code = up.process.wait(60)
        took = time.monotonic() - asked
        log = up.latest()
        ends = [line for line in log.splitlines() if "end" in line or "cut off" in line or "killed" in line]
        print(*ends[-30:], sep="\n")
        for role in ("receiver", "worker", "web"):
            assert f"{role}: asked to end" in log
            assert f"{role}: ended" in log
        assert "is killed" not in log
        assert "lease" not in log
        assert code == 0
        assert took < SECONDS + BUSY_SECONDS
        assert node.account()["received"] >= 1
