"""What costs a sender little must cost us little: empty items by the million, answers in pieces of one byte."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
import tracemalloc

import pytest

from chexnode.dimse import datasets
from chexnode.dimse.commitment import MAX_ELEMENTS
from chexnode.dimse.datasets import NotADataSet
from chexnode.dimse.upper import Upper
from chexnode.receive.outcome import Failure
from chexnode.receive.storage import _disk_failed
from chexnode.spool.spool import DiskRefused

IMPLICIT_VR = "1.2.840.10008.1.2"


def test_an_action_of_a_million_empty_items_is_refused_before_any_is_made() -> None:
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 1_000_000
    bomb = struct.pack("<HHL", 0x0008, 0x1199, len(items)) + items
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(NotADataSet):
        datasets.decode(bomb, IMPLICIT_VR, MAX_ELEMENTS)
    took, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 10
    assert peak < 100_000_000


@pytest.mark.parametrize("max_length", [1, 7])
def test_an_answer_in_tiny_pieces_costs_as_many_times_its_length(max_length: int) -> None:
    """Four times as much takes about four times as long, and not sixteen."""

    def seconds(size: int) -> float:
        ours, theirs = socket.socketpair()
        got = [0]

        def read() -> None:
            while piece := theirs.recv(1 << 20):
                got[0] += len(piece)

        reader = threading.Thread(target=read)
        reader.start()
        started = time.thread_time()
        Upper(ours).send_fragments(1, 0, bytes(size), max_length)
        took = time.thread_time() - started
        ours.close()
        reader.join(30)
        theirs.close()
        assert got[0] == size * 13, "each byte in a PDU and a PDV of its own"
        return took

    small = min(seconds(50_000) for _ in range(3))
    assert min(seconds(200_000) for _ in range(3)) < 8 * small + 0.05


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (errno.EMFILE, Failure.BUSY),
        (errno.ENFILE, Failure.BUSY),
        (errno.ENOSPC, Failure.DISK_FAILED),
        (errno.EIO, Failure.DISK_FAILED),
    ],
)
def test_too_many_open_files_are_no_fault_of_the_disk(code: int, failure: Failure) -> None:
    refused = DiskRefused("refused")
    refused.__cause__ = OSError(code, "x")
    assert _disk_failed(refused).answer.failure is failure
