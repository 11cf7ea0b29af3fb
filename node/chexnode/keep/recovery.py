"""Received objects without a row, recorded again: a file in the spool was, or was about to be, acknowledged.

A ledger that was restored from an older copy, or made anew, does not know them. The same UID and digest make the same
row, so that recording twice is harmless. Results are not recorded: the analysis of their images makes them again, under
the same UIDs.
"""

from __future__ import annotations

import logging
import time
from enum import Enum, auto

from chexnode.node import Node
from chexnode.receive.storage import StorageService
from chexnode.spool.spool import DiskRefused, is_source

log = logging.getLogger(__name__)

SETTLED_SECONDS = 10.0
"""A younger file may be one that a receiver is about to record."""


class Fate(Enum):
    """What became of a source that no row named."""

    RECORDED = auto()
    """It has a row now."""
    SPARE = auto()
    """The ledger has its bytes elsewhere, or retention had deleted them: the file goes, or takes a lost one's place."""
    NO_OBJECT = auto()
    """It is no whole received object, as after a crash before the acknowledgement."""
    UNREADABLE = auto()
    """The disk does not give it for now."""


class Recovery:
    """Records sources of the spool that no row names."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._storage = StorageService(node)

    def recover(self, path: str) -> Fate:
        """Record the source at ``path``, which no row names. Raises Transient when the database is away."""
        ledger, spool = self._node.ledger, self._node.spool
        try:
            arrival = self._storage.arrival_of(path)
            if arrival is None:
                return Fate.NO_OBJECT
            held = ledger.instances.files_of(arrival.sop_instance_uid, arrival.digest)
            if held is None:
                (receipt,) = ledger.instances.record([arrival], self._node.spec)
                if receipt.path == path:
                    return Fate.RECORDED
                held = (receipt.path,)
            (known,) = held
            if known is None or spool.exists(known):
                spool.unlink(path)
            else:
                spool.restore(path, known)
                log.warning("restored a lost source", extra={"digest": arrival.digest})
            return Fate.SPARE
        except DiskRefused as error:
            log.warning("a file of the spool cannot be read for now: %s", error)
            return Fate.UNREADABLE

    def recover_all(self) -> int:
        """Record every source that no row names; return how many were recorded. Raises Transient.

        Files that are too young to be judged, as after a failover a moment ago, are waited for once.
        """
        if set(self._unknown(0.0)) - set(self._unknown(SETTLED_SECONDS)):
            time.sleep(SETTLED_SECONDS)
        fates = [self.recover(path) for path in self._unknown(SETTLED_SECONDS)]
        if broken := fates.count(Fate.NO_OBJECT):
            log.warning("%d file(s) of the spool are no whole received objects: left alone", broken)
        return fates.count(Fate.RECORDED)

    def _unknown(self, seconds: float) -> list[str]:
        """The sources written more than ``seconds`` ago that no row names, in the order in which they came.

        Of an image and its correction the one that is recorded last counts.
        """
        files, spool = self._node.ledger.files, self._node.spool
        sources = (path for path in spool.older_than(seconds) if is_source(path))
        return sorted((path for path in sources if not files.known([path])), key=spool.written_at)
