"""The spool: nothing half is ever visible, nothing is left when the disk refuses, names owe nothing to the wire."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chexnode.settings.disk import DiskSettings
from chexnode.spool.spool import DiskRefused, Spool, SpoolAway
from chexnode.spool.writeback import begin_writeback
from chexnode.vocabulary.errors import BadEnvironment
from support.disks import SmallDisk, dead_share


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    spool.prepare()
    return spool


def files(spool: Spool) -> list[Path]:
    return [path for path in (spool.data_dir / "spool").rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_what_is_written_is_read_back(spool: Spool, size: int) -> None:
    data = os.urandom(size)
    incoming = spool.incoming(b"prefix")
    for start in range(0, size, 70_000):
        incoming.write(data[start : start + 70_000])
    assert bytes(incoming.view()) == data
    stored = incoming.complete()
    assert stored.path not in [str(path.relative_to(spool.data_dir)) for path in files(spool)]
    incoming.keep()
    spool.sync_folders([stored.path])
    assert spool.read(stored.path) == b"prefix" + data
    assert stored.digest == hashlib.sha256(data).hexdigest()
    assert stored.size == size + len(b"prefix")
    assert files(spool) == [spool.path(stored.path)]


def test_names_are_hashes_below_the_hour(spool: Spool) -> None:
    incoming = spool.incoming()
    incoming.write(b"data")
    root, kind, day, hour, name = Path(incoming.complete().path).parts
    assert (root, kind) == ("spool", "sources")
    assert len(day) == 8
    assert len(hour) == 2
    assert name.startswith(hashlib.sha256(b"data").hexdigest() + "-")


def test_the_same_bytes_twice_are_two_files(spool: Spool) -> None:
    first, second = (spool.write_result(b"result") for _ in range(2))
    assert first.path != second.path
    assert first.digest == second.digest
    assert spool.unlink(second.path)
    assert spool.read(first.path) == b"result"
    assert not spool.unlink(second.path)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_discard_leaves_nothing(spool: Spool, size: int) -> None:
    incoming = spool.incoming()
    incoming.write(bytes(size))
    incoming.discard()
    assert files(spool) == []


@pytest.mark.parametrize("relative", ["../x", "spool/../../x", "/etc/passwd", "chexnode.db", "spool"])
def test_no_path_leaves_the_spool(spool: Spool, relative: str) -> None:
    with pytest.raises(ValueError, match="not a path of the spool"):
        spool.path(relative)


def test_room_is_watermark_and_reserve(spool: Spool) -> None:
    stat = os.statvfs(spool.data_dir)
    free = stat.f_bavail * stat.f_frsize / 1e9
    assert spool.has_room(DiskSettings(watermark=1.0, reserve_gb=0))
    assert not spool.has_room(DiskSettings(watermark=1.0, reserve_gb=free * 2 + 1))
    assert not spool.has_room(DiskSettings(watermark=1e-9, reserve_gb=0))


def test_a_vanished_data_dir_has_no_room(tmp_path: Path) -> None:
    assert not Spool(tmp_path / "gone").has_room(DiskSettings(watermark=1.0, reserve_gb=0))


def test_an_impossible_data_dir_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadEnvironment, match="data_dir"):
        Spool(tmp_path / "file").prepare()


def test_old_files_are_found_wherever_they_are(spool: Spool) -> None:
    result = spool.write_result(b"old")
    unfinished = spool.data_dir / "spool" / "tmp" / "lost.part"
    unfinished.write_bytes(b"half")
    os.utime(spool.path(result.path), (0, 0))
    os.utime(unfinished, (0, 0))
    fresh = spool.write_result(b"fresh")
    assert set(spool.older_than(3600)) == {result.path, "spool/tmp/lost.part"}
    assert fresh.path not in spool.older_than(3600)


def test_a_lost_file_is_restored_in_its_place(spool: Spool) -> None:
    lost, spare = spool.write_result(b"same"), spool.write_result(b"same")
    spool.unlink(lost.path)
    assert not spool.exists(lost.path)
    spool.restore(spare.path, lost.path)
    assert spool.read(lost.path) == b"same"
    assert not spool.exists(spare.path)


def test_many_writers_at_once(spool: Spool) -> None:
    stored: list[tuple[str, bytes]] = []

    def write(number: int) -> None:
        data = bytes([number]) * 700_000
        stored.append((spool.write_result(data).path, data))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored) == 8
    assert all(spool.read(path) == data for path, data in stored)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from chexnode.spool.spool import DiskRefused, Spool, SpoolAway
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
spool = Spool(Path(sys.argv[1]))
incoming = spool.incoming()
try:
    for _ in range(int(sys.argv[2])):
        incoming.write(bytes(400_000))
    incoming.complete()
except DiskRefused as error:
    incoming.discard()
    print(error)
"""


@pytest.mark.parametrize("pieces", [3, 20])
def test_a_disk_that_refuses_leaves_nothing(spool: Spool, pieces: int) -> None:
    """A file size limit stands for the full disk: write() fails in the middle in the same way."""
    answer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(spool.data_dir), str(pieces)], capture_output=True, text=True, check=True
    )
    assert "EFBIG" in answer.stdout
    assert files(spool) == []


