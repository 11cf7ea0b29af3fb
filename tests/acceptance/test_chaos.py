"""Things break for real: every acknowledged image still ends with its results in the PACS exactly once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from support import senders
from support.disks import SmallDisk
from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.servers import Orthanc, Postgres, Redis, wait_for

RECOVERY_SECONDS = 90
"""Everything is done this long after everything is up again."""


def node_and_pacs(folder: Path, **tables: object) -> tuple[Node, Orthanc]:
    node = Node(folder / "node", **tables)
    pacs = Orthanc(folder / "pacs")
    node.tables["destination"] = [loopback_destination("pacs", "ORTHANC", pacs.port)]
    node.write_settings()
    return node, pacs


def send(node: Node, files: list[Path], acknowledged: list[str] | None = None) -> list[str]:
    """Send each file; gather the SOP Instance UIDs of those that were acknowledged."""
    parts = [senders.take_apart(file.read_bytes()) for file in files]
    acknowledged = [] if acknowledged is None else acknowledged
    for part in parts:
        try:
            if senders.store_file(node.port, part).status == 0:
                acknowledged.append(part.sop_instance_uid)
        except (OSError, senders.Refused, senders.Aborted, senders.Gone):
            pass  # not acknowledged: the sender still has it
    return acknowledged


def sources(node: Node) -> list[Path]:
    """The stored files of images."""
    return list((node.data_dir / "spool" / "sources").rglob("*.dcm"))


def check(node: Node, pacs: Orthanc, acknowledged: list[str]) -> None:
    """Each acknowledged image is DONE and its results, as the ledger names them, are in the PACS exactly once."""
    jobs = node.wait_until_settled(len(acknowledged), RECOVERY_SECONDS)
    stored = [pacs.tags(instance)["SOPInstanceUID"] for instance in pacs.instances()]
    wanted = []
    for uid in acknowledged:
        [job] = jobs[uid]
        assert job["state"] == "DONE", job
        wanted += [result["uid"] for result in node.json("jobs", "show", job["id"])["results"]]
    assert len(wanted) >= len(acknowledged)
    assert sorted(stored) == sorted(wanted)
    account = node.account()
    assert account["received"] == account["analysed"] >= len(acknowledged)


def test_worker_killed_in_mid_inference(tmp_path: Path) -> None:
    node, pacs = node_and_pacs(tmp_path)
    with pacs, node.up:
        acknowledged = send(node, phantom_files(tmp_path / "in", 12))
        node.wait_for_job("RUNNING")
        [worker] = node.up.children("worker")
        worker.kill()
        check(node, pacs, acknowledged)


def test_receiver_killed_in_mid_store(tmp_path: Path) -> None:
    node, pacs = node_and_pacs(tmp_path)
    files = phantom_files(tmp_path / "in", 12)
    with pacs, node.up:
        acknowledged: list[str] = []
        sending = threading.Thread(target=send, args=(node, files, acknowledged))
        sending.start()
        wait_for(lambda: acknowledged, "the first image")
        [receiver] = node.up.children("receive")
        receiver.kill()
        sending.join()
        wait_for(lambda: node.up.is_ready() and node.up.children("receive"), "the receiver to be back")
        acknowledged += send(node, [f for f in files if senders.take_apart(f.read_bytes()).sop_instance_uid
                                    not in acknowledged])  # fmt: skip
        assert len(acknowledged) == len(files)
        check(node, pacs, acknowledged)


def test_everything_killed_at_once(tmp_path: Path) -> None:
    node, pacs = node_and_pacs(tmp_path)
    with pacs:
        node.up.start()
        acknowledged = send(node, phantom_files(tmp_path / "in", 6))
        node.up.kill_everything()
        with node.up:
            check(node, pacs, acknowledged)


def test_destination_down_for_a_while(tmp_path: Path) -> None:
    node, pacs = node_and_pacs(tmp_path)
    with node.up:
        acknowledged = send(node, phantom_files(tmp_path / "in", 3))
        wait_for(
            lambda: sum(d["attempts"] for d in node.json("deliveries")) >= 2, "deliveries that failed", RECOVERY_SECONDS
        )
        with pacs:
            check(node, pacs, acknowledged)


def test_disk_full_under_everything(tmp_path: Path) -> None:
    """Sources, results, SQLite and the embedded broker's messages are all on it."""
    with SmallDisk.real(tmp_path / "node" / "var", 64) as disk:
        node, pacs = node_and_pacs(tmp_path)
        with pacs, node.up:
            acknowledged = send(node, phantom_files(tmp_path / "in", 6))
            disk.fill()
            assert send(node, phantom_files(tmp_path / "lost", 2, first_seed=50)) == [], "acknowledged without a file"
            worker_noticed = re.compile("put back: the disk refused|(tick|no jobs claimed): database")
            wait_for(lambda: worker_noticed.search(node.up.latest()), "the worker to notice", RECOVERY_SECONDS)
            disk.drain()
            acknowledged += wait_for_acknowledgement(node, phantom_files(tmp_path / "in2", 2, first_seed=100))
            check(node, pacs, acknowledged)


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str, redis: Redis) -> tuple[Node, Orthanc, Redis]:
    node, pacs = node_and_pacs(tmp_path, database={"url": postgres_url}, broker={"url": redis.url})
    node.run("db", "upgrade")
    return node, pacs, redis


