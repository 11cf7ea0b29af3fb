"""How an exception is told where no patient data may stand: on a line of the log, and in the ledger's error columns.

Whoever raises ValueError likes to quote the value, which may be a name. So the message is left out unless the class is
one of ours, whose messages do not, or tells of the operating system.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

_OURS = ("chexnode", "chexmodels")


def fault(error: BaseException) -> str:
    """One line: the type of ``error``, its message where that cannot quote, and the last calls that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    return f"{_named(error)} at {where}" if where else _named(error)


def traceback_of(error: BaseException) -> str:
    """The traceback of ``error`` and of what led to it, as Python prints it, without messages that may quote."""
    return "\nWhile that was handled:\n\n".join(reversed(list(_in_turn(error))))


def _in_turn(error: BaseException | None) -> Iterator[str]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = "".join(traceback.format_tb(error.__traceback__))
        yield f"Traceback (most recent call last):\n{frames}{_named(error)}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _named(error: BaseException) -> str:
    message = _message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: BaseException) -> str:
    if type(error).__module__.partition(".")[0] in _OURS:
        return str(error)
    return (error.strerror or "") if isinstance(error, OSError) else ""
