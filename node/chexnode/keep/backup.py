"""A backup: the ledger's snapshot first, then the files of the spool, which never change and are copied once.

Whatever was acknowledged before the backup began is in the snapshot, and its file was durable before. Retention waits
until the backup is complete. Files that come while it runs are copied too and have no row in it: after a restore they
are recorded again.

    DIR/backup.json   what it is; written last, so that a folder without it is no backup
    DIR/ledger/       the snapshot
    DIR/spool/        sources and results, as in data_dir
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from chexnode.ledger import backup
from chexnode.ledger.database import Database
from chexnode.ledger.ledger import Ledger
from chexnode.settings.tree import Settings
from chexnode.spool import identity
from chexnode.spool.spool import Spool
from chexnode.vocabulary.errors import BadEnvironment, Transient, Usage

log = logging.getLogger(__name__)

HOLD = "backup"
"""The lease that holds off retention."""
_HOLD_SECONDS = 600.0

_MARK, _LEDGER, _SPOOL = "backup.json", "ledger", "spool"


@dataclass(frozen=True, slots=True)
class Backup:
    """What was saved."""

    taken_at: datetime
    """When its snapshot was begun: what was acknowledged before is in it."""
    images: int
    """Instance versions in the snapshot."""
    files: int
    """Files of the spool in the folder."""
    copied: int
    """Those of them that this backup added."""


def save(ledger: Ledger, data_dir: Path, folder: Path) -> Backup:
    """Back the node up into ``folder``, new or holding an earlier backup of it; roles may go on meanwhile.

    Raises BadEnvironment where ``folder`` holds something else or cannot be written.
    """
    name = identity.name_of(data_dir)
    mark = folder / _MARK
    if mark.exists() and json.loads(mark.read_text("utf-8"))["data_dir"] != name:
        raise BadEnvironment(f"{folder} holds the backup of another node")
    if not mark.exists() and folder.exists() and any(folder.iterdir()):
        raise BadEnvironment(f"{folder} is neither empty nor a backup")
    if folder.resolve().is_relative_to(data_dir.resolve()):
        raise BadEnvironment(f"{folder} lies inside data_dir: back up to another place")
    with _nothing_expires(ledger):
        return _save(ledger, data_dir, folder, name)


@contextmanager
def _nothing_expires(ledger: Ledger) -> Iterator[None]:
    """Hold off retention: what the snapshot names is copied before it may be deleted. Raises BadEnvironment."""
    lease = ledger.leases.take(HOLD, secrets.token_hex(8), _HOLD_SECONDS)
    if lease is None:
        raise BadEnvironment("another backup of this node is under way")
    done = threading.Event()

    def keep() -> None:
        while not done.wait(_HOLD_SECONDS / 10):
            try:
                ledger.leases.renew(lease, _HOLD_SECONDS)
            except Transient as error:  # the next one may come through before it ends
                log.warning("retention may go on before the backup is complete: %s", error)

    keeper = threading.Thread(target=keep, name="backup", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        ledger.leases.release(lease)


def _save(ledger: Ledger, data_dir: Path, folder: Path, name: str) -> Backup:
    mark = folder / _MARK
    taken_at = ledger.clock()
    try:
        fresh = folder / f"{_LEDGER}.part"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True, mode=0o700)
        backup.save(ledger.database, fresh)
        copied, there = 0, set()
        for path in _files(data_dir / _SPOOL):
            there.add(path)
            copied += _copied(data_dir / _SPOOL / path, folder / _SPOOL / path, link=True)
        old = folder / f"{_LEDGER}.old"
        shutil.rmtree(old, ignore_errors=True)
        if (folder / _LEDGER).exists():
            (folder / _LEDGER).rename(old)
        fresh.rename(folder / _LEDGER)
        made = Backup(taken_at, ledger.accounts.account().received, len(there), copied)
        part = mark.with_suffix(".part")
        part.write_text(json.dumps(asdict(made) | {"data_dir": name}, default=str, indent=2), "utf-8")
        os.sync()  # all of it is on the disk before anything says so, or an older snapshot goes
        part.rename(mark)
        shutil.rmtree(old, ignore_errors=True)
        for path in set(_files(folder / _SPOOL)) - there:  # retention has deleted it
            (folder / _SPOOL / path).unlink()
        os.sync()
    except OSError as error:
        raise BadEnvironment(f"cannot back up to {folder}: {error.strerror}") from error
    return made


def restore(settings: Settings, folder: Path) -> Backup:
    """Put the backup in ``folder`` where ``settings`` name an empty data_dir and an empty database.

    Nothing may run on them. Raises Usage where ``folder`` is no backup, BadEnvironment where something is there.
    """
    try:
        facts = json.loads((folder / _MARK).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Usage(f"{folder} holds no complete backup") from error
    data_dir = settings.node.data_dir
    if next(_files(data_dir / _SPOOL), None) is not None or identity.name_of(data_dir):
        raise BadEnvironment(f"data_dir {data_dir} is not empty: restore to a new one")
    Spool(data_dir).prepare()
    ledger_folder = folder / _LEDGER if (folder / _LEDGER).is_dir() else folder / f"{_LEDGER}.old"
    database = Database(settings.database.url)
    try:
        backup.load(database, ledger_folder)
    finally:
        database.close()
    try:
        for path in _files(folder / _SPOOL):
            _copied(folder / _SPOOL / path, data_dir / _SPOOL / path, link=False)
        identity.write(data_dir, facts.pop("data_dir"))
        os.sync()
    except OSError as error:
        raise BadEnvironment(f"cannot restore to {data_dir}: {error.strerror}") from error
    ledger = Ledger(settings.database.url)
    try:  # whoever held a lease is no more
        ledger.jobs.expire(settings.worker.max_crashes + 1, everything=True)
        ledger.leases.clear()
        ledger.deliveries.release_all()
    finally:
        ledger.close()
    return Backup(**facts | {"taken_at": datetime.fromisoformat(facts["taken_at"])})


def _files(root: Path) -> Iterator[str]:
    """The objects under ``root``, relative to it; nothing unfinished."""
    for kind in ("sources", "results"):
        for folder, _, names in os.walk(root / kind):
            for name in names:
                if not name.endswith(".part"):
                    yield os.path.relpath(os.path.join(folder, name), root)


def _copied(source: Path, target: Path, *, link: bool) -> bool:
    """Have ``source``, which never changes, as ``target`` too, whole or not at all; whether it was not there yet."""
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        try:
            if not link:
                raise OSError
            os.link(source, part)
        except OSError:  # another file system, or one without links
            shutil.copy2(source, part)
        part.rename(target)
    except FileNotFoundError:
        return False  # retention was faster
    return True
