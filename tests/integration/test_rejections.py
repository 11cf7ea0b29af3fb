"""Rejection notes that came: what they name is valid, sent and analysed no more, once. On both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import KeyObjectSelectionDocumentStorage

from chexnode.alarms.rules import Facts, conditions
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.moves import instance_id
from chexnode.ledger.rejections import MOST_TRIES, WORTH_AN_ALARM, ReceivedNote
from chexnode.settings.alarms import AlarmSettings
from chexnode.settings.tree import Settings
from chexnode.spool.spool import DiskRefused
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import DeliveryOutcome, JobClaim, Verdict
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState
from chexnode.work.rejecting import read_notes
from support.ledgers import Clock, arrival, claim, complete, node_on, record, results_for

NO_IMAGE = Verdict(InstanceState.NOT_ANALYSED, Reason.MODALITY)


def note(ledger: Ledger) -> ReceivedNote:
    """A Key Object Selection that has come."""
    record(ledger, arrival(sop_class_uid=KeyObjectSelectionDocumentStorage, verdict=NO_IMAGE))
    [received] = ledger.rejections.unread()
    return received


def analysed(ledger: Ledger) -> JobClaim:
    """An image whose results the PACS has, and the archive has not yet."""
    record(ledger)
    job = claim(ledger)
    complete(ledger, job, "pacs", "archive")
    sent = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT) for one in sent])
    return job


def test_a_rejected_image_has_no_results_and_gets_none(ledger: Ledger) -> None:
    job, other = analysed(ledger), analysed(ledger)
    [waiting] = record(ledger)
    received = note(ledger)
    queued = ledger.views.job(waiting.job or "")
    uids = [job.sop_instance_uid, queued.sop_instance_uid, "1.2.3.999"]
    [valid] = ledger.rejections.valid(uids)
    assert (valid.job, {member.destinations for member in valid.members}) == (job.id, {("pacs",)})
    ledger.rejections.reject(received, uids, [job.id], [], [])
    assert ledger.sets.valid(job.sop_instance_uid) == []
    assert {one.state for one in ledger.views.deliveries(job=job.id, limit=None)} == {DeliveryState.WITHDRAWN}
    assert ledger.views.job(job.id).state is JobState.DONE
    assert ledger.views.job(queued.id).state is JobState.CANCELLED
    assert len(ledger.sets.valid(other.sop_instance_uid)) == 1, "it was not named"
    assert ledger.rejections.unread() == []
    assert ledger.accounts.account().difference == 0


def test_a_rejected_result_of_ours_is_missed_no_more(ledger: Ledger) -> None:
    job = analysed(ledger)
    wanted = Filter(since=datetime(2000, 1, 1, tzinfo=UTC))
    [uids] = ledger.holdings.delivered("pacs", wanted).values()
    rejected, kept = sorted(uids)
    ledger.rejections.reject(note(ledger), [rejected], [], [], [])
    assert list(ledger.holdings.delivered("pacs", wanted).values()) == [{kept}]
    [valid] = ledger.sets.valid(job.sop_instance_uid)
    assert [member.uid for member in valid.members] == [kept]
    left = {one.sop_instance_uid: one.state for one in ledger.views.deliveries(destination="archive", limit=None)}
    assert left == {rejected: DeliveryState.WITHDRAWN, kept: DeliveryState.PENDING}
    assert {r.uid for r in results_for(job)} == {rejected, kept}


def test_a_note_that_always_fails_is_given_up_and_said_and_tried_anew_when_it_comes_again(
    ledger: Ledger, clock: Clock
) -> None:
    image = arrival(sop_class_uid=KeyObjectSelectionDocumentStorage, verdict=NO_IMAGE)
    record(ledger, image)
    began, tries = clock.now, 0
    while ledger.rejections.failing() == 0:
        [received] = ledger.rejections.unread()
        assert ledger.rejections.put_back(received, "disk")
        assert ledger.rejections.unread() == [], "not at once"
        clock.forward(3600)
        tries += 1
    assert tries == WORTH_AN_ALARM
    facts = Facts(clock(), {}, [], None, 0, False, None, timedelta(), failing_notes=ledger.rejections.failing())
    [alarm] = conditions(facts, AlarmSettings())
    assert (alarm.rule, "1 rejection note" in alarm.detail) == ("rejection-notes", True)
    while ledger.rejections.put_back(received, "disk"):
        tries += 1
        clock.forward(3600)
    assert tries + 1 == MOST_TRIES
    assert clock.now - began > timedelta(days=1)
    assert ledger.rejections.unread() == []
    assert ledger.rejections.failing() == 1
    events = ledger.views.job(instance_id(image.sop_instance_uid, image.digest)).events
    assert [one.detail for one in events if one.event == "note-failed"] == ["disk"] * MOST_TRIES

    record(ledger, image)  # a person has the PACS send it again
    assert ledger.rejections.failing() == 0
    ledger.rejections.reject(received, [], [], [], [])
    assert ledger.rejections.unread() == []
    for _ in range(WORTH_AN_ALARM):
        ledger.rejections.put_back(received, "disk")
    clock.forward(8 * 24 * 3600)
    assert ledger.rejections.failing() == 0, "an old one is known"


def test_notes_are_found_by_an_index_however_many_were_read(ledger: Ledger) -> None:
    if ledger.database.engine.dialect.name != "sqlite":
        pytest.skip("the plan of an empty table is no index's on PostgreSQL")
    with ledger.database.read() as conn:
        due = "SELECT path FROM instances WHERE note_due_at <= '2030' ORDER BY note_due_at"
        plan = str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {due}").all())
        failed = "SELECT count(*) FROM instances WHERE note_failures > 0"
        failing = str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {failed}").all())
    assert "ix_instances_notes_due" in plan
    assert "ix_instances_notes_failing" in failing


def test_a_note_that_fails_keeps_no_other_from_being_read(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_on(ledger, Settings(node={"data_dir": tmp_path}))
    record(ledger, *(arrival(sop_class_uid=KeyObjectSelectionDocumentStorage, verdict=NO_IMAGE) for _ in range(3)))
    first, second, third = ledger.rejections.unread()

    def read(path: str) -> bytes:
        if path == first.path:
            raise DiskRefused("input/output error")
        if path == second.path:
            raise RuntimeError("a bug")
        return b"no DICOM"

    monkeypatch.setattr(type(node.spool), "read", lambda self, path: read(path))
    read_notes(node)
    assert ledger.rejections.unread() == []
    details = [ledger.views.job(instance_id(one.sop_instance_uid, one.digest)) for one in (first, second, third)]
    assert [one.events[-1].event for one in details] == ["note-failed", "note-failed", "note-read"]


def test_a_note_is_read_again_where_results_came_meanwhile(ledger: Ledger) -> None:
    received, job = note(ledger), analysed(ledger)
    with pytest.raises(Transient):
        ledger.rejections.reject(received, [job.sop_instance_uid], [], [], [])
    assert ledger.rejections.unread() == [received]
    assert len(ledger.sets.valid(job.sop_instance_uid)) == 1
    ledger.rejections.reject(received, [], [], [], [])
    assert ledger.rejections.unread() == [], "it named nothing that is ours"
