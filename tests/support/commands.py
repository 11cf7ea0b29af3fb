"""Commands of the node in this process: as a user has them, without the seconds that a Python takes to start.

Whatever a process has of its own is set for the time of the command and put back: arguments, working directory, umask,
standard output and error, logging.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from subprocess import CompletedProcess

from chexnode.cli import commands

ROLES = ("up", "receive", "worker", "web")
"""These handle signals, and run until they are told to stop."""


def can_run_here(arguments: Sequence[str]) -> bool:
    """Whether this process can be the command's: the working directory is all threads', signals are the main one's."""
    return threading.current_thread() is threading.main_thread() and not set(ROLES) & set(arguments)


def run_here(arguments: Sequence[str], folder: Path) -> CompletedProcess[str]:
    """Run ``chexnode ARGUMENTS`` in ``folder`` to its end."""
    out, err = (TextIOWrapper(BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with _own_place(arguments, folder), _own_logging(), redirect_stdout(out), redirect_stderr(err):
        try:
            commands.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception:
            traceback.print_exc()
            code = 1
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return CompletedProcess(["chexnode", *arguments], code, *texts)


@contextmanager
def _own_place(arguments: Sequence[str], folder: Path) -> Iterator[None]:
    before, mask, argv, columns = Path.cwd(), os.umask(0o022), sys.argv, os.environ.get("COLUMNS")
    os.umask(mask)
    sys.argv = ["chexnode", *arguments]
    os.environ["COLUMNS"] = "80"
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = argv
        os.umask(mask)
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


@contextmanager
def _own_logging() -> Iterator[None]:
    """As at the start of a process: nobody has configured it."""
    loggers = [logging.getLogger(name) for name in (None, "chexnode", "chexmodels")]
    root = loggers[0]
    handlers, levels, capturing = root.handlers[:], [logger.level for logger in loggers], logging._warnings_showwarning  # type: ignore[attr-defined]
    root.handlers[:] = []
    for logger in loggers:
        logger.setLevel(logging.NOTSET if logger is not root else logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if capturing is None:
            logging.captureWarnings(False)
