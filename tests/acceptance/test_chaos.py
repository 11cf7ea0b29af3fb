"""Things break for real: every acknowledged image still ends with its results in the PACS exactly once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
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


class Site:
    """A node and its PACS; every image that was ever acknowledged counts at every check."""

    def __init__(self, folder: Path, **tables: object) -> None:
        self.node = Node(folder / "node", **tables)
        self.pacs = Orthanc(folder / "pacs")
        self.node.tables["destination"] = [loopback_destination("pacs", "ORTHANC", self.pacs.port)]
        self.node.write_settings()
        self.acknowledged: list[str] = []

    def send(self, files: list[Path]) -> list[str]:
        """Send each file; return the SOP Instance UIDs of those that were acknowledged."""
        return send(self.node, files, self.acknowledged)

    def check(self) -> None:
        """Each acknowledged image is DONE and its results, as the ledger names them, are in the PACS exactly once."""
        node, acknowledged = self.node, set(self.acknowledged)
        jobs = node.wait_until_settled(len(acknowledged), RECOVERY_SECONDS)
        stored = [self.pacs.tags(instance)["SOPInstanceUID"] for instance in self.pacs.instances()]
        wanted = []
        for uid in acknowledged:
            [job] = jobs[uid]
            assert job["state"] == "DONE", job
            wanted += [result["uid"] for result in node.json("jobs", "show", job["id"])["results"]]
        assert len(wanted) >= len(acknowledged)
        assert sorted(stored) == sorted(wanted)
        account = node.account()
        assert account["received"] == account["analysed"] >= len(acknowledged)


def send(node: Node, files: list[Path], acknowledged: list[str]) -> list[str]:
    """Send each file; add the UIDs of those that were acknowledged to ``acknowledged``, and return them."""
    ours = []
    for part in [senders.take_apart(file.read_bytes()) for file in files]:
        try:
            if senders.store_file(node.port, part).status == 0:
                ours.append(part.sop_instance_uid)
                acknowledged.append(part.sop_instance_uid)
        except (OSError, senders.Refused, senders.Aborted, senders.Gone):
            pass  # not acknowledged: the sender still has it
    return ours


def sources(node: Node) -> list[Path]:
    """The stored files of images."""
    return list((node.data_dir / "spool" / "sources").rglob("*.dcm"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One command on the embedded defaults. What was broken by one test is whole again for the next."""
    site = Site(tmp_path_factory.mktemp("chaos"))
    with site.pacs, site.node.up:
        yield site


def test_worker_killed_in_mid_inference(site: Site, tmp_path: Path) -> None:
    site.send(phantom_files(tmp_path / "in", 8))
    site.node.wait_for_job("RUNNING")
    [worker] = site.node.up.children("worker")
    worker.kill()
    site.check()


def test_receiver_killed_in_mid_store(site: Site, tmp_path: Path) -> None:
    node = site.node
    files = phantom_files(tmp_path / "in", 8, first_seed=100)
    acknowledged: list[str] = []
    sending = threading.Thread(target=send, args=(node, files, acknowledged))
    sending.start()
    wait_for(lambda: acknowledged, "the first image")
    [receiver] = node.up.children("receive")
    receiver.kill()
    sending.join()
    wait_for(lambda: node.up.is_ready() and node.up.children("receive"), "the receiver to be back")
    send(node, [f for f in files if senders.take_apart(f.read_bytes()).sop_instance_uid not in acknowledged],
         acknowledged)  # fmt: skip
    assert len(acknowledged) == len(files)
    site.acknowledged += acknowledged
    site.check()


def test_destination_down_for_a_while(site: Site, tmp_path: Path) -> None:
    site.pacs.stop()
    ours = set(site.send(phantom_files(tmp_path / "in", 3, first_seed=200)))

    def attempts() -> int:
        jobs = {job["id"] for job in site.node.jobs() if job["sop_instance_uid"] in ours}
        return sum(d["attempts"] for d in site.node.json("deliveries", "--limit", "1000") if d["job"] in jobs)

    wait_for(lambda: attempts() >= 2, "deliveries that failed", RECOVERY_SECONDS, every=0.5)
    site.pacs.start()
    site.check()


