"""Log lines: one a message whatever is in it, machine-readable off a terminal, and without patient data."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from chexnode.logs import LogLevel, configure, escaped
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.tracebacks import fault

log = logging.getLogger("chexnode.test.room")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("chexnode", "chexmodels"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def logged(level: LogLevel = LogLevel.INFO, json_lines: bool | None = None) -> io.StringIO:
    stream = io.StringIO()
    configure(level, json_lines, stream)
    return stream


def test_json_off_a_terminal() -> None:
    stream = logged()
    log.info("stored %s", "1.2.3", extra={"address": "10.0.0.1", "count": 3})
    (line,) = stream.getvalue().splitlines()
    facts = json.loads(line)
    assert (facts["level"], facts["logger"], facts["message"]) == ("info", "chexnode.test.room", "stored 1.2.3")
    assert (facts["address"], facts["count"]) == ("10.0.0.1", 3)
    assert facts["time"].endswith("+00:00")


def test_short_lines_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    configure(LogLevel.INFO, None, stream)
    log.warning("refused", extra={"address": "10.0.0.1"})
    assert stream.getvalue()[8:] == " warning test.room: refused address=10.0.0.1\n"


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_a_peer_sends_cannot_forge_a_line(json_lines: bool) -> None:
    stream = logged(json_lines=json_lines)
    hostile = "X\n12:00:00 error ledger: all lost\r\x1b[31m\u2028\u202e\x85\ud800"
    log.info("called by %s", hostile, extra={"ae": hostile})
    (line,) = stream.getvalue().splitlines()
    assert not {"\n", "\r", "\x1b", "\u2028", "\u202e", "\x85", "\ud800"} & set(line)


def test_a_traceback_stays_with_its_line() -> None:
    for json_lines in (True, False):
        stream = logged(json_lines=json_lines)
        try:
            raise ZeroDivisionError("by\x1b[31m zero")
        except ZeroDivisionError:
            log.exception("bug")
        first, *rest = stream.getvalue().splitlines()
        assert "ZeroDivisionError" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()
        if json_lines:
            assert "ZeroDivisionError" in json.loads(first)["traceback"]
        assert all(line.startswith("    ") for line in rest)
        assert bool(rest) is not json_lines


def test_levels_are_for_our_own_loggers() -> None:
    stream = logged(LogLevel.DEBUG)
    log.debug("ours")
    for name in ("pynetdicom", "sqlalchemy.engine", "kombu", "anything"):
        logging.getLogger(name).info("chatter")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours"]
    stream = logged(LogLevel.ERROR)
    log.warning("hidden")
    assert stream.getvalue() == ""


def test_libraries_that_quote_values_are_silent() -> None:
    from pydicom.dataset import Dataset

    stream = logged(LogLevel.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ds = Dataset()
        ds.PatientBirthDate = "Jane Doe was born in May"
        ds.StudyInstanceUID = "Jane Doe"
        logging.getLogger("pydicom").error("value: Jane Doe")
        warnings.warn("Invalid value: Jane Doe", stacklevel=1)
        import pydicom.config  # it sets the level of its logger whenever it likes to

        pydicom.config.debug(False, False)
        logging.getLogger("pydicom").warning("value: Jane Doe")
        logging.getLogger("pynetdicom.utils").error("Invalid 'AE Title' value 'Jane Doe'")
    assert "Doe" not in stream.getvalue()


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_traceback_does_not_quote(json_lines: bool) -> None:
    stream = logged(json_lines=json_lines)
    name = "Doe^Jane"
    try:
        try:
            int(name)
        except ValueError as error:
            raise Transient("the database is away") from error
    except Transient:
        log.exception("bug")
    assert "Doe" not in stream.getvalue()
    assert "ValueError" in stream.getvalue(), "what led to it is told"
    assert "Transient: the database is away" in stream.getvalue(), "our own messages quote nothing"
    assert "test_a_traceback_does_not_quote" in stream.getvalue()


def test_one_line_tells_what_and_where_and_does_not_quote() -> None:
    told = []
    for error in (ValueError("Doe^Jane"), Transient("the database is away"), OSError(28, "No space left", "Doe.dcm")):
        try:
            raise error
        except Exception as raised:
            told.append(fault(raised))
    names = [line.partition(" at test_logs.py:")[0] for line in told]
    assert names == ["ValueError", "Transient: the database is away", "OSError: No space left"]


def test_configuring_twice_does_not_write_twice() -> None:
    logged()
    stream = logged()
    log.info("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_escaping_leaves_names_alone() -> None:
    assert escaped("Müller 山田 a\tb\u200b") == "Müller 山田 a\\tb\\u200b"
    assert escaped("plain") == "plain"
