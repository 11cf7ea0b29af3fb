"""Rejection notes that came: what they name is valid, sent and analysed no more, once. On both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydicom.uid import KeyObjectSelectionDocumentStorage

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.rejections import ReceivedNote
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import DeliveryOutcome, JobClaim, Verdict
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState
from support.ledgers import arrival, claim, complete, record, results_for

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


def test_a_note_is_read_again_where_results_came_meanwhile(ledger: Ledger) -> None:
    received, job = note(ledger), analysed(ledger)
    with pytest.raises(Transient):
        ledger.rejections.reject(received, [job.sop_instance_uid], [], [], [])
    assert ledger.rejections.unread() == [received]
    assert len(ledger.sets.valid(job.sop_instance_uid)) == 1
    ledger.rejections.reject(received, [], [], [], [])
    assert ledger.rejections.unread() == [], "it named nothing that is ours"
