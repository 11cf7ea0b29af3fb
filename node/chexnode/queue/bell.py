"""The bell: tells workers to look, from a background thread, and never makes the one who rings wait."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from kombu import Connection

from chexnode.queue.broker import connect, publish

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Pause after a broker failure."""


class Bell:
    """Rings are coalesced while they wait and dropped when the broker is away: housekeeping finds what was missed."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self._url, self._data_dir = url, data_dir
        self._wanted: set[tuple[str, str | None]] = set()
        self._condition = threading.Condition()
        self._stopping = False
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
        self._thread.start()

    def ring(self, queue: str, argument: str | None = None) -> None:
        """Ask for one ring of ``queue``. Returns at once and never raises."""
        with self._condition:
            self._wanted.add((queue, argument))
            self._condition.notify()

    def close(self) -> None:
        """Ring what is asked for and stop."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        connection: Connection | None = None
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted or self._stopping)
                wanted, self._wanted = self._wanted, set()
                if not wanted and self._stopping:
                    break
            try:
                if connection is None:
                    connection = connect(self._url, self._data_dir)
                for queue, argument in wanted:
                    publish(connection, queue, argument)
                self._say(None)
            except Exception as error:
                # Whatever a transport raises: a ring is worth no more than this line.
                self._say(error)
                _close(connection)
                connection = None
                with self._condition:
                    self._condition.wait_for(lambda: self._stopping, timeout=RETRY_SECONDS)
        _close(connection)

    def _say(self, error: Exception | None) -> None:
        """One line when the broker goes and one when it is back."""
        if error is not None and not self._broken:
            log.warning("the broker does not answer (%s); work goes on at the housekeeping pace", type(error).__name__)
        elif error is None and self._broken:
            log.info("the broker answers again")
        self._broken = error is not None


def _close(connection: Connection | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except Exception:
            log.debug("closing the broker connection failed", exc_info=True)
