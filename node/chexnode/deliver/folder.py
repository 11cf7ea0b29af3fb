"""A folder as destination: one Part 10 file per result, visible only when it is whole."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

from pydicom.dataset import Dataset

from chexnode.deliver.destination import DeliveryAnswer, Interrupted, Outgoing, Sent, load
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest


class FolderDestination:
    """Write each result to ``<path>/<SOP Instance UID>.dcm``.

    The UIDs are our own, so they are safe file names. The folder itself is never made: a share that is not mounted
    must be an error, not a new folder on the wrong disk.
    """

    def __init__(self, name: str, path: Path, stop: Event) -> None:
        self._name = name
        self._path = path
        self._stop = stop

    @property
    def name(self) -> str:
        return self._name

    def send(self, items: Sequence[Outgoing]) -> Iterator[Sent]:
        """Write ``items`` in order and yield one answer each; fewer when asked to stop.

        Raises DestinationDown where the disk is full or gone.
        """
        _reach(self._path)
        for item in items:
            if self._stop.is_set():
                return
            content = load(item)
            if isinstance(content, Sent):
                yield content
                continue
            try:
                written = self._write(f"{item.claim.sop_instance_uid}.dcm", content)
            except OSError as error:
                raise Interrupted(f"cannot write to {self._path}: {error.strerror}", item) from error
            yield Sent(item, DeliveryAnswer.ACCEPTED, "" if written else "the destination already had it")

    def request_commitment(self, request: CommitmentRequest, on_report: Callable[[Dataset], int]) -> None:
        """A folder makes no promises; the settings refuse to ask it for one."""
        raise DestinationDown("a folder does not offer storage commitment")

    def close(self) -> None:
        """Nothing stays open."""

    def _write(self, name: str, content: bytes) -> bool:
        """Write durably under ``name``; False if the very bytes were there already."""
        target = self._path / name
        with suppress(FileNotFoundError):
            if target.stat().st_size == len(content) and target.read_bytes() == content:
                return False
        mode = (
            self._path.stat().st_mode & 0o666
        )  # who may use the folder may read it: another program takes it from there
        part = self._path / f".{name}.{secrets.token_hex(8)}.part"
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            part.replace(target)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True


def probe(path: Path) -> None:
    """See whether the folder is there and takes a file. Raises DestinationDown."""
    _reach(path)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise DestinationDown(f"cannot write to {path}: {error.strerror}") from error


def _reach(path: Path) -> None:
    """Raises DestinationDown where ``path`` is no folder now, be it that the share does not answer."""
    try:
        is_there = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError as error:
        raise DestinationDown(f"the folder {path} cannot be reached: {error.strerror}") from error
    if not is_there:
        raise DestinationDown(f"the folder {path} does not exist: is the share mounted?")
