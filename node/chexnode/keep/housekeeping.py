"""What has to happen from time to time. Every worker ticks; the ledger's lease lets one of them do it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice

from chexnode.keep.backup import HOLD
from chexnode.keep.recovery import Fate, Recovery
from chexnode.node import Node
from chexnode.spool.spool import is_source

log = logging.getLogger(__name__)

TICK_SECONDS = 5.0
LEASE_SECONDS = 60.0
KNOW_SECONDS = 60.0
"""How often each worker says which destinations it has."""
ADOPT_AFTER = timedelta(seconds=60)
"""A job queued for an analysis that nobody offers is replaced after this long: a rolling upgrade needs a while."""
ORPHAN_SECONDS = 24 * 3600.0
"""A file without a row is younger than this if a receiver or worker may still be about to commit it."""
SWEEP_SECONDS = 3600.0
_CHUNK = 200


class Housekeeper:
    """One worker's turn at keeping house."""

    def __init__(
        self, node: Node, report: Callable[[], None] = lambda: None, read_notes: Callable[[], None] = lambda: None
    ) -> None:
        """``report``: reports the studies that are due for it. ``read_notes``: does what rejection notes say."""
        self._settings, self._ledger, self._spool = node.settings, node.ledger, node.spool
        self._spec, self._owner, self._report = node.spec, node.owner, report
        self._read_notes = read_notes
        self._others = [one.spec for one in node.shadows]
        self._recovery = Recovery(node)
        self._swept = -SWEEP_SECONDS
        self._said = -KNOW_SECONDS

    def tick(self) -> None:
        """Do what is due, if it is our turn. Raises Transient when the database is away."""
        if time.monotonic() - self._said >= KNOW_SECONDS:
            self._ledger.deliveries.know([d.name for d in self._settings.destination])
            self._said = time.monotonic()
        lease = self._ledger.leases.take("housekeeping", self._owner, LEASE_SECONDS)
        if lease is None:
            return
        expired = self._ledger.jobs.expire(self._settings.worker.max_crashes)
        if expired:
            log.warning("%d job(s) taken back from workers that stopped", expired)
        adopted = self._ledger.jobs.adopt(self._spec, ADOPT_AFTER, self._others)
        if adopted:
            log.info("%d queued job(s) now go to %s", adopted, self._spec.model)
        wanted = any(d.not_analysed for d in self._settings.destination)
        self._ledger.studies.close_quiet(self._settings.study.quiet_seconds, wanted)
        if wanted:
            self._report()
        gone = self._ledger.deliveries.give_up([d.name for d in self._settings.destination])
        if gone:
            log.warning("%d deliveries were waiting for a destination that the settings no longer have", gone)
        if time.monotonic() - self._swept >= SWEEP_SECONDS:
            self.retain()
            self.forget()
            self.sweep()
            self._swept = time.monotonic()
        self._read_notes()  # last: a note that cannot be carried out keeps nothing else from being done

    def retain(self) -> int:
        """Delete the files of old, finished, delivered work, unless a backup is under way; return how many."""
        before = self._ledger.clock() - timedelta(days=self._settings.retention.days)
        deleted = 0
        while HOLD not in self._ledger.leases.live("") and (paths := self._ledger.files.expire(before)):
            deleted += sum(self._spool.unlink(path) for path in paths)
        if deleted:
            log.info("%d file(s) past retention deleted", deleted)
        return deleted

    def forget(self) -> int:
        """Delete names from rows of which no file is left and that are old enough; return of how many studies."""
        before = self._ledger.clock() - timedelta(days=self._settings.retention.identity_days)
        forgotten = 0
        while count := self._ledger.identities.expire(before):
            forgotten += count
        if forgotten:
            log.info("the names of %d old studies are deleted", forgotten)
        return forgotten

    def sweep(self) -> int:
        """Deal with files that no row names and that are too old to be waiting for one, and with empty folders.

        A received object is recorded again, whatever has become of its row; anything else is deleted. Returns how many
        files were deleted.
        """
        deleted = recorded = 0
        for paths in _chunks(self._spool.older_than(ORPHAN_SECONDS)):
            known = self._ledger.files.known(paths)
            for path in (path for path in paths if path not in known):
                fate = self._recovery.recover(path) if is_source(path) else Fate.NO_OBJECT
                recorded += fate is Fate.RECORDED
                deleted += fate is Fate.NO_OBJECT and self._spool.unlink(path)
        self._spool.prune()
        if deleted:
            log.info("%d orphaned file(s) deleted", deleted)
        if recorded:
            log.warning("%d received object(s) that the database did not know are recorded again", recorded)
        return deleted


def _chunks(paths: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(paths, _CHUNK)):
        yield chunk
