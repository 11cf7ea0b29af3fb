"""The doorbell on the embedded broker and on Redis."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection

from chexnode.queue.bell import Bell
from chexnode.queue.broker import MOST_RINGS, QUEUES, connect, publish
from support.disks import SmallDisk
from support.servers import LOOPBACK, Redis, wait_for


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    return "embedded" if request.param == "embedded" else str(request.getfixturevalue("redis").url)


@pytest.fixture
def connection(url: str, tmp_path: Path) -> Iterator[Connection]:
    with connect(url, tmp_path) as connection:
        yield connection


def waiting(connection: Connection, queue: str) -> int:
    return int(QUEUES[queue](connection.default_channel).queue_declare().message_count)


WORKER = """
import sys, threading
from pathlib import Path
from chexnode.queue.app import make_app
from chexnode.queue.tasks import consume, register
def say(*words):
    print(*words, flush=True)
app = make_app(sys.argv[1], Path(sys.argv[2]))
register(app, lambda: say("infer"), lambda destination: say("deliver", destination))
stopping = threading.Event()
consume(app, ["infer", "deliver"], 2, stopping, lambda: None)
say("stopped", stopping.is_set())
"""


def test_a_ring_reaches_a_celery_worker_that_then_stops_cleanly(url: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, url, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(line.strip() for line in process.stdout or ()))
    reader.start()
    bell = Bell(url, tmp_path)
    try:
        bell.ring("infer")
        bell.ring("deliver", "pacs")
        wait_for(lambda: {"infer", "deliver pacs"} <= set(lines), "both rings")
    finally:
        bell.close()
        process.terminate()
        process.wait(30)
        reader.join()
    assert lines[-1] == "stopped True"


def test_rings_are_bounded(connection: Connection) -> None:
    rung = [publish(connection, "infer") for _ in range(MOST_RINGS + 10)]
    assert rung == [True] * MOST_RINGS + [False] * 10
    assert waiting(connection, "infer") == MOST_RINGS
    assert publish(connection, "deliver", "pacs"), "the other queue has room"


def test_rings_that_wait_are_one_ring(connection: Connection, url: str, tmp_path: Path) -> None:
    bell = Bell(url, tmp_path)
    for _ in range(1000):
        bell.ring("infer")
    bell.close()
    assert 1 <= waiting(connection, "infer") < MOST_RINGS


def test_a_broker_that_never_answers_costs_the_ringer_nothing(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        bell = Bell(f"redis://{LOOPBACK}:{silent.getsockname()[1]}/0", tmp_path)
        bell.ring("infer")
        waiting_bell, _ = silent.accept()
        with waiting_bell:
            assert waiting_bell.recv(1), "the bell asks, and from now on waits"
            for _ in range(200):
                bell.ring("infer")
            waiting_bell.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while waiting_bell.recv(4096):
                    pass
                pytest.fail("the bell gave up before the rings returned")
        bell.close()


def test_the_bell_rings_again_after_the_broker_was_away(redis: Redis, tmp_path: Path) -> None:
    bell = Bell(redis.url, tmp_path)
    redis.kill()
    bell.ring("infer")
    redis.start()

    def rung() -> bool:
        bell.ring("infer")
        with connect(redis.url, tmp_path) as connection:
            return waiting(connection, "infer") > 0

    try:
        wait_for(rung, "a ring", 30)
    finally:
        bell.close()


def test_ringing_needs_no_celery(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from chexnode.queue.bell import Bell
bell = Bell("embedded", Path({str(tmp_path)!r}))
bell.ring("infer")
bell.close()
assert "celery" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with connect("embedded", tmp_path) as connection:
        assert waiting(connection, "infer") == 1


def test_a_message_of_the_embedded_broker_appears_whole(tmp_path: Path) -> None:
    """A reader that is always looking never sees part of a message."""
    stop = threading.Event()
    sizes: set[int] = set()

    def watch() -> None:
        folder = tmp_path / "broker" / "messages"
        while not stop.is_set():
            for message in folder.glob("*.msg"):
                sizes.add(message.stat().st_size)

    with connect("embedded", tmp_path) as connection:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for _ in range(MOST_RINGS):
                publish(connection, "infer")
        finally:
            stop.set()
            watcher.join()
    assert sizes
    assert min(sizes) > 500


def test_the_embedded_broker_survives_a_full_disk(tmp_path: Path) -> None:
    with SmallDisk.real(tmp_path / "var", 1) as disk:
        connect("embedded", disk.folder)  # makes the folders
        disk.fill()
        for _ in range(3):
            with (
                connect("embedded", disk.folder) as connection,
                pytest.raises(Exception, match=r"No space|Cannot open"),
            ):
                publish(connection, "infer")
        left = [file for file in (disk.folder / "broker").rglob("*") if file.is_file()]
        assert [file.suffix for file in left] == [".exchange"], "what could not be written piles up"
        disk.drain()
        with connect("embedded", disk.folder) as connection:
            assert publish(connection, "infer")
            assert waiting(connection, "infer") == 1


def test_a_message_that_the_disk_refuses_leaves_nothing(tmp_path: Path) -> None:
    with SmallDisk.real(tmp_path / "var", 1) as disk, connect("embedded", disk.folder) as connection:
        publish(connection, "infer")
        disk.fill()
        with pytest.raises(OSError, match="No space"):
            publish(connection, "infer")
        assert not list((disk.folder / "broker").rglob("*.part"))
