"""SIGSTOP to a whole server: connections stay open, the kernel acknowledges bytes, and nobody answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import psutil

from support.servers import Server


def freeze(server: Server) -> list[psutil.Process]:
    """Stop a server and its children where they are, so that no time-out of their own can end a wait."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    processes = [process, *process.children(recursive=True)]
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    return processes


def thaw(processes: Sequence[psutil.Process]) -> None:
    """Let them go on, children first."""
    for process in reversed(processes):
        with suppress(psutil.NoSuchProcess):
            process.resume()
