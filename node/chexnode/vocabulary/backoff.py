"""How long to wait after a failure, as a value."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter.

    After the n-th failure in a row (n = 1, 2, ...) wait a uniformly random time in

        [0, min(cap, base * 2 ** (n - 1))]    seconds.

    Full jitter spreads many waiters evenly, where a fixed or slightly jittered wait lets them come back together.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The default cap keeps the wait
    for a destination that is back well under the 90 s in which everything must have gone out.
    """

    base: float = 1.0
    """Longest wait after the first failure, in seconds."""
    cap: float = 60.0
    """Longest wait after any failure, in seconds."""

    def ceiling(self, failures: int) -> float:
        """Longest wait in seconds after ``failures`` (at least 1) failures in a row."""
        doublings = min(max(failures, 1) - 1, 64)
        return float(min(self.cap, self.base * 2**doublings))

    def delay(self, failures: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Draw the wait in seconds after ``failures`` failures in a row."""
        return uniform(0.0, self.ceiling(failures))
