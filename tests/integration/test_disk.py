"""A node whose disk fills: it refuses, works on with what it has, loses nothing, and recovers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.disks import SmallDisk
from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.senders import Part10, Refused, Sender, read_part10, store_file
from support.servers import StoreSCP, wait_for

MEGABYTE = 1 << 20
RESERVE = 24 * MEGABYTE
OUT_OF_RESOURCES, LOCAL_LIMIT = 0xA700, (2, 3, 2)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "disk", 96) as small:
        if not small.is_real:
            pytest.skip("only root may mount a tmpfs: no disk to fill here")
        yield small


def test_a_full_disk_is_refused_worked_on_and_recovered_from(disk: SmallDisk, tmp_path: Path) -> None:
    """Sources, results and the database all on one disk of 96 MB, 24 MB of it kept for what was acknowledged."""
    images = [read_part10(file) for file in phantom_files(tmp_path / "in", 6)]
    first, second, last = [image for image in images if image.sop_class_uid == images[0].sop_class_uid][:3]
    with StoreSCP(tmp_path / "pacs") as pacs:
        node = Node(
            tmp_path / "node",
            node={"data_dir": str(disk.folder / "var")},
            database={"url": f"sqlite:///{disk.folder}/chexnode.db"},
            disk={"watermark": 1.0, "reserve_gb": RESERVE / 1e9},
            limits={"idle_seconds": 600},
            destination=[loopback_destination("pacs", "STORESCP", pacs.port)],
        )
        node.run("db", "upgrade")
        with node.role("receive"), Sender(node.port, [(first.sop_class_uid, (first.transfer_syntax_uid,))]) as opened:
            assert store(opened, first) == store(opened, second) == (0, "")

            # Full to the last byte before anybody could analyse them.
            disk.fill()
            refuses(node, opened, last)
            with node.role("worker") as worker:
                wait_for(lambda: "disk" in worker.latest(), "the worker to meet the full disk")
                assert pacs.files() == []

                # Below the reserve: nothing new, but what is here is analysed, delivered and explained.
                disk.drain()
                disk.fill(leave=RESERVE - 8 * MEGABYTE)
                refuses(node, opened, last)
                is_done(node, 2)
                assert len(pacs.files()) == len(node.json("deliveries")) >= 2
                assert "images are refused" in node.run("account").stdout
                [line] = [check for check in node.json("check") if check["name"] == "disk"]
                assert not line["ok"]
                assert "reserve_gb" in line["detail"]

                # Room again, and nobody is told: the very same association stores.
                disk.drain()
                assert store(opened, last) == (0, "")
                is_done(node, 3)
                assert len(pacs.files()) == len(node.json("deliveries"))
        account = node.account()
        assert (account["received"], account["analysed"], account["failed"]) == (3, 3, 0)
        assert {d["state"] for d in node.json("deliveries")} == {"SENT"}
        assert [job["attempts"] for job in node.jobs()] == [0] * 3, "the disk counts against no image"


def store(sender: Sender, image: Part10) -> tuple[int, str]:
    response = sender.store(image)
    return response.status, response.comment


def refuses(node: Node, opened: Sender, image: Part10) -> None:
    """On an association that is open, and by not accepting another."""
    assert store(opened, image) == (OUT_OF_RESOURCES, "disk low")
    with pytest.raises(Refused) as refused:
        store_file(node.port, image)
    assert refused.value.code == LOCAL_LIMIT


def is_done(node: Node, count: int) -> None:
    done = node.wait_until_settled(count)
    assert {job["state"] for jobs in done.values() for job in jobs} == {"DONE"}
