"""The thread that carries messages from the spool to the collector, in order. One process of the node at a time does.

A collector that is down costs one attempt every few seconds, and nobody else anything: what is due to it waits in the
spool, whose oldest messages are dropped, and counted, beyond the limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from chexnode.audit.kept import KeptMessages
from chexnode.audit.spool import AuditSpool
from chexnode.audit.syslog import Collector, CollectorDown

log = logging.getLogger(__name__)

BATCH = 100
_LOOK_SECONDS = 1.0
_GATHER_SECONDS = 0.2
"""A burst is carried in a few batches rather than one by one."""
_LONGEST_PAUSE = 10.0


class Shipper:
    """Runs from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        spool: AuditSpool,
        collector: Collector,
        limit: int,
        tick: Callable[[], None],
        loss: Callable[[int], bytes],
        kept: KeptMessages | None = None,
        keep_days: int = 0,
    ) -> None:
        """``limit``: messages that may wait. ``kept`` gets what was delivered, for ``keep_days``.

        ``tick`` is called about every second, whether or not we are the one that ships. ``loss``: the message that
        tells of so many lost ones.
        """
        self._spool, self._collector, self._limit = spool, collector, limit
        self._tick, self._loss = tick, loss
        self._kept_messages, self._keep_days = kept, keep_days
        self._pause = 0.0
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Something was put."""
        if not self._pause:
            self._wake.set()

    def stop(self) -> None:
        """Carry what is there if the collector was up a moment ago, and end."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self._collector.close()

    def _run(self) -> None:
        last = broken = False
        while not last:
            last = self._stopping.is_set()
            try:
                with self._spool.lock() as ours:
                    if ours:
                        self._spool.tidy()
                        self._keep([])
                    self._look(ours)
                    while ours and not last:
                        self._rest()
                        last = self._stopping.is_set()
                        self._look(ours and not (last and self._pause))
                broken = False
                if not ours and not last:
                    self._rest()
            except OSError as error:
                if not broken:
                    log.error("the audit spool cannot be used: %s", error.strerror)
                broken = True
                self._tick()  # what could not be written meanwhile is said all the same
                self._stopping.wait(_LOOK_SECONDS)

    def _look(self, ours: bool) -> None:
        self._tick()
        if ours:
            self._ship()

    def _rest(self) -> None:
        if self._pause:
            self._stopping.wait(self._pause)
        elif self._wake.wait(_LOOK_SECONDS):
            self._stopping.wait(_GATHER_SECONDS)
        self._wake.clear()

    def _ship(self) -> None:
        names = self._kept(self._spool.waiting())
        try:
            lost, reported = self._spool.losses
            if lost > reported:
                self._collector.send([self._loss(lost - reported)])
                self._spool.note_losses(lost, lost)
            while names:
                some, names = names[:BATCH], names[BATCH:]
                messages = self._spool.read(some)
                self._collector.send([message for message in messages if message])
                self._keep([message for message in messages if message])
                self._spool.remove(some)
                self._lose(messages.count(b""))
        except CollectorDown as down:
            if not self._pause:
                log.warning("audit messages wait, %s", down, extra={"waiting": len(self._spool.waiting())})
            self._pause = min(max(2 * self._pause, _LOOK_SECONDS), _LONGEST_PAUSE)
            return
        if self._pause:
            log.info("the audit collector is back")
        self._pause = 0.0

    def _keep(self, messages: list[bytes]) -> None:
        if self._kept_messages is None:
            return
        now = datetime.now(UTC)
        try:
            self._kept_messages.tidy(self._keep_days, now)
            if self._keep_days:
                self._kept_messages.add(messages, now)
        except OSError as error:  # the collector has them: nothing is sent again for this
            log.error("audit messages cannot be kept to be searched: %s", error.strerror)

    def _kept(self, names: list[str]) -> list[str]:
        surplus = names[: max(0, len(names) - self._limit)]
        self._lose(len(surplus))
        self._spool.remove(surplus)
        return names[len(surplus) :]

    def _lose(self, count: int) -> None:
        if count:
            lost, reported = self._spool.losses
            self._spool.note_losses(lost + count, reported)
            log.error("audit messages were lost: dropped from a full spool, or empty", extra={"lost": count})
