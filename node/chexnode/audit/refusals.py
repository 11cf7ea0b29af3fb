"""Callers that were turned away, told at a bounded rate: whoever hammers at the door must not push the rest of the
trail out of the spool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

QUIET_SECONDS = 60.0
_MOST_CALLERS = 256


class Cause(Enum):
    """What about the caller was not right."""

    NODE = 1
    """The address, AE title or certificate of a DICOM node."""
    TOKEN = 2
    """A user of the web role brought no token that is known."""
    SCOPE = 3
    """A known user may not do this."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who was turned away, and why. ``address`` and ``name`` are empty for all that are too many to be named."""

    address: str
    name: str
    """AE title, or of a token; empty where the caller has not said."""
    why: str
    cause: Cause = Cause.NODE


class Refusals:
    """The first refusal of a kind is told at once, those of the following minute together when it is over.

    Thread safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._untold: dict[Refusal, tuple[float, int]] = {}
        """When its minute ends, and how many were not told of."""

    def add(self, refusal: Refusal) -> bool:
        """Count one; whether to tell of it now."""
        with self._lock:
            if refusal not in self._untold and len(self._untold) >= _MOST_CALLERS:
                refusal = Refusal("", "", refusal.why, refusal.cause)
            ends, count = self._untold.get(refusal, (0.0, -1))
            first = count < 0
            self._untold[refusal] = (self._clock() + QUIET_SECONDS if first else ends, count + 1)
            return first and bool(refusal.address)

    def take(self, everything: bool = False) -> list[tuple[Refusal, int]]:
        """Those whose minute is over, or ``everything``, with how many each stands for."""
        now = self._clock()
        with self._lock:
            over = [key for key, (ends, _) in self._untold.items() if everything or ends <= now]
            counted = [(key, self._untold.pop(key)[1]) for key in over]
        # One that is too many to be named was not told of when it was first.
        totals = [(key, count + (0 if key.address else 1)) for key, count in counted]
        return [(key, count) for key, count in totals if count]
