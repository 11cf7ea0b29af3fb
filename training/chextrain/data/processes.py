"""One function over many values, in as many processes as there are processors where that is worth it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
MANY = 512
"""So many values are worth starting processes, which takes seconds."""
MOST = 16
"""More only wait for the disk."""


def in_processes(function: Callable[[A], B], values: Sequence[A]) -> Iterator[B]:
    """``map``, in order; function, values and answers are pickled. What it raises is raised here, and the rest is left.

    Processes are spawned, not forked: the threads of torch would not survive a fork.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processors == 1 or len(values) < MANY:
        yield from map(function, values)
        return
    with ProcessPoolExecutor(min(processors, MOST), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, values, chunksize=8)
