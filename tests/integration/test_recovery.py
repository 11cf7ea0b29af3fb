"""What was acknowledged outlives its database: files without a row are recorded again, backups are put back whole.

On both databases where the database matters.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from chexnode.keep import backup
from chexnode.keep.housekeeping import ORPHAN_SECONDS, Housekeeper
from chexnode.keep.recovery import Recovery
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import metadata
from chexnode.node import Node
from chexnode.receive.filemeta import Announced
from chexnode.receive.storage import Caller, StorageService
from chexnode.settings.disk import DiskSettings
from chexnode.settings.loading import load
from chexnode.settings.tree import Settings
from chexnode.spool import identity
from chexnode.vocabulary.errors import BadEnvironment, Usage
from chexnode.vocabulary.states import JobState
from support.ledgers import claim, complete, node_on, opened
from support.senders import an_image

CALLER = Caller("MODALITY", "127.0.0.1")


def settings_at(folder: Path, url: str = "") -> Settings:
    return Settings(
        node={"data_dir": folder},
        database={"url": url or f"sqlite:///{folder}/chexnode.db"},
        disk=DiskSettings(watermark=1.0, reserve_gb=0),
    )


@contextmanager
def a_node(settings: Settings) -> Iterator[Node]:
    with opened(settings.database.url) as ledger:
        node = node_on(ledger, settings)
        identity.prove(settings.node.data_dir, ledger.files)
        yield node


@contextmanager
def storing(node: Node) -> Iterator[StorageService]:
    with StorageService(node) as storage:
        yield storage


def store(storage: StorageService, uid: str) -> bool:
    """Send one image as C-STORE does; whether it was acknowledged."""
    part = an_image(uid)
    reception = storage.begin(Announced(part.sop_class_uid, uid, part.transfer_syntax_uid), CALLER)
    reception.write(memoryview(part.data))
    return reception.finish().status == 0


def age(settings: Settings, seconds: float) -> None:
    for path in (settings.node.data_dir / "spool").rglob("*.dcm"):
        os.utime(path, (time.time() - seconds,) * 2)


def images(ledger: Ledger) -> set[tuple[str, str, str]]:
    return {(view.sop_instance_uid, str(view.state), view.study_instance_uid) for view in ledger.views.jobs(limit=None)}


def test_housekeeping_records_what_an_emptied_ledger_no_longer_knows(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    with a_node(settings) as node, storing(node) as storage:
        assert all(store(storage, f"1.2.3.{number}") for number in range(5))
        before = images(node.ledger)
        with node.ledger.database.write() as conn:  # an older copy was put back
            for table in reversed(metadata.sorted_tables):
                if table.name != "markers":
                    conn.execute(table.delete())
        age(settings, ORPHAN_SECONDS + 60)
        Housekeeper(node).sweep()
        assert images(node.ledger) == before
        Housekeeper(node).sweep()
        assert images(node.ledger) == before, "repeating it changes nothing"
        assert node.ledger.accounts.account().difference == 0
        for view in node.ledger.views.jobs():
            job = node.ledger.views.job(view.id)
            assert job.source_path is not None
            assert node.spool.verify(job.source_path, job.digest)
            assert job.calling_ae_title == "MODALITY", "kept in the file's group 0002"


def test_of_an_image_and_its_correction_the_one_that_came_last_counts_again(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    uids = [f"1.2.3.{number}" for number in range(8)]  # a folder's own order would have to be right for all
    with a_node(settings) as node, storing(node) as storage:
        for uid in uids * 2:  # with other pixels the second time
            assert store(storage, uid)
        versions = [node.ledger.views.job(view.id) for view in reversed(node.ledger.views.jobs())]
        for number, one in enumerate(versions):
            assert one.source_path is not None
            os.utime(node.spool.path(one.source_path), (time.time() - 120 + number,) * 2)
        with node.ledger.database.write() as conn:
            for table in reversed(metadata.sorted_tables):
                if table.name != "markers":
                    conn.execute(table.delete())
        assert Recovery(node).recover_all() == 2 * len(uids)
        again = [node.ledger.views.job(view.id) for view in reversed(node.ledger.views.jobs())]
        assert [one.digest for one in again] == [one.digest for one in versions]


def test_a_second_copy_of_what_is_recorded_goes_and_a_lost_file_is_put_back(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    with a_node(settings) as node, storing(node) as storage:
        assert store(storage, "1.2.3.4")
        (view,) = node.ledger.views.jobs()
        job = node.ledger.views.job(view.id)
        assert job.source_path is not None
        file = node.spool.path(job.source_path)
        copy = file.with_name(f"{job.digest}-other.dcm")
        shutil.copy(file, copy)
        age(settings, 60)
        assert Recovery(node).recover_all() == 0
        assert not copy.exists()
        shutil.copy(file, copy)
        file.unlink()
        age(settings, 60)
        assert Recovery(node).recover_all() == 0
        assert node.spool.verify(job.source_path, job.digest)
        assert node.ledger.accounts.account().received == 1


def test_a_new_ledger_over_a_spool_that_holds_images_is_refused(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    with a_node(settings) as node, storing(node) as storage:
        assert store(storage, "1.2.3.4")
        before = images(node.ledger)
    (tmp_path / "chexnode.db").unlink()
    with opened(settings.database.url):
        pass
    with pytest.raises(BadEnvironment, match="chexnode recover"), Node.open(settings, "web"):
        pass
    age(settings, 60)
    with Node.open(settings, "recover", recovering=True) as node:
        assert Recovery(node).recover_all() == 1
        assert images(node.ledger) == before
    with Node.open(settings, "web") as node:
        assert Recovery(node).recover_all() == 0


def test_the_default_database_lies_in_data_dir(tmp_path: Path) -> None:
    config = tmp_path / "chexnode.toml"
    config.write_text('[node]\ndata_dir = "elsewhere"\n')
    settings, _ = load(config)
    assert settings.database.url == f"sqlite:///{tmp_path}/elsewhere/chexnode.db"


def test_a_backup_under_load_is_put_back_whole(ledger_url: str, tmp_path: Path) -> None:
    """Back up while images come, lose everything, restore: the account balances, nothing acknowledged before the
    backup is lost, and what was analysed is not analysed again."""
    first, second, folder = tmp_path / "first", tmp_path / "second", tmp_path / "backup"
    settings = settings_at(first, ledger_url)
    acknowledged: list[str] = []
    stop = threading.Event()
    with a_node(settings) as node, storing(node) as storage:
        for number in range(10):
            assert store(storage, f"1.2.3.{number}")
            acknowledged.append(f"1.2.3.{number}")
        analysed = claim(node.ledger)
        complete(node.ledger, analysed, "pacs")
        running = claim(node.ledger)

        def load_on() -> None:
            for number in range(10, 10_000):
                if stop.is_set():
                    return
                if store(storage, f"1.2.3.{number}"):
                    acknowledged.append(f"1.2.3.{number}")

        thread = threading.Thread(target=load_on)
        thread.start()
        try:
            while len(acknowledged) < 20:
                time.sleep(0.01)
            backup.save(node.ledger, first, folder)
            before = list(acknowledged)
            again = backup.save(node.ledger, first, folder)
        finally:
            stop.set()
            thread.join()
        assert again.copied < again.files, "the second copies only what is new"
        assert set(before) <= {uid for uid, _, _ in images(node.ledger)}
        destroy(node.ledger)
    shutil.rmtree(first)
    with pytest.raises(BadEnvironment, match="not empty"):
        backup.restore(settings_at(folder, ledger_url), folder)
    restored = settings_at(second, ledger_url.replace(str(first), str(second)))
    backup.restore(restored, folder)
    age(restored, 60)
    with Node.open(restored, "worker") as node:
        Recovery(node).recover_all()
        account = node.ledger.accounts.account()
        assert account.difference == 0
        known = {uid: state for uid, state, _ in images(node.ledger)}
        assert set(before) <= known.keys()
        assert account.received == len(known)
        assert known[analysed.sop_instance_uid] == JobState.DELIVERING
        assert known[running.sop_instance_uid] == JobState.QUEUED, "its worker is no more"
        assert len(node.ledger.deliveries.claim("pacs", 10)) == 2
        for view in node.ledger.views.jobs(limit=None):
            job = node.ledger.views.job(view.id)
            assert job.source_path is not None
            assert node.spool.verify(job.source_path, job.digest)


def destroy(ledger: Ledger) -> None:
    with ledger.database.write() as conn:
        for table in reversed(metadata.sorted_tables):
            conn.execute(text(f"DELETE FROM {table.name}"))


def test_a_folder_without_a_whole_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="no complete backup"):
        backup.restore(settings_at(tmp_path / "node"), tmp_path)


def test_a_backup_goes_nowhere_it_could_do_harm(tmp_path: Path) -> None:
    with a_node(settings_at(tmp_path / "node")) as node:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").touch()
        for folder in (tmp_path / "other", tmp_path / "node" / "backup"):
            with pytest.raises(BadEnvironment):
                backup.save(node.ledger, tmp_path / "node", folder)
