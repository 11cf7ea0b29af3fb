"""Delivery and disks: our own, where the results are stored, and a folder or a share as destination."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from pydicom.uid import SegmentationStorage

from chexnode.deliver import dicom
from chexnode.deliver.destination import DeliveryAnswer, Outgoing, Sent, load
from chexnode.deliver.dicom import DicomDestination
from chexnode.roles import check
from chexnode.vocabulary.errors import DestinationDown
from support.deliveries import Node, result, scripted
from support.disks import dead_share, unmounted, unreadable


def test_a_damaged_or_lost_file_is_never_sent(make_node: Callable[..., Node]) -> None:
    objects = [result() for _ in range(4)]
    with scripted(lambda _: 0x0000) as (port, seen):
        node = make_node(port=port)
        ids = node.add(*objects)
        paths = [node.file(ds) for ds in objects]
        content = bytearray(paths[0].read_bytes())
        content[-1] ^= 1
        paths[0].write_bytes(content)
        paths[1].unlink()
        paths[2].write_bytes(paths[2].read_bytes()[:140])
        assert node.deliver() == 4
    assert node.states() == ["DEAD", "DEAD", "DEAD", "SENT"]
    assert "SHA-256" in node.view()[ids[0]].error
    assert node.view()[ids[1]].error == "the stored file is gone"
    assert "SHA-256" in node.view()[ids[2]].error
    assert [uid for uid in seen if uid != "association"] == [objects[3].SOPInstanceUID]


@pytest.mark.parametrize("kind", ["dicom", "folder"])
@pytest.mark.parametrize("away", [unreadable, unmounted])
def test_what_our_own_disk_does_not_give_now_is_sent_later(
    make_node: Callable[..., Node], tmp_path: Path, away: Callable[[Path], AbstractContextManager[None]], kind: str
) -> None:
    with scripted(lambda _: 0x0000) as (port, _):
        node = make_node(**({"port": port} if kind == "dicom" else {"kind": "folder", "path": tmp_path}))
        [name] = node.add(ds := result())
        with away(node.file(ds)):
            node.deliver()
        assert node.states() == ["WAITING"]
        assert node.view()[name].error.startswith("the stored file cannot be read: ")
        assert node.ledger.deliveries.breaker("pacs").open_until is None, "the destination is not to blame"
        node.clock.skip(2)
        node.deliver()
    assert node.states() == ["SENT"]


def test_a_file_that_is_not_given_now_is_no_damaged_one(make_node: Callable[..., Node]) -> None:
    with scripted(lambda _: 0x0000) as (port, _):
        node = make_node(port=port)
        first, second = result(), result(SegmentationStorage)
        node.add(first, second)
        outgoing = [Outgoing(claim, node.spool) for claim in node.ledger.deliveries.claim("pacs", 2)]
        pacs = DicomDestination(node.destination, "CHEXNODE", threading.Event())
        with unreadable(node.file(second)):
            answers = pacs.send(outgoing)
            one, two = next(answers), next(answers)
        pacs.close()
    assert (one.answer, two.answer) == (DeliveryAnswer.ACCEPTED, DeliveryAnswer.RETRY)


def test_a_file_that_fails_in_the_middle_of_a_message_is_sent_whole(
    make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = result(), result()
    with scripted(lambda _: 0x0000) as (port, _), ExitStack() as broken:
        node = make_node(port=port)
        node.add(first, second)

        def loaded(item: Outgoing) -> bytes | Sent:
            content = load(item)
            if item.claim.sop_instance_uid == first.SOPInstanceUID and not node.file(first).is_symlink():
                broken.enter_context(unreadable(node.file(first)))
            return content

        with monkeypatch.context() as patched:
            patched.setattr(dicom, "load", loaded)
            node.deliver()
        assert node.states() == ["SENT", "SENT"]


def test_a_folder_gets_whole_files_once(make_node: Callable[..., Node], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    node = make_node(kind="folder", path=out)
    objects = [result(), result(SegmentationStorage)]
    node.add(*objects)
    assert node.deliver() == 2
    written = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert sorted(written) == sorted(f"{ds.SOPInstanceUID}.dcm" for ds in objects)
    for name in written:
        assert (out / name).read_bytes() == node.spool.read(f"spool/results/{name}")
    node.ledger.deliveries.replay()
    assert node.deliver() == 2
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == written
    assert node.states() == ["SENT", "SENT"]


def test_a_missing_folder_is_a_destination_that_is_down(make_node: Callable[..., Node], tmp_path: Path) -> None:
    out = tmp_path / "share"
    node = make_node(kind="folder", path=out)
    node.add(result())
    node.deliver()
    assert node.states() == ["WAITING"]
    assert (
        node.ledger.deliveries.breaker("pacs").last_error == f"the folder {out} does not exist: is the share mounted?"
    )
    assert not out.exists()
    out.mkdir()
    node.clock.skip(2)
    assert node.deliver() == 1
    assert node.states() == ["SENT"]


def test_a_share_that_does_not_answer_is_a_destination_that_is_down(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    out = tmp_path / "share"
    out.mkdir()
    node = make_node(kind="folder", path=out)
    node.add(result())
    with dead_share(out):
        node.deliver()
        with pytest.raises(DestinationDown) as told:
            check.destination(node.settings, node.destination)
    why = f"the folder {out} cannot be reached: Transport endpoint is not connected"
    assert str(told.value) == why
    assert node.ledger.deliveries.breaker("pacs").last_error == why
    assert node.states() == ["WAITING"]
    node.clock.skip(2)
    assert node.deliver() == 1
    assert node.states() == ["SENT"]


def test_a_full_disk_leaves_nothing_half_written(make_node: Callable[..., Node], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    node = make_node(kind="folder", path=out)
    node.add(result(size=8_000_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))  # writing beyond fails as on a full disk
    try:
        node.deliver()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert node.states() == ["WAITING"]
    assert list(out.iterdir()) == []
    node.clock.skip(60)
    assert node.deliver() == 1
    assert len(list(out.iterdir())) == 1
