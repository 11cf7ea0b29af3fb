"""The receiver when its database or its disk fails, when it is stopped and when it is killed."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import instances
from chexnode.spool.spool import Incoming
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.records import Arrival, JobSpec, Receipt
from support.ledgers import opened
from support.receivers import ReceiverProcess, a_settings, receiving, rows, spooled
from support.senders import (
    CR_IMAGE,
    EXPLICIT_VR,
    Aborted,
    Gone,
    Sender,
    an_image,
    read_part10,
    store_file,
)
from support.servers import wait_for

# The ledger does not answer


class Stubborn:
    """Stands before a real ledger and refuses as told."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.record = ledger.instances.record
        self.refusals: list[Exception] = []
        self.after_commit = False
        ledger.instances.record = self  # type: ignore[method-assign,assignment]

    def __call__(self, arrivals: list[Arrival], spec: JobSpec, before_commit: Callable[[], None]) -> list[Receipt]:
        if not self.refusals:
            return self.record(arrivals, spec, before_commit)
        if self.after_commit:
            self.record(arrivals, spec, before_commit)
        raise self.refusals.pop()


def test_a_database_that_is_down_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    with opened(settings.database.url) as ledger:
        stubborn = Stubborn(ledger)
        with receiving(settings, ledger) as (receiver, _, _):
            stubborn.refusals = [Transient("database: away")] * 2
            assert store_file(receiver.port, an_image()).status == 0xA700
            assert spooled(settings) == []
            stubborn.refusals = [ZeroDivisionError("Secret^Patient")] * 2
            assert store_file(receiver.port, an_image()).status == 0x0110
            assert spooled(settings) == []
            assert store_file(receiver.port, an_image()).status == 0
        assert len(rows(ledger)) == len(spooled(settings)) == 1


@pytest.mark.parametrize("pixels", [64 * 64, 1200 * 1200])
def test_rows_are_committed_only_when_their_files_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    settings = a_settings(tmp_path)
    keep = Incoming.keep
    seen: list[int] = []

    with opened(settings.database.url) as ledger:

        def slow_keep(incoming: Incoming) -> None:
            time.sleep(0.1)
            with ledger.database.read() as conn:
                seen.append(len(conn.execute(select(instances)).all()))
            keep(incoming)

        monkeypatch.setattr(Incoming, "keep", slow_keep)
        with receiving(settings, ledger) as (receiver, _, _):
            assert store_file(receiver.port, an_image(pixels=pixels)).status == 0
        assert seen == [0]
        assert len(rows(ledger)) == 1


def test_a_disk_that_fails_at_the_last_moment_leaves_neither_row_nor_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = a_settings(tmp_path)
    fsync = os.fsync

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".dcm"):
            raise OSError(errno.EIO, "I/O error")
        fsync(fd)

    with receiving(settings) as (receiver, ledger, _):
        monkeypatch.setattr(os, "fsync", failing)
        response = store_file(receiver.port, an_image())
        assert (response.status, response.comment) == (0xA700, "the disk is full or failing")
        assert rows(ledger) == []
        assert spooled(settings) == []
        monkeypatch.setattr(os, "fsync", fsync)
        assert store_file(receiver.port, an_image()).status == 0


