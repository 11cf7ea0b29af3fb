"""Having the kernel write a file to the disk before anybody waits for that."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_WRITE = 2
"""``SYNC_FILE_RANGE_WRITE``: begin, and do not wait."""


def begin_writeback(fd: int, start: int, count: int) -> None:
    """Begin to write ``count`` bytes of the open file ``fd`` from ``start`` on to the disk; return before they are.

    Nothing is durable by it, and what fails is left for fsync to say. Does nothing where the system is not Linux: POSIX
    has no such call, and ``posix_fadvise``, which does it by the way, takes the bytes out of the cache too.
    """
    call = _sync_file_range()
    if call is not None:
        call(fd, start, count, _WRITE)


@cache
def _sync_file_range() -> Any | None:
    """sync_file_range(2); None where there is none."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call
