"""Storage commitment in the ledger, on both databases: who is asked for what, and what an answer does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from chexnode.ledger.commitments import CLASS_INSTANCE_CONFLICT, LEASE, NO_SUCH_OBJECT_INSTANCE, PATIENCE
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import instances
from chexnode.vocabulary.records import CommitmentRequest, CommitmentVerdict, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, JobState
from support.ledgers import Clock, arrival, claim, complete, record

DAY = timedelta(days=1)
SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def sent(ledger: Ledger, images: int = 1) -> list[str]:
    """Job ids whose two results ``pacs`` has accepted and is to commit to."""
    jobs = []
    for _ in range(images):
        record(ledger)
        job = claim(ledger)
        complete(ledger, job, "pacs")
        jobs.append(job.id)
    claims = ledger.deliveries.claim("pacs", 100)
    ledger.deliveries.settle([DeliveryOutcome(c, DeliveryState.SENT, to_be_committed=True) for c in claims])
    return jobs


def states(ledger: Ledger) -> list[str]:
    return sorted(view.state.value for view in ledger.views.deliveries(limit=None))


def job_state(ledger: Ledger, job: str) -> str:
    return ledger.views.job(job).state


def asked(ledger: Ledger) -> CommitmentRequest:
    request = ledger.commitments.ask("pacs", DAY)
    assert request is not None
    return request


def test_delivered_is_what_is_committed(ledger: Ledger, clock: Clock) -> None:
    (job,) = sent(ledger)
    assert states(ledger) == ["SENT", "SENT"]
    assert job_state(ledger, job) == JobState.DELIVERING
    assert ledger.deliveries.due() == {"pacs": 2}
    request = asked(ledger)
    assert len(request.instances) == 2
    assert ledger.commitments.ask("pacs", DAY) is None, "asked for once"
    assert ledger.deliveries.due() == {}
    assert ledger.files.expire(clock.now + DAY) == [], "nothing goes before it is committed"
    assert ledger.commitments.answered(request.transaction_uid, CommitmentVerdict(request.instances, ()))
    assert states(ledger) == ["COMMITTED", "COMMITTED"]
    assert job_state(ledger, job) == JobState.DONE
    assert ledger.commitments.answered(request.transaction_uid, CommitmentVerdict(request.instances, ())), "again"
    assert ledger.files.expire(clock.now + DAY)


def test_what_is_not_committed_to_is_sent_again(ledger: Ledger) -> None:
    (job,) = sent(ledger)
    request = asked(ledger)
    one, other = request.instances
    verdict = CommitmentVerdict((one,), ((*other, NO_SUCH_OBJECT_INSTANCE),))
    assert ledger.commitments.answered(request.transaction_uid, verdict)
    assert states(ledger) == ["COMMITTED", "WAITING"]
    assert job_state(ledger, job) == JobState.DELIVERING
    (again,) = ledger.deliveries.claim("pacs", 10)
    assert again.sop_instance_uid == other[1]
    assert "0x0112" in again.error
    ledger.deliveries.settle([DeliveryOutcome(again, DeliveryState.SENT, to_be_committed=True)])
    second = asked(ledger)
    assert second.instances == (other,)
    ledger.commitments.answered(second.transaction_uid, CommitmentVerdict((other,), ()))
    assert job_state(ledger, job) == JobState.DONE


def test_one_that_never_commits_is_not_sent_it_without_a_pause(ledger: Ledger, clock: Clock) -> None:
    sent(ledger)
    for pause in (0.0, PATIENCE.total_seconds(), PATIENCE.total_seconds()):
        request = asked(ledger)
        lost = tuple((*one, NO_SUCH_OBJECT_INSTANCE) for one in request.instances)
        assert ledger.commitments.answered(request.transaction_uid, CommitmentVerdict((), lost))
        if pause:
            clock.forward(pause - 1)
            assert ledger.deliveries.claim("pacs", 10) == []
            clock.forward(1)
        claims = ledger.deliveries.claim("pacs", 10)
        assert len(claims) == 2
        ledger.deliveries.settle([DeliveryOutcome(c, DeliveryState.SENT, to_be_committed=True) for c in claims])


def test_an_answer_may_be_late_and_come_to_an_older_request(ledger: Ledger, clock: Clock) -> None:
    (job,) = sent(ledger)
    first = asked(ledger)
    clock.forward(PATIENCE.total_seconds() + 1)
    second = asked(ledger)
    assert second.instances == first.instances
    assert second.transaction_uid != first.transaction_uid
    ledger.commitments.answered(first.transaction_uid, CommitmentVerdict(first.instances, ()))
    assert job_state(ledger, job) == JobState.DONE
    assert states(ledger) == ["COMMITTED", "COMMITTED"]
    failed = CommitmentVerdict((), tuple((*pair, 0x0110) for pair in second.instances))
    assert ledger.commitments.answered(second.transaction_uid, failed)
    assert states(ledger) == ["COMMITTED", "COMMITTED"], "what is committed stays so"


def test_nobody_else_s_instances_are_committed(ledger: Ledger) -> None:
    sent(ledger)
    request = asked(ledger)
    strange = CommitmentVerdict((("1.2", "9.9.9"),), (("1.2", "9.9.8", 0x0110),))
    assert ledger.commitments.answered(request.transaction_uid, strange)
    assert states(ledger) == ["SENT", "SENT"]
    assert not ledger.commitments.answered("1.2.3.4", CommitmentVerdict(request.instances, ()))
    ledger.commitments.requested(CommitmentRequest("1.2.3.5", "MODALITY", request.instances), report=False)
    assert not ledger.commitments.answered("1.2.3.5", CommitmentVerdict(request.instances, ())), "not asked by us"


def test_a_request_that_did_not_get_through_is_made_again(ledger: Ledger, clock: Clock) -> None:
    sent(ledger)
    request = asked(ledger)
    ledger.commitments.not_asked(request, "refused", clock.now + timedelta(seconds=30))
    assert ledger.commitments.ask("pacs", DAY) is None
    clock.forward(31)
    assert asked(ledger).instances == request.instances


def test_never_committed_is_dead_and_can_be_replayed(ledger: Ledger, clock: Clock) -> None:
    (job,) = sent(ledger)
    asked(ledger)
    clock.forward(2 * DAY.total_seconds())
    assert ledger.commitments.ask("pacs", DAY) is None
    assert states(ledger) == ["DEAD", "DEAD"]
    assert job_state(ledger, job) == JobState.DONE
    assert all("never committed" in (view.error or "") for view in ledger.views.deliveries())
    assert ledger.deliveries.replay(destination="pacs") == 2
    assert states(ledger) == ["PENDING", "PENDING"]


def test_we_commit_to_what_is_on_our_disk(ledger: Ledger) -> None:
    one, other = arrival(), arrival()
    record(ledger, one, other)
    job = claim(ledger)
    made = complete(ledger, job, "pacs")
    with ledger.database.write() as conn:  # as retention would
        conn.execute(update(instances).where(instances.c.sop_instance_uid == other.sop_instance_uid).values(path=None))
    wanted = [
        (one.sop_class_uid, one.sop_instance_uid),
        ("1.2.840.10008.5.1.4.1.1.7", one.sop_instance_uid),
        (other.sop_class_uid, other.sop_instance_uid),
        (SEG, made[0].uid),
        (SEG, "1.2.3.4.5"),
    ]
    verdict = ledger.commitments.verdict(wanted)
    assert verdict.committed == (wanted[0], wanted[3])
    assert verdict.failed == (
        (*wanted[1], CLASS_INSTANCE_CONFLICT),
        (*wanted[2], NO_SUCH_OBJECT_INSTANCE),
        (*wanted[4], NO_SUCH_OBJECT_INSTANCE),
    )


def test_reports_are_taken_by_one_at_a_time_and_tried_again(ledger: Ledger, clock: Clock) -> None:
    request = CommitmentRequest("1.2.3", "MODALITY", (("1.2", "3.4"),))
    ledger.commitments.requested(request, report=True)
    taken = ledger.commitments.due()
    assert taken is not None
    assert (taken.transaction_uid, taken.peer, taken.instances, taken.attempts) == (
        "1.2.3",
        "MODALITY",
        request.instances,
        1,
    )
    assert ledger.commitments.due() is None
    clock.forward(LEASE.total_seconds() + 1)
    assert ledger.commitments.due() is not None, "whoever had it is gone"
    ledger.commitments.reported("1.2.3", "not there", clock.now + timedelta(seconds=5))
    assert ledger.commitments.due() is None
    clock.forward(6)
    assert ledger.commitments.due() is not None
    ledger.commitments.reported("1.2.3")
    clock.forward(1e6)
    assert ledger.commitments.due() is None
    ledger.commitments.requested(request, report=True)
    assert ledger.commitments.due() is not None, "asked again, reported again"
    ledger.commitments.reported("1.2.3", "given up")
    clock.forward(1e6)
    assert ledger.commitments.due() is None


def test_a_peer_cannot_take_the_place_of_our_request(ledger: Ledger) -> None:
    sent(ledger)
    request = asked(ledger)
    with pytest.raises(Exception, match=r"UNIQUE|duplicate key"):
        ledger.commitments.requested(CommitmentRequest(request.transaction_uid, "X", (("1.2", "3.4"),)), report=True)
    assert ledger.commitments.answered(request.transaction_uid, CommitmentVerdict(request.instances, ()))
