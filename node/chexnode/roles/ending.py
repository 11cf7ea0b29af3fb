"""The end of a process: asked for by SIGTERM or SIGINT, said in the log, and never later than a few seconds after."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

STOP_SECONDS = 6.0
"""How long a process may take for what it has begun. What is cut off then is safe: nothing of it was acknowledged."""

_LAST_SECONDS = 1.0
"""How long the last act may take."""


class Ending:
    """One process's, from its start on. Make it in the main thread: it handles SIGTERM and SIGINT."""

    def __init__(self, role: str, seconds: float = STOP_SECONDS) -> None:
        self._role, self._seconds = role, seconds
        self._stopping: threading.Event | None = None
        self._last_act: Callable[[], None] | None = None
        self._has_begun = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def works_until(self, stopping: threading.Event, last_act: Callable[[], None] | None = None) -> None:
        """From now on a signal sets ``stopping``, for whoever is to end in order; before, it ends the process.

        ``last_act``: done before what has not ended in time is cut off.
        """
        self._last_act, self._stopping = last_act, stopping

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.begin()
        if self._stopping is None:
            self.finish()

    def begin(self) -> None:
        """It is asked for: the time runs. A second time means nothing."""
        if not self._has_begun:
            self._has_begun = True
            log.info("%s: asked to end", self._role)
            threading.Thread(target=self._watch, name="ending", daemon=True).start()
        if self._stopping is not None:
            self._stopping.set()

    def _watch(self) -> None:
        """Die with the process if it ends in time, as a daemon does; otherwise end it."""
        threading.Event().wait(self._seconds)
        log.warning(
            "%s: what is still under way after %g s is cut off: none of it was acknowledged, or it is taken up again",
            self._role,
            self._seconds,
        )
        if self._last_act is not None:
            act = threading.Thread(target=self._last_act, daemon=True)
            act.start()
            act.join(_LAST_SECONDS)
        self.finish()

    def finish(self) -> None:
        """Everything is closed, or cut off: end the process, without what an interpreter or a library does at the end,
        which waits for threads and has been seen to hang."""
        log.info("%s: ended", self._role)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
