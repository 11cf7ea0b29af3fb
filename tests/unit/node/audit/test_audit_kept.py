"""Audit messages that are kept to be searched: found again, erased, and gone after their days."""

from __future__ import annotations

import resource
import signal
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from chexnode.audit import message, syslog
from chexnode.audit.elements import AuditSource, EventOutcome, Message, MovedInstances, Participant
from chexnode.audit.kept import KeptMessages

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TODAY = NOW.date()
SOURCE, US = AuditSource("CHEXNODE@host"), Participant("17", "CHEXNODE", "ChexNode web", "host")
ANNA = Participant("anna", name="anna", host="10.0.0.7")
STUDY = MovedInstances("1.2.3", "P-1", "Weber^Anna", "A-1", {"1.2": 1})


def encoded(one: Message) -> bytes:
    return syslog.encode(one, "host", "ChexNode", 17)


@pytest.fixture
def kept(tmp_path: Path) -> KeptMessages:
    """Three messages of one day, one of the day before."""
    made = KeptMessages(tmp_path)
    made.add([encoded(message.login(SOURCE, NOW, ANNA, US, EventOutcome.MINOR_FAILURE, "wrong password"))], NOW)
    made.add([encoded(message.accessed(SOURCE, NOW, ANNA, US, STUDY, EventOutcome.SUCCESS))], NOW)
    made.add([encoded(message.web_query(SOURCE, NOW, ANNA, US, "/console/images", b"q=P-1"))], NOW)
    before = NOW - timedelta(days=1)
    what = "destination pacs paused"
    kind = message.RESTRICTED_FUNCTION
    made.add([encoded(message.alert(SOURCE, before, kind, EventOutcome.SUCCESS, US, what, ANNA))], before)
    return made


def test_messages_are_found_by_what_they_say(kept: KeptMessages) -> None:
    every = kept.search("", TODAY - timedelta(days=7), TODAY, 10)
    assert [record.event for record in every] == [
        "Query",
        "DICOM Instances Accessed",
        "User Authentication: Login",
        "Security Alert: Use of Restricted Function",
    ]
    assert [record.succeeded for record in every] == [True, True, False, True]
    (seen,) = kept.search("1.2.3", TODAY, TODAY, 10)
    assert (seen.patient_id, seen.study_instance_uid, seen.users[0]) == ("P-1", "1.2.3", "anna 10.0.0.7")
    (paused,) = kept.search("PACS PAUSED", TODAY - timedelta(days=1), TODAY, 10)
    assert paused.detail == "destination pacs paused"
    (asked, _) = kept.search("p-1", TODAY, TODAY, 10)
    assert asked.detail == "/console/images?q=P-1", "what a query asked is in base 64"
    assert kept.search("paused", TODAY, TODAY, 10) == [], "of another day"
    assert len(kept.search("", date(2026, 1, 1), TODAY, 2)) == 2


def test_one_patients_messages_are_erased(kept: KeptMessages) -> None:
    assert kept.erase(["P-1"]) == 2
    assert kept.search("P-1", TODAY, TODAY, 10) == []
    assert len(kept.search("", TODAY - timedelta(days=1), TODAY, 10)) == 2
    assert KeptMessages(Path("nowhere")).erase(["P-1"]) == 0


def test_days_that_are_over_are_deleted(kept: KeptMessages) -> None:
    kept.tidy(1, NOW)
    assert len(kept.search("", date(2026, 1, 1), TODAY, 10)) == 4
    kept.tidy(1, NOW + timedelta(days=1))
    assert len(kept.search("", date(2026, 1, 1), TODAY, 10)) == 3
    kept.tidy(0, NOW)
    assert kept.search("", date(2026, 1, 1), TODAY, 10) == []


def test_a_message_that_was_cut_off_hides_no_other(kept: KeptMessages, tmp_path: Path) -> None:
    with (tmp_path / "audit" / "kept" / f"{TODAY}").open("ab") as file:
        file.write(b"500 <13>1 half")
    assert len(kept.search("", TODAY, TODAY, 10)) == 3
    assert (tmp_path / "audit" / "kept" / f"{TODAY}").stat().st_mode & 0o077 == 0


def test_what_stands_behind_a_message_that_was_cut_off_is_erased_too(kept: KeptMessages, tmp_path: Path) -> None:
    day = tmp_path / "audit" / "kept" / f"{TODAY}"
    with day.open("ab") as sink:
        sink.write(b"500000 a message that was cut off" + day.read_bytes().replace(b"P-1", b"P-9"))
    kept.erase(["P-9"])
    assert b"P-9" not in day.read_bytes()
    assert len(kept.search("", TODAY, TODAY, 10)) == 3


def test_a_disk_that_takes_a_part_is_left_as_it_was(kept: KeptMessages, tmp_path: Path) -> None:
    day = tmp_path / "audit" / "kept" / f"{TODAY}"
    before = day.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, unlimited[1]))
    try:
        with pytest.raises(OSError):
            kept.add([encoded(message.login(SOURCE, NOW, ANNA, US, EventOutcome.SUCCESS, ""))], NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, ignored)
    assert day.read_bytes() == before
