"""Audit messages that the collector has, kept for a while to be searched: a file for each day, in ``data_dir/audit``.

The messages stand one after the other with their lengths before them, as they go over TCP (RFC 6587 section 3.4.1).
"""

from __future__ import annotations

import base64
import errno
import fcntl
import html
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from chexnode.audit.spool import pattern, readable

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_PERSON, _REPORT = "1", "3"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One message, as a person reads it."""

    at: datetime
    event: str
    """Its meaning, and that of its type, such as ``User Authentication: Login``."""
    succeeded: bool
    users: tuple[str, ...]
    """Active participants: names with addresses, those that asked first."""
    patient_id: str
    study_instance_uid: str
    detail: str
    """What a query asked, what an alert says, or why something failed."""


class KeptMessages:
    """The folder. Any number of processes may add, search and erase."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "audit" / "kept"

    def add(self, messages: Sequence[bytes], now: datetime) -> None:
        """Add some that the collector has, all or none. Raises OSError."""
        if not messages:
            return
        with self._locked():
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            file = os.open(self._folder / f"{now:%Y-%m-%d}", flags, 0o600)
            with open(file, "ab", buffering=0) as sink:
                size, content = os.fstat(file).st_size, _framed(messages)
                if sink.write(content) != len(content):  # a full disk takes a part, and what follows could not be read
                    os.ftruncate(file, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def tidy(self, days: int, now: datetime) -> None:
        """Delete the files of days that are over for more than ``days``."""
        last = f"{now - timedelta(days=days):%Y-%m-%d}"
        for day in self._days():
            if day < last or days == 0:
                (self._folder / day).unlink(missing_ok=True)

    def search(self, text: str, since: date, until: date, most: int) -> list[AuditRecord]:
        """Up to ``most`` messages of these days, both included, that contain ``text`` in any case; the latest first."""
        found: list[AuditRecord] = []
        wanted = text.casefold()
        for day in reversed(self._days()):
            if not str(since) <= day <= str(until):
                continue
            for message in reversed(list(self._read(day))):
                if wanted in _whole(message).casefold() and (record := parse(message)) is not None:
                    found.append(record)
                    if len(found) == most:
                        return found
        return found

    def erase(self, identities: Collection[str]) -> int:
        """Delete the messages that name one of ``identities`` (IDs, names, UIDs); return how many.

        What stands behind a message that was cut off goes too: nobody can say whom it names.
        """
        mine, erased = pattern(identities), 0
        if not self._folder.is_dir():
            return 0
        with self._locked():
            for day in self._days():
                messages = list(self._read(day))
                others = [message for message in messages if not mine.search(readable(message))]
                content = _framed(others)
                if content == (self._folder / day).read_bytes():
                    continue
                erased += len(messages) - len(others)
                part = self._folder / f"{day}.part"
                part.touch(0o600)
                part.write_bytes(content)
                part.rename(self._folder / day)
        return erased

    def _days(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if _DAY.fullmatch(name))
        except FileNotFoundError:
            return []

    def _read(self, day: str) -> Iterator[bytes]:
        """The messages of a day; nothing beyond one that was cut off."""
        try:
            content = (self._folder / day).read_bytes()
        except FileNotFoundError:
            return
        at = 0
        while (space := content.find(b" ", at, at + 12)) > 0 and content[at:space].isdigit():
            end = space + 1 + int(content[at:space])
            if end > len(content):
                return
            yield content[space + 1 : end]
            at = end

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _framed(messages: Sequence[bytes]) -> bytes:
    return b"".join(b"%d %s" % (len(message), message) for message in messages)


def _whole(message: bytes) -> str:
    """Everything that a message says."""
    return f"{html.unescape(message.decode('utf-8', 'replace'))}\n{readable(message)}"


def parse(message: bytes) -> AuditRecord | None:
    """What an audit message (PS3.15 section A.5) of ours says; None where it is none."""
    try:
        root = ET.fromstring(message[message.index(b"<AuditMessage") :])  # noqa: S314  (our own)
    except (ValueError, ET.ParseError):
        return None
    event = root.find("EventIdentification")
    if event is None:
        return None
    kinds = [event.find("EventID"), event.find("EventTypeCode")]
    asked = sorted(root.iterfind("ActiveParticipant"), key=lambda one: one.get("UserIsRequestor") != "true")
    objects = list(root.iterfind("ParticipantObjectIdentification"))
    return AuditRecord(
        at=datetime.fromisoformat(event.get("EventDateTime", "")).astimezone(UTC),
        event=": ".join(kind.get("originalText", "") for kind in kinds if kind is not None),
        succeeded=event.get("EventOutcomeIndicator") == "0",
        users=tuple(map(_named, asked)),
        patient_id=_id_of(objects, _PERSON, "1"),
        study_instance_uid=_id_of(objects, "2", _REPORT),
        detail="; ".join(_details(event, objects)),
    )


def _named(participant: ET.Element) -> str:
    name = participant.get("UserName") or participant.get("UserID", "")
    title = participant.get("AlternativeUserID", "").removeprefix("AETITLES=")
    address = participant.get("NetworkAccessPointID", "")
    return " ".join(dict.fromkeys(part for part in (title or name, address) if part))


def _id_of(objects: Sequence[ET.Element], kind: str, role: str) -> str:
    for one in objects:
        if (one.get("ParticipantObjectTypeCode"), one.get("ParticipantObjectTypeCodeRole")) == (kind, role):
            return one.get("ParticipantObjectID", "")
    return ""


def _details(event: ET.Element, objects: Sequence[ET.Element]) -> Iterator[str]:
    if description := event.findtext("EventOutcomeDescription"):
        yield description
    for one in objects:
        for detail in one.iterfind("ParticipantObjectDetail"):
            if detail.get("type") == "Alert Description":
                yield _decoded(detail.get("value", ""))
        if (query := one.findtext("ParticipantObjectQuery")) and one.find("ParticipantObjectDetail") is not None:
            text = _decoded(query)
            yield one.get("ParticipantObjectID", "") + (f"?{text}" if text.isprintable() else "")


def _decoded(text: str) -> str:
    with suppress(ValueError):
        return base64.b64decode(text).decode("utf-8", "replace")
    return ""