def test_everything_killed_at_once(site: Site, tmp_path: Path) -> None:
    site.send(phantom_files(tmp_path / "in", 6, first_seed=300))
    site.node.up.kill_everything()
    site.node.up.start()
    site.check()


def test_disk_full_under_everything(tmp_path: Path) -> None:
    """Sources, results, SQLite and the embedded broker's messages are all on it."""
    with SmallDisk.real(tmp_path / "node" / "var", 64) as disk:
        site = Site(tmp_path)
        node = site.node
        with site.pacs, node.up:
            site.send(phantom_files(tmp_path / "in", 6))
            disk.fill()
            assert site.send(phantom_files(tmp_path / "lost", 2, first_seed=50)) == [], "acknowledged without a file"
            worker_noticed = re.compile("put back: the disk refused|(tick|no jobs claimed): database")
            wait_for(lambda: worker_noticed.search(node.up.latest()), "the worker to notice", RECOVERY_SECONDS)
            disk.drain()
            wait_for_acknowledgement(site, phantom_files(tmp_path / "in2", 2, first_seed=100))
            site.check()


class Cluster(Site):
    """Roles of their own on PostgreSQL and Redis."""

    def __init__(self, folder: Path, redis: Redis, postgres: Postgres) -> None:
        self.url = postgres.create_database()
        super().__init__(folder, database={"url": self.url}, broker={"url": redis.url})
        self.redis, self.postgres = redis, postgres
        self.node.run("db", "upgrade")
        self.receiver, self.worker = self.node.role("receive"), self.node.role("worker")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Cluster]:
    """What was broken by one test is whole again for the next."""
    folder = tmp_path_factory.mktemp("cluster")
    with Redis(folder / "redis") as redis:
        site = Cluster(folder, redis, postgres)
        with site.pacs, site.receiver, site.worker:
            yield site
    postgres.drop_database(site.url)


def test_receiver_killed_between_file_and_row(cluster: Cluster, tmp_path: Path) -> None:
    """The row waits for a lock while the file is durable: what is left of it is swept, and is no image."""
    node, before = cluster.node, set(sources(cluster.node))
    images = phantom_files(tmp_path / "in", 1)
    cluster.worker.stop()
    with psycopg.connect(cluster.url.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE instances IN ACCESS EXCLUSIVE MODE")
        acknowledged: list[str] = []
        sending = threading.Thread(target=send, args=(node, images, acknowledged))
        sending.start()
        [orphan] = wait_for(lambda: set(sources(node)) - before, "the file")
        cluster.receiver.kill()
        sending.join()
        assert acknowledged == []
    cluster.receiver.start()
    cluster.send(images)
    assert len(sources(node)) == len(before) + 2
    os.utime(orphan, (0, 0))
    cluster.worker.start()
    wait_for(lambda: not orphan.exists(), "the orphan to be swept", RECOVERY_SECONDS)
    cluster.check()
    assert len(sources(node)) == len(before) + 1


def test_broker_killed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.send(phantom_files(tmp_path / "in", 2, first_seed=100))
    cluster.redis.kill()
    cluster.send(phantom_files(tmp_path / "in2", 2, first_seed=200))
    cluster.check()  # without a broker at all, at the housekeeping pace
    cluster.redis.start()
    cluster.send(phantom_files(tmp_path / "in3", 2, first_seed=300))
    cluster.check()


def test_postgresql_restarted(cluster: Cluster, tmp_path: Path) -> None:
    node, before = cluster.node, len(sources(cluster.node))
    ours = cluster.send(phantom_files(tmp_path / "in", 4, first_seed=400))
    cluster.postgres.crash()
    assert cluster.send(phantom_files(tmp_path / "lost", 1, first_seed=450)) == [], "acknowledged without a row"
    assert len(sources(node)) == before + len(ours), "files without a row pile up"
    cluster.postgres.start()
    wait_for_acknowledgement(cluster, phantom_files(tmp_path / "in2", 2, first_seed=500))
    cluster.check()


def wait_for_acknowledgement(site: Site, files: list[Path]) -> None:
    """Send until all are acknowledged, as a PACS that retries does."""
    done: set[str] = set()

    def attempt() -> bool:
        done.update(site.send(files))
        return len(done) == len(files)

    wait_for(attempt, "the receiver to acknowledge again")
