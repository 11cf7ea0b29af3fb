"""Long work: one function over many values, in several processes where that is worth it, with a bar that moves."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import track

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


def watched(values: Iterable[A], title: str, total: int) -> Iterable[A]:
    """``values``, with a progress bar on standard error that goes away at the end."""
    return track(values, title, total=total, transient=True, console=Console(stderr=True))