def test_a_commit_whose_answer_was_lost_is_found_out(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    with opened(settings.database.url) as ledger:
        stubborn = Stubborn(ledger)
        stubborn.after_commit = True
        with receiving(settings, ledger) as (receiver, _, _):
            stubborn.refusals = [Transient("connection lost during commit")]
            assert store_file(receiver.port, an_image("1.2.1")).status == 0
            stubborn.refusals = [Transient("connection lost during commit")] * 2
            assert store_file(receiver.port, an_image("1.2.2")).status == 0xA700
        found = rows(ledger)
        assert len(found) == 2
        assert all((tmp_path / row.path).is_file() for row in found)


def test_a_poisonous_arrival_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    with opened(settings.database.url) as ledger:
        record = ledger.instances.record

        def refuse(arrivals: list[Arrival], spec: JobSpec, before_commit: Callable[[], None]) -> list[Receipt]:
            if any(arrival.sop_instance_uid == "1.2.666" for arrival in arrivals):
                raise ValueError("poison")
            return record(arrivals, spec, before_commit)

        ledger.instances.record = refuse  # type: ignore[method-assign,assignment]
        with receiving(settings, ledger) as (receiver, _, _):
            statuses: dict[str, int] = {}

            def send(uid: str) -> None:
                statuses[uid] = store_file(receiver.port, an_image(uid)).status

            uids = [f"1.2.{n}" for n in range(660, 670)]
            threads = [threading.Thread(target=send, args=(uid,)) for uid in uids]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert statuses == {uid: 0x0110 if uid == "1.2.666" else 0 for uid in uids}
        assert {row.sop_instance_uid for row in rows(ledger)} == set(uids) - {"1.2.666"}
        assert len(spooled(settings)) == 9


# Stopping, and being killed


def test_stopping_lets_a_running_store_finish_and_ends_the_idle(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    with opened(settings.database.url) as ledger:
        with receiving(settings, ledger) as (receiver, _, _):
            idle = Sender(receiver.port)
            silent = socket.create_connection(("127.0.0.1", receiver.port))
            busy = Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))])
            part = an_image()
            busy.send_command(1, busy.store_elements(part), has_data_set=True)
            busy.send_data(1, part.data[:5000], last=False)
            wait_for(lambda: any(a._busy for a in receiver._server._negotiated), "the store to have begun")
            stopping = threading.Thread(target=receiver.stop)
            stopping.start()
            with pytest.raises(Aborted):
                idle.read_pdu()
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", receiver.port), timeout=1)
            busy.send_data(1, part.data[5000:])
            assert busy.read_response().status == 0
            with pytest.raises(Aborted):
                busy.read_pdu()
            stopping.join(20)
            assert not stopping.is_alive()
            for connection in (idle.sock, silent, busy.sock):
                connection.close()
            receiver.stop = lambda: None  # type: ignore[method-assign]  # it has
        assert len(rows(ledger)) == 1


def test_killed_in_mid_store_everything_acknowledged_is_there(tmp_path: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    with ReceiverProcess(tmp_path) as process:
        for life in range(1, 4):
            counts = [0] * 4

            def send(number: int, life: int = life, counts: list[int] = counts) -> None:
                try:
                    with Sender(process.port, [(CR_IMAGE, (EXPLICIT_VR,))], pdu_length=65536) as sender:
                        for n in range(1, 10_000):
                            part = an_image(f"1.{life}.{number}.{n}", pixels=(100 if n % 4 else 1000) ** 2)
                            if sender.store(part).status == 0:
                                acknowledged[part.sop_instance_uid] = part.data
                                counts[number - 1] = n
                except (Gone, OSError):
                    return

            threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 5)]
            for thread in threads:
                thread.start()
            wait_for(lambda counts=counts: min(counts) >= 3, "some acknowledgements")  # type: ignore[misc]
            assert process.process is not None
            os.kill(process.process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
            process.kill()
            process.start()
        assert store_file(process.port, an_image("1.9.9")).status == 0
    with opened(process.url) as ledger:
        found = {row.sop_instance_uid: row for row in rows(ledger)}
    assert set(acknowledged) <= set(found)
    for uid, data in acknowledged.items():
        assert read_part10(tmp_path / "var" / found[uid].path).data == data
    for row in found.values():
        # A row that nobody was told of is whole as well.
        content = read_part10(tmp_path / "var" / row.path)
        assert hashlib.sha256(content.data).hexdigest() == row.digest


def test_the_receiver_imports_neither_torch_nor_celery() -> None:
    code = "import sys, chexnode.receive.receiver; sys.exit(bool({'torch', 'celery', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