def test_a_full_filesystem_leaves_nothing(tmp_path: Path) -> None:
    with SmallDisk.real(tmp_path / "small", 1) as disk:
        spool = Spool(disk.folder)
        spool.prepare()
        incoming = spool.incoming()
        with pytest.raises(DiskRefused, match="ENOSPC"):
            incoming.write(bytes(2_000_000))
        incoming.discard()
        assert files(spool) == []
        assert spool.write_result(b"it goes on when there is room").size


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_spool_that_is_not_mounted_refuses_and_is_not_made_anew(spool: Spool, size: int) -> None:
    """Else files would be written to the disk below, where nobody finds them once the share is mounted."""
    lost = spool.write_result(bytes(size))
    aside = (spool.data_dir / "spool").rename(spool.data_dir / "aside")
    for one in (spool, Spool(spool.data_dir)):  # the second does not remember the folder of the hour
        with pytest.raises(SpoolAway):
            one.write_result(bytes(size))
    with pytest.raises(SpoolAway):
        spool.read(lost.path)
    with pytest.raises(SpoolAway):
        spool.restore(lost.path, lost.path)
    assert os.listdir(spool.data_dir) == [aside.name]


def test_a_spool_that_comes_back_without_its_latest_folder_takes_files(spool: Spool) -> None:
    spool.path(spool.write_result(b"one").path).unlink()
    for hour in (spool.data_dir / "spool" / "results").glob("*/*"):
        hour.rmdir()
    with pytest.raises(SpoolAway):
        spool.write_result(b"two")
    assert spool.read(spool.write_result(b"three").path) == b"three"


def test_a_share_without_an_answer_refuses(spool: Spool) -> None:
    with dead_share(spool.data_dir):
        for act in (spool.write_result, Spool(spool.data_dir).write_result):
            with pytest.raises(DiskRefused, match="ENOTCONN"):
                act(bytes(1_000_000))
        for look in (spool.read, spool.state):
            with pytest.raises(SpoolAway, match="ENOTCONN"):  # not this one file alone
                look("spool/sources/one.dcm")
    assert files(spool) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from chexnode.spool.spool import Spool
spool = Spool(Path(sys.argv[1]))
incoming = spool.incoming()
incoming.write(bytes(2_000_000))
os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
incoming.complete()
incoming.keep()
"""


def test_killed_before_the_rename_nothing_is_visible(spool: Spool) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(spool.data_dir)])
    assert killed.returncode == -signal.SIGKILL
    left = files(spool)
    assert [path.parent.name for path in left] == ["tmp"]
    assert left[0].suffix == ".part"


def test_content_and_name_become_durable_together(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        target = os.readlink(f"/proc/self/fd/{fd}")
        calls.append("fsync folder" if os.path.isdir(target) else "fsync file")
        fsync(fd)

    def note_rename(source: str, target: str) -> None:
        calls.append("rename")
        rename(source, target)

    spool.hour_folder("results")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    spool.write_result(b"x")
    assert calls == ["rename", "fsync file", "fsync folder"]


def test_a_file_that_cannot_be_made_durable_is_not_left(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is failing")

    spool.hour_folder("results")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DiskRefused):
        spool.write_result(b"x")
    assert files(spool) == []


def test_one_fsync_of_a_folder_serves_all_files_in_it(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [spool.write_result(bytes([n])) for n in range(5)]
    count = 0
    fsync = os.fsync

    def counted(fd: int) -> None:
        nonlocal count
        count += 1
        fsync(fd)

    monkeypatch.setattr(os, "fsync", counted)
    spool.sync_folders(file.path for file in stored)
    assert count == len({os.path.dirname(file.path) for file in stored})


def test_empty_folders_of_days_gone_by_are_removed(spool: Spool) -> None:
    today = spool.write_result(b"x").path
    for old in ("spool/sources/20200101/03", "spool/sources/20200102/04", "spool/results/20200101/00"):
        (spool.data_dir / old).mkdir(parents=True)
    kept = spool.data_dir / "spool/sources/20200102/05/kept.dcm"
    kept.parent.mkdir()
    kept.write_bytes(b"y")
    spool.prune()
    assert kept.exists()
    assert spool.exists(today)
    folders = {str(f.relative_to(spool.data_dir)) for f in spool.data_dir.rglob("2020*") if f.is_dir()}
    assert folders == {"spool/sources/20200102"}
    assert not (spool.data_dir / "spool/sources/20200102/04").exists()
    spool.unlink(today)
    spool.prune()
    assert (spool.data_dir / today).parent.is_dir(), "a receiver may be about to write there"


def test_a_folder_that_another_process_made_is_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made it may have died before the fsync of its parent: the next to use it must not rely on that."""
    spool = Spool(tmp_path)
    spool.prepare()
    folder = Spool(tmp_path).hour_folder("sources")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    assert spool.hour_folder("sources") == folder
    day = (tmp_path / folder).parent
    assert {str(day), str(day.parent)} <= set(synced)


def test_a_large_file_goes_to_the_disk_while_it_is_written(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr("chexnode.spool.spool.begin_writeback", lambda _, start, count: begun.append((start, count)))
    incoming = spool.incoming()
    for _ in range(30):
        incoming.write(bytes(100_000))
    assert len(begun) == 2
    (first, size), (second, _) = begun
    assert (first, second) == (0, size)  # each byte once, none left out between
    incoming.discard()


def test_a_small_file_waits_for_its_fsync_alone(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr("chexnode.spool.spool.begin_writeback", lambda _, start, count: begun.append(count))
    incoming = spool.incoming()
    incoming.write(bytes(200_000))
    incoming.complete()
    incoming.keep()
    assert begun == []


def test_writeback_is_begun_and_touches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    fd = os.open(file, os.O_RDWR)
    try:
        begin_writeback(fd, 0, 2_000_000)
    finally:
        os.close(fd)
    assert file.read_bytes() == bytes(3_000_000)