def test_broker_killed(cluster: tuple[Node, Orthanc, Redis], tmp_path: Path) -> None:
    node, pacs, redis = cluster
    with pacs, node.role("receive"), node.role("worker"):
        acknowledged = send(node, phantom_files(tmp_path / "in", 2))
        redis.kill()
        acknowledged += send(node, phantom_files(tmp_path / "in2", 2, first_seed=100))
        check(node, pacs, acknowledged)  # without a broker at all, at the housekeeping pace
        redis.start()
        acknowledged += send(node, phantom_files(tmp_path / "in3", 2, first_seed=200))
        check(node, pacs, acknowledged)


def test_postgresql_restarted(cluster: tuple[Node, Orthanc, Redis], postgres: Postgres, tmp_path: Path) -> None:
    node, pacs, _ = cluster
    with pacs, node.role("receive"), node.role("worker"):
        acknowledged = send(node, phantom_files(tmp_path / "in", 4))
        postgres.crash()
        assert send(node, phantom_files(tmp_path / "lost", 1, first_seed=50)) == [], "acknowledged without a row"
        assert len(sources(node)) == len(acknowledged), "files without a row pile up"
        postgres.start()
        acknowledged += wait_for_acknowledgement(node, phantom_files(tmp_path / "in2", 2, first_seed=100))
        check(node, pacs, acknowledged)


def wait_for_acknowledgement(node: Node, files: list[Path]) -> list[str]:
    """Send until all are acknowledged, as a PACS that retries does."""
    done: dict[str, None] = {}
    attempt: Callable[[], bool] = lambda: done.update(dict.fromkeys(send(node, files))) or len(done) == len(files)  # noqa: E731
    wait_for(attempt, "the receiver to acknowledge again")
    return list(done)


def test_receiver_killed_between_file_and_row(cluster: tuple[Node, Orthanc, Redis], tmp_path: Path) -> None:
    """The row waits for a lock while the file is durable: what is left of it is swept, and is no image."""
    node, pacs, _ = cluster
    images = phantom_files(tmp_path / "in", 1)
    with psycopg.connect(node.tables["database"]["url"].replace("+psycopg", "")) as other:
        receiver = node.role("receive").start()
        other.execute("LOCK TABLE instances IN ACCESS EXCLUSIVE MODE")
        acknowledged: list[str] = []
        sending = threading.Thread(target=send, args=(node, images, acknowledged))
        sending.start()
        [orphan] = wait_for(lambda: sources(node), "the file")
        receiver.kill()
        sending.join()
        assert acknowledged == []
    with pacs, receiver:
        acknowledged = send(node, images)
        assert len(sources(node)) == 2
        os.utime(orphan, (0, 0))
        with node.role("worker"):
            wait_for(lambda: not orphan.exists(), "the orphan to be swept", RECOVERY_SECONDS)
            check(node, pacs, acknowledged)
    assert len(sources(node)) == 1
