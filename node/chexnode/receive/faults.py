"""How an unexpected exception is told in a log that may hold no patient data."""

from __future__ import annotations

import traceback
from pathlib import Path

from chexnode.errors import Transient


def fault(error: BaseException) -> str:
    """The type of ``error`` and where it was raised. Its message is left out, for it may quote a data element,
    unless it is one of our own :class:`~chexnode.errors.Transient`, whose messages do not."""
    if isinstance(error, Transient):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    return f"{type(error).__name__} at {where}"
