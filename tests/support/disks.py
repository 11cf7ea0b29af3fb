"""Disks and shares that fail: small enough to fill, unreadable, not mounted, or without an answer."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

_STEP = 1 << 24
_TRIES = 1000


class SmallDisk:
    """A folder with a filesystem of its own of ``megabytes``: a tmpfs, which only root may mount.

    Whoever may not, gets the folder as it is, and ``reserve_gb`` asks the node to keep so much of the real disk free
    that a file of ``megabytes`` makes it refuse: then the disk is never really full, and ``is_real`` says so.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._megabytes = folder, megabytes
        self._filler = folder / "filler"
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
        self.is_real = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0

    @classmethod
    def real(cls, folder: Path, megabytes: int) -> Self:
        """One that is a tmpfs; skips the test where that may not be mounted."""
        disk = cls(folder, megabytes)
        if not disk.is_real:
            pytest.skip("mounting a small filesystem needs root")
        return disk

    @property
    def settings(self) -> Mapping[str, Any]:
        """The section ``disk`` of a node that lives on it."""
        if self.is_real:
            return {"watermark": 0.9, "reserve_gb": 0}
        stat = os.statvfs(self.folder)
        return {"watermark": 1.0, "reserve_gb": stat.f_bavail * stat.f_frsize / 1e9 - self._megabytes / 2000}

    def fill(self, leave: int = 0) -> None:
        """Leave ``leave`` bytes free; others may write meanwhile."""
        with self._filler.open("ab", buffering=0) as filler:
            if not self.is_real:
                os.posix_fallocate(filler.fileno(), 0, self._megabytes << 20)
                return
            for _ in range(_TRIES):
                room = self.free() - leave
                if room <= 0:
                    return
                with suppress(OSError):  # somebody else took some of it meanwhile: how much is left?
                    os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), min(room, _STEP))
            raise AssertionError(f"{self.free()} bytes stay free")

    def drain(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)

    def protect(self) -> None:
        """Take no more changes, as a file system does that has found itself damaged."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)

    def free(self) -> int:
        """Bytes that may still be written."""
        stat = os.statvfs(self.folder)
        return stat.f_bavail * stat.f_frsize

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not self.is_real:
            self.drain()
        else:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@contextmanager
def unreadable(file: Path) -> Iterator[None]:
    """Reading ``file`` is an input/output error."""
    aside = file.with_suffix(".aside")
    file.rename(aside)
    file.symlink_to("/proc/self/mem")  # nothing is mapped at address 0
    try:
        yield
    finally:
        aside.replace(file)


@contextmanager
def undeletable(file: Path) -> Iterator[None]:
    """Who deletes ``file`` is told that it is busy. Skips where that may not be made."""
    if subprocess.run(["mount", "--bind", str(file), str(file)], capture_output=True).returncode != 0:
        pytest.skip("mounting a file needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(file)], check=True)


@contextmanager
def unmounted(file: Path) -> Iterator[None]:
    """The spool that ``file`` is in is not there."""
    spool = next(folder for folder in file.parents if folder.name == "spool")
    aside = spool.rename(spool.with_name("aside"))
    try:
        yield
    finally:
        aside.rename(spool)


_DETACHED = 2


@contextmanager
def dead_share(folder: Path) -> Iterator[None]:
    """``folder`` is a mount whose server has died: nothing can be asked about it. Skips where that may not be made."""
    libc, where = ctypes.CDLL(None, use_errno=True), os.fsencode(folder)
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("no FUSE")
    try:
        if libc.mount(b"share", where, b"fuse", 0, f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()) != 0:
            pytest.skip("mounting a share needs root")
    finally:
        os.close(server)
    try:
        yield
    finally:
        libc.umount2(where, _DETACHED)
