"""Where bytes live: the objects as received (sources) and the encoded results, as Part 10 files under ``data_dir``.

A file becomes visible only when it is whole: it is written under a unique name in ``spool/tmp`` (the same filesystem),
fsynced and renamed, and then its folder is fsynced. Names are hashes plus a random token, never anything from the
wire; the token keeps two arrivals of the same bytes apart, so that removing one can never remove the other. Folders
are per UTC hour, so that one fsync of a folder serves all files of concurrent associations.

    spool/tmp/<token>.part
    spool/sources/<YYYYMMDD>/<HH>/<sha256 of the data set>-<token>.dcm
    spool/results/<YYYYMMDD>/<HH>/<sha256 of the file>-<token>.dcm

Paths in and out of this module are relative to ``data_dir``; the ledger stores them so.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import FileIO
from itertools import count
from pathlib import Path

from chexnode.settings.disk import DiskSettings
from chexnode.spool.writeback import begin_writeback
from chexnode.vocabulary.errors import BadEnvironment, Transient

log = logging.getLogger(__name__)

#: What a full, failing or vanished disk answers, or a share. Anything else is a bug and is not hidden.
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ENODEV, errno.EMFILE, errno.ENFILE}
    | {errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT, errno.EHOSTDOWN}
)

#: Bytes kept in memory before they are hashed and written: one turn for a small image, few for a large one.
_BUFFER = 512 << 10
_DIRECT = 64 << 10
"""Bytes that are not copied there first, once a file is large."""
_AHEAD = 1 << 20
"""Bytes that go to the disk while more comes, so that fsync finds little left to do."""


class DiskRefused(Transient):
    """The disk is full or failing; nothing of the file is left."""


class SpoolAway(DiskRefused):
    """The spool is not there, with all that is in it: a share that is not mounted, or does not answer."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file under its final name."""

    path: str
    """Relative to ``data_dir``."""
    digest: str
    """SHA-256 (hex): of the data set without preamble and group 0002 for a source, of the whole file for a result."""
    size: int
    """Bytes of the whole file."""


