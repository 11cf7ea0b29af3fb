"""One thread that commits the arrivals of all associations, as many as there are in one transaction.

A commit costs an fsync, however many rows are in it; so does the folder that the files were renamed into. While the
rows of a transaction are written the files of its arrivals are made durable in their own threads; it is committed only
when they are. Callers wait for their own receipt, so a C-STORE response never goes out before all that.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from chexnode.node import Rings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.records import Arrival, Receipt
from chexnode.vocabulary.tracebacks import fault

log = logging.getLogger(__name__)

MAX_BATCH = 64

#: Whoever had an image committed this recently is in the middle of a series and is about to send the next one.
BURST_SECONDS = 0.02

#: How long a transaction waits for those who are about to come. A commit of four costs what a commit of one does.
GATHER_SECONDS = 0.003

#: Files larger than this are durable before their transaction starts, for it keeps other writers out until it ends.
MAX_MEANWHILE = 1 << 20

Record = Callable[[Sequence[Arrival], Callable[[], None]], list[Receipt]]


class NotRecorded(Exception):
    """No receipt. ``removable``: no COMMIT was sent, so that surely no row names the file; otherwise it stays for the
    sweep. ``transient``: the same may work later."""

    def __init__(self, *, removable: bool, transient: bool) -> None:
        super().__init__("the ledger did not record the arrival")
        self.removable = removable
        self.transient = transient


class _Ticket:
    """An arrival; whether its file is durable, once ``kept`` is released; what became of it, once ``done`` is.

    ``in_doubt``: a COMMIT was sent, and whoever does not hear its answer does not know what became of it.
    """

    __slots__ = ("arrival", "done", "failure", "in_doubt", "kept", "receipt", "sender")

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.sender = threading.get_ident()
        self.receipt: Receipt | None = None
        self.failure: Exception | None = None
        self.in_doubt = False
        self.kept, self.done = threading.Lock(), threading.Lock()  # latches: an Event costs ten times as much
        self.kept.acquire()
        self.done.acquire()

    def keep(self, keep: Callable[[], None]) -> None:
        """Make the file durable."""
        try:
            keep()
        except Exception as error:
            self.failure = error
        self.kept.release()


class Committer:
    """Group commits.

    ``record`` commits arrivals in one transaction and calls its second argument just before that.
    """

    def __init__(
        self,
        spool: Spool,
        record: Record,
        bell: Rings,
    ) -> None:
        self._spool = spool
        self._record = record
        self._bell = bell
        self._queue: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._senders: dict[int, float] = {}
        """Thread of a sender -> when its last arrival was committed."""
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what was submitted and end. Nothing may be submitted afterwards."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, arrival: Arrival, keep: Callable[[], None]) -> Receipt:
        """Wait until ``arrival`` is committed. ``keep`` makes its file durable under its path.

        Raises :class:`NotRecorded`, and whatever ``keep`` raised.
        """
        ticket = _Ticket(arrival)
        if arrival.size > MAX_MEANWHILE:
            ticket.keep(keep)
            self._queue.put(ticket)
        else:
            self._queue.put(ticket)
            ticket.keep(keep)
        ticket.done.acquire()
        if ticket.failure is not None:
            raise ticket.failure
        assert ticket.receipt is not None
        return ticket.receipt

    def _run(self) -> None:
        going_on = True
        while going_on and (ticket := self._queue.get()) is not None:
            batch = [ticket]
            going_on = self._gather(batch)
            self._commit(batch)
            now = time.monotonic()
            self._senders |= {ticket.sender: now for ticket in batch}

    def _gather(self, batch: list[_Ticket]) -> bool:
        """Add to ``batch`` what is there and what comes in a moment; False if the end came."""
        now = time.monotonic()
        self._senders = {sender: last for sender, last in self._senders.items() if now - last < BURST_SECONDS}
        deadline = now + GATHER_SECONDS
        while len(batch) < MAX_BATCH:
            left = deadline - time.monotonic()
            absent = self._senders.keys() - {ticket.sender for ticket in batch}
            try:
                ticket = self._queue.get(timeout=left) if absent and left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if ticket is None:
                return False
            batch.append(ticket)
        return True

    def _commit(self, batch: list[_Ticket]) -> None:
        try:
            receipts = self._try(batch)
        except Exception as error:
            _log_failure(error, len(batch))
            # One arrival that the ledger cannot take must not fail the others.
            for ticket in batch:
                self._commit_alone(ticket)
            return
        for ticket, receipt in zip(batch, receipts, strict=True):
            ticket.receipt = receipt
            ticket.done.release()
        if any(receipt.job for receipt in receipts):
            self._bell.ring("infer")

    def _commit_alone(self, ticket: _Ticket) -> None:
        """The second try. Where the first had committed and only its answer was lost, this gives a duplicate whose
        path is the arrival's own: as good as new."""
        with ticket.kept:
            kept = ticket.failure is None
        if kept:
            try:
                ticket.receipt = self._try([ticket])[0]
            except Exception as error:
                _log_failure(error, 1)
                ticket.failure = NotRecorded(removable=not ticket.in_doubt, transient=isinstance(error, Transient))
        ticket.done.release()
        if ticket.receipt is not None:
            self._bell.ring("infer")

    def _try(self, batch: list[_Ticket]) -> list[Receipt]:
        def before_commit() -> None:
            for ticket in batch:
                with ticket.kept:
                    if ticket.failure is not None:
                        raise Transient("a file could not be made durable")
            self._spool.sync_folders(ticket.arrival.path for ticket in batch)
            for ticket in batch:
                ticket.in_doubt = True

        return self._record([ticket.arrival for ticket in batch], before_commit)


def _log_failure(error: Exception, count: int) -> None:
    log.error("arrivals not recorded", extra={"count": count, "error": fault(error)})
