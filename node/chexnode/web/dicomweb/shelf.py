"""The objects that WADO-RS serves, as files: found in the ledger, read from the spool."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chexnode.ledger.objects import Held, Objects
from chexnode.sandbox.limits import read_limits
from chexnode.settings import LimitSettings
from chexnode.spool import Spool
from chexnode.web.dicomweb.errors import Gone, NotFound
from chexnode.web.dicomweb.stored import Stored
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
        self.limits = read_limits(limits)

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

    def open(self, held: Held) -> Stored:
        """The file, walked within the limits; nothing of its pixels is in memory. Raises DecodeError and Gone."""
        assert held.path is not None
        try:
            stored = Stored.open(self._spool.path(held.path).absolute(), self.limits)
        except FileNotFoundError:  # retention came between
            raise Gone from None
        visit().opened[held.sop_instance_uid] = held
        return stored