class Incoming:
    """One file being written. End it with :meth:`keep` or :meth:`discard`; both may be called after a failure.

    A small one touches the disk only in :meth:`keep`, a large one grows under its temporary name meanwhile.
    """

    def __init__(self, spool: Spool, prefix: bytes) -> None:
        self._spool = spool
        self._path = ""
        self._final = ""
        self._fd = -1
        self._hash = hashlib.sha256()
        self._pending = bytearray(prefix)
        self._prefix = len(prefix)
        self._flushed = self._begun = 0

    @property
    def size(self) -> int:
        """Bytes so far, the prefix included."""
        return self._flushed + len(self._pending)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises :class:`DiskRefused`, after which nothing is left of the file."""
        if self._fd >= 0 and len(data) >= _DIRECT:
            self._flush()
            self._append(data)
            return
        self._pending += data
        if len(self._pending) >= _BUFFER:
            self._flush()

    def view(self) -> memoryview:
        """What was written after the prefix, read-only. Nothing may be written while it is referred to."""
        if not self._flushed:
            return memoryview(self._pending).toreadonly()[self._prefix :]
        self._flush()
        return memoryview(mmap.mmap(self._fd, self._flushed, access=mmap.ACCESS_READ))[self._prefix :]

    def complete(self, kind: str = "sources", suffix: str = ".dcm") -> StoredFile:
        """All is written: say under which name :meth:`keep` will make it visible.

        Raises :class:`DiskRefused`, after which nothing is left of the file.
        """
        with self._all_or_nothing():
            folder = self._spool.hour_folder(kind)
        self._flush()
        digest = self._hash.hexdigest()
        self._final = f"{folder}/{digest}-{self._spool.unique()}{suffix}"
        return StoredFile(self._final, digest, self._flushed)

    def keep(self) -> None:
        """After :meth:`complete`: rename and fsync. The name is durable after :meth:`Spool.sync_folders` of the path.

        In this order, because one journal commit of the file system then covers content and name, and the folder's
        fsync finds little to do; a name whose content was lost in a crash has no row, and is swept.

        Raises :class:`DiskRefused`, after which nothing is left of the file.
        """
        with self._all_or_nothing():
            final = f"{self._spool.data_dir}/{self._final}"
            os.rename(self._path, final)
            self._path = final
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with suppress(OSError):
                os.unlink(self._path)

    def _flush(self) -> None:
        """Hash and write what is pending."""
        self._append(self._pending)
        self._pending = bytearray()

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        """Hash and write ``data``."""
        with self._all_or_nothing(), memoryview(data) as view:
            if self._fd < 0:
                self._path = f"{self._spool.data_dir}/spool/tmp/{self._spool.unique()}.part"
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            self._hash.update(view[max(0, self._prefix - self._flushed) :])
            rest = view
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._flushed += len(view)
        if self._flushed - self._begun >= _AHEAD:
            begin_writeback(self._fd, self._begun, self._flushed - self._begun)
            self._begun = self._flushed

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            with _disk_errors():
                yield
        except DiskRefused:
            self.discard()
            self._spool.forget_folders()
            raise


class Spool:
    """The files under ``data_dir``. Thread safe; several processes and machines may share one folder."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._made: set[str] = set()
        # Drawn once: each draw is a system call that hands the interpreter to another thread.
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)

    def unique(self) -> str:
        """A part of a file name that no other process, machine or call uses."""
        return f"{self._prefix}{os.getpid():x}-{next(self._numbers):x}"

    def prepare(self) -> None:
        """Make the folders. Raises :class:`~chexnode.vocabulary.errors.BadEnvironment` where that is impossible."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            for kind in ("tmp", "sources", "results"):
                _make_durable(self.data_dir, f"spool/{kind}")
        except OSError as error:
            raise BadEnvironment(f"cannot use data_dir {self.data_dir}: {error.strerror}") from error

    def has_room(self, disk: DiskSettings) -> bool:
        """Whether the disk is below the watermark and more than the reserve is free. One system call."""
        try:
            stat = os.statvfs(self.data_dir)
        except OSError:
            return False
        if stat.f_bavail * stat.f_frsize < disk.reserve_gb * 1e9:
            return False
        usable = stat.f_blocks - stat.f_bfree + stat.f_bavail
        return stat.f_bavail >= (1 - disk.watermark) * usable

    def free(self) -> int | None:
        """Bytes that may still be written; None where there is no such folder."""
        try:
            stat = os.statvfs(self.data_dir)
        except OSError:
            return None
        return stat.f_bavail * stat.f_frsize

    def incoming(self, prefix: bytes = b"") -> Incoming:
        """Start a file with ``prefix`` (preamble and file meta information), which the digest leaves out.

        Raises :class:`DiskRefused`.
        """
        return Incoming(self, prefix)

    def write_result(self, data: bytes, suffix: str = ".dcm") -> StoredFile:
        """Write an encoded result, or what belongs to results, durably, folder included.

        Raises :class:`DiskRefused`, after which nothing is left of the file.
        """
        incoming = self.incoming()
        incoming.write(data)
        stored = incoming.complete("results", suffix)
        incoming.keep()
        try:
            self.sync_folders([stored.path])
        except DiskRefused:
            self.unlink(stored.path)
            raise
        return stored

    def sync_folders(self, paths: Iterable[str]) -> None:
        """Fsync each distinct folder of ``paths`` once. Raises :class:`DiskRefused`."""
        with _disk_errors():
            for folder in {os.path.dirname(path) for path in paths}:
                _sync(self.data_dir / folder)

    def hour_folder(self, kind: str) -> str:
        """The folder of this UTC hour, made durably if it is new. Raises :class:`DiskRefused`."""
        hour = datetime.now(UTC).strftime("%Y%m%d/%H")
        folder = f"spool/{kind}/{hour}"
        if folder not in self._made:
            with _disk_errors():
                _make_durable(self.data_dir / "spool" / kind, hour)
            self._made = {made for made in self._made if made.startswith(folder[: -len("/00")])} | {folder}
        return folder

    def forget_folders(self) -> None:
        """Look for the folder of this hour anew: a share may have come back without it."""
        self._made = set()

    def path(self, relative: str) -> Path:
        """The absolute path of a spooled file. Raises ValueError for a path that leaves the spool."""
        return Path(self._name(relative))

    def _name(self, relative: str) -> str:
        """:meth:`path` as text: of hundreds of files, paths take longer to make than files to look at."""
        root, *below = relative.split("/")
        if root != "spool" or not any(below) or ".." in below:
            raise ValueError("not a path of the spool")
        return f"{self.data_dir}/{relative}"

    def read(self, relative: str) -> bytes:
        """All bytes of a spooled file.

        Raises FileNotFoundError, and :class:`DiskRefused` where the disk does not give the file now, :class:`SpoolAway`
        where it gives none.
        """
        try:
            return self.path(relative).read_bytes()
        except FileNotFoundError:
            self._look_for_any("the spool is not there")
            raise
        except OSError as error:
            self._look_for_any(_refusal(error))
            raise _refused(error) from error

    def open(self, relative: str) -> FileIO:
        """The file, to be read piece by piece. Raises FileNotFoundError and OSError."""
        return FileIO(self._name(relative))

    def verify(self, relative: str, digest: str) -> bool:
        """Whether a source is there and its data set, without preamble and group 0002, still has ``digest``.

        Raises :class:`DiskRefused` like :meth:`read`.
        """
        try:
            content = memoryview(self.read(relative))
        except FileNotFoundError:
            return False
        # We wrote the file: 128 bytes of preamble, DICM, and (0002,0000) with the length of the rest of the group.
        start = 144 + int.from_bytes(content[140:144], "little")
        return hashlib.sha256(content[start:]).hexdigest() == digest

    def unlink(self, relative: str) -> bool:
        """Remove a file; whether that was done. One that the disk keeps is left to the sweep for orphans."""
        try:
            os.unlink(self.path(relative))
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("a file of the spool cannot be deleted for now: %s", error.strerror)
            return False
        return True

    def restore(self, spare: str, lost: str) -> None:
        """Move ``spare`` durably to the recorded path ``lost`` whose file is gone. Raises :class:`DiskRefused`."""
        spool, kind, *folders, _ = Path(lost).parts
        with _disk_errors():
            _make_durable(self.data_dir / spool / kind, "/".join(folders))
            os.rename(self.path(spare), self.path(lost))
        self.sync_folders([spare, lost])

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        return self.path(relative).is_file()

    def state(self, relative: str) -> tuple[int, int] | None:
        """Bytes of the file, and when it was written (ns since the epoch); None where it is not there.

        Raises :class:`DiskRefused` like :meth:`read`.
        """
        try:
            found = os.stat(self._name(relative))
            return found.st_size, found.st_mtime_ns
        except FileNotFoundError:
            self._look_for_any("the spool is not there")
            return None
        except OSError as error:
            self._look_for_any(_refusal(error))
            raise _refused(error) from error

    def _look_for_any(self, why: str) -> None:
        """One file is not to be had. Raises :class:`SpoolAway` where none is."""
        if not os.path.isdir(self.data_dir / "spool" / "sources"):
            raise SpoolAway(why)

    def older_than(self, seconds: float) -> Iterator[str]:
        """Yield the files that were last written more than ``seconds`` ago, unfinished ones included."""
        limit = time.time() - seconds
        root = self.data_dir / "spool"
        for kind in ("tmp", "sources", "results"):
            for folder, _, names in os.walk(root / kind):
                for name in names:
                    path = os.path.join(folder, name)
                    with suppress(OSError):
                        if os.stat(path).st_mtime < limit:
                            yield os.path.relpath(path, self.data_dir)

    def written_at(self, relative: str) -> float:
        """When the file was last written, in seconds since 1970; 0 where it is not there."""
        try:
            return self.path(relative).stat().st_mtime
        except OSError:
            return 0.0

    def prune(self) -> None:
        """Remove the empty folders of days before yesterday, in which nobody makes a file any more."""
        yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y%m%d")
        for kind in ("sources", "results"):
            with suppress(OSError):
                for day in (self.data_dir / "spool" / kind).iterdir():
                    if day.name < yesterday:
                        _remove_empty(day)


def is_source(relative: str) -> bool:
    """Whether a file of the spool is a received object."""
    return relative.startswith("spool/sources/")


class _disk_errors:  # noqa: N801  (used as a statement)
    """Turn what a disk answers when it is full or failing into :class:`DiskRefused`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise SpoolAway("the spool is not there") from error
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise _refused(error) from error


def _refused(error: OSError) -> DiskRefused:
    return DiskRefused(_refusal(error))


def _refusal(error: OSError) -> str:
    return f"the disk refused: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"


def _remove_empty(day: Path) -> None:
    with suppress(OSError):  # what is not empty stays
        for hour in day.iterdir():
            with suppress(OSError):
                hour.rmdir()
        day.rmdir()


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_durable(base: Path, relative: str) -> None:
    """Make ``base/relative`` in ``base``, which is there, fsyncing the parent of each folder.

    Also where the folder is there already: whoever made it may not have come to that.
    """
    folder = base
    for part in Path(relative).parts:
        parent, folder = folder, folder / part
        with suppress(FileExistsError):
            folder.mkdir()
        _sync(parent)
