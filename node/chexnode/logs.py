"""Logging to stderr: JSON lines for machines, short lines for people; no patient data at any level.

Our own messages name UIDs, counts and codes only. The DICOM libraries would quote values, so what they say is dropped,
Python warnings with it, and tracebacks are told without messages that may quote. What a peer may have chosen (AE
titles, error texts) cannot forge a line: control characters are escaped.
"""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

from chexnode.vocabulary.tracebacks import traceback_of

#: Ours. Every other logger is chatty or quotes values, and so is never below WARNING.
OUR_LOGGERS = ("chexnode", "chexmodels")

#: These quote the offending value, which may be a name: ``Invalid value for VR PN: ...``. What goes wrong on an
#: association or with a file is told by the module of ours that asked for it.
QUOTING = ("pydicom", "pynetdicom", "highdicom", "py.warnings")


class LogLevel(StrEnum):
    """How much is told."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure(level: LogLevel = LogLevel.INFO, json_lines: bool | None = None, stream: TextIO | None = None) -> None:
    """Send everything to ``stream`` (stderr); ``json_lines`` None: unless that is a terminal."""
    stream = stream or sys.stderr
    if json_lines is None:
        json_lines = not stream.isatty()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if json_lines else ShortLines())
    # Not by their levels: pydicom sets its own when it is imported, which may be later.
    handler.addFilter(lambda record: record.name.split(".")[0] not in QUOTING and record.name not in QUOTING)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(number, logging.WARNING))
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(number)
    logging.captureWarnings(True)


def escaped(text: str) -> str:
    """``text`` with control, format and line-separating characters, and lone surrogates, as ``\\xNN`` escapes."""
    if text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else c for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


#: Attributes that every record has, and those that a formatter may add.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Discreet(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802
        return traceback_of(ei[1])


class JsonLines(_Discreet):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``process``, ``message``, then the facts given as
    ``extra`` under their own names and, of an exception, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, ASCII only."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ShortLines(_Discreet):
    """``14:03:05 warning deliver.dicom: message fact=value``; a traceback follows indented."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, more with a traceback."""
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        room = record.name.removeprefix("chexnode.")
        line = f"{at} {record.levelname.lower():7} {room}: {escaped(record.getMessage())}"
        line += "".join(f" {name}={escaped(str(value))}" for name, value in _facts(record).items())
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {escaped(part)}" for part in trace)
        return line
