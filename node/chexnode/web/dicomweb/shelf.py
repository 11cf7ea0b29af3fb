"""The objects that WADO-RS serves, as files: found in the ledger, read from the spool."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from chexmodels.part10 import Part10, ReadLimits, parse, read
from chexnode.ledger.objects import Held, Objects
from chexnode.settings import LimitSettings
from chexnode.spool import Spool
from chexnode.web.dicomweb.errors import Gone, NotFound
from chexnode.web.visits import visit

log = logging.getLogger(__name__)

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Shelved:
    """What was asked for: the objects whose files are there, and how many are not any more."""

    objects: Sequence[Held]
    missing: int


class Shelf:
    """Finds and opens objects. Thread safe."""

    def __init__(self, objects: Objects, spool: Spool, limits: LimitSettings) -> None:
        self._objects = objects
        self._spool = spool
        self.limits = ReadLimits(
            max_elements=limits.max_elements,
            max_nesting=limits.max_nesting,
            inflate_bytes=limits.inflate_mb * 1_000_000,
            max_pixels=limits.max_pixels,
        )

    def find(self, study: str, series: str | None = None, instance: str | None = None) -> Shelved:
        """What is held of these UIDs. Raises NotFound, and Gone where retention has deleted all of it."""
        found = self._objects.locate(study, series, instance)
        if not found:
            raise NotFound
        there = [held for held in found if self._is_there(held)]
        if not there:
            raise Gone
        return Shelved(there, len(found) - len(there))

    def one(self, study: str, series: str, instance: str) -> Held:
        """One instance. Raises like :meth:`find`."""
        return self.find(study, series, instance).objects[0]

    def _is_there(self, held: Held) -> bool:
        if held.path is None:
            return False
        if self._spool.exists(held.path):
            return True
        log.error("a file that the ledger names is not there", extra={"path": held.path})
        return False

    def content(self, held: Held) -> Iterator[bytes]:
        """The whole file, piece by piece."""
        assert held.path is not None
        with self._spool.path(held.path).open("rb") as file:
            visit().opened[held.sop_instance_uid] = held
            while chunk := file.read(_CHUNK):
                yield chunk

    def read(self, held: Held) -> Part10:
        """The file, walked within the limits; nothing of its pixels is in memory. Raises DecodeError and Gone."""
        assert held.path is not None
        try:
            file = self._spool.path(held.path).open("rb")
        except FileNotFoundError:  # retention came between
            raise Gone from None
        visit().opened[held.sop_instance_uid] = held
        with file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return read(content, self.limits)


def header_of(part10: Part10) -> Dataset:
    """All elements before Pixel Data. Raises DecodeError."""
    return parse(bytes(part10.encoded[: part10.layout.header_end]), part10.file_meta)
