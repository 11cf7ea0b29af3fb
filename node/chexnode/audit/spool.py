"""Messages that wait for the collector: one file each in ``data_dir/audit``, named in the order they were written.

A file is there as soon as it is put, so that a message outlives its process whatever ends that. It is not synced, which
would cost receivers: the kernel writes it within half a minute, and what a power cut leaves empty is counted as lost.
Any number of processes put; the one that holds the lock takes.
"""

from __future__ import annotations

import fcntl
import html
import itertools
import json
import os
import re
import time
from base64 import b64decode
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote_plus

_SUFFIX = ".msg"
_STALE_SECONDS = 3600.0
#: Where a message names a patient, a study or an object. The rest is codes and counts, which a short ID may equal.
_PLAIN = re.compile(r"""\b(?:ParticipantObjectID|Number)="([^"]*)"|<ParticipantObjectName>([^<]*)<""")
_BASE64 = re.compile(r"""<ParticipantObjectQuery>([^<]*)<|\bvalue="([^"]*)\"""")


def pattern(identities: Collection[str]) -> re.Pattern[str]:
    """What finds any of ``identities`` as a whole word: ``12`` is not in ``1.2.12.3``, nor in ``312``."""
    words = "|".join(re.escape(one) for one in sorted(identities, key=len, reverse=True) if one.strip())
    return re.compile(rf"(?<![\w.^-])(?:{words or '(?!)'})(?![\w^-]|\.\w)")


def readable(message: bytes) -> str:
    """What a message says of whom and of what it is about, without XML's escapes, and queries out of their base 64."""
    text = message.decode("utf-8", "replace")
    parts = [html.unescape(plain or name) for plain, name in _PLAIN.findall(text)]
    for encoded in (query or value for query, value in _BASE64.findall(text)):
        with suppress(ValueError):
            parts.append(unquote_plus(b64decode(encoded, validate=True).decode("utf-8", "replace")))
    return "\n".join(parts)


class AuditSpool:
    """The folder. :meth:`put` is thread safe; the rest is for the holder of the lock."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "audit"
        self._numbers = itertools.count()

    def put(self, message: bytes) -> None:
        """Add one. Raises OSError."""
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers):06d}{_SUFFIX}"
        part = self._folder / f"{name}.part"
        try:
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names patients
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(file, "wb", buffering=0) as sink:
                if sink.write(message) != len(message):
                    raise OSError("the disk is full")
            part.rename(self._folder / name)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def waiting(self) -> list[str]:
        """Names of what is there, oldest first."""
        try:
            return sorted(name for name in os.listdir(self._folder) if name.endswith(_SUFFIX))
        except FileNotFoundError:
            return []

    def read(self, names: Sequence[str]) -> list[bytes]:
        """The contents of those that are still there."""
        found = []
        for name in names:
            with suppress(FileNotFoundError):  # erased meanwhile
                found.append((self._folder / name).read_bytes())
        return found

    def erase(self, identities: Collection[str]) -> int:
        """Delete the messages that name one of ``identities`` (IDs, names, UIDs); return how many."""
        mine = pattern(identities)
        erased = 0
        for name in self.waiting():
            for message in self.read([name]):
                if mine.search(readable(message)):
                    (self._folder / name).unlink(missing_ok=True)
                    erased += 1
        return erased

    def remove(self, names: Sequence[str]) -> None:
        """Delete what is delivered, or given up."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Delete what processes that were killed in the middle of :meth:`put` have left."""
        oldest = time.time() - _STALE_SECONDS
        for part in self._folder.glob("*.part"):
            with suppress(FileNotFoundError):
                if part.stat().st_mtime < oldest:
                    part.unlink()

    @property
    def losses(self) -> tuple[int, int]:
        """How many messages were lost since the first start, and of how many of them the collector was told."""
        try:
            lost, reported = json.loads((self._folder / "lost").read_text("ascii"))
            return int(lost), int(reported)
        except (OSError, ValueError, TypeError):
            return 0, 0

    def note_losses(self, lost: int, reported: int) -> None:
        """Write both down. Raises OSError."""
        part = self._folder / "lost.part"
        part.write_text(json.dumps([lost, reported]), "ascii")
        part.rename(self._folder / "lost")

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Whether the lock is ours, for as long as the body runs. It goes with the process that holds it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                try:
                    yield True
                finally:
                    fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile holds the file too
        finally:
            os.close(file)
