"""Deliveries: claiming, settling, replaying, breakers; a job ends with its last delivery. On both databases."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert, select

from chexnode.ledger.deliveries import LEASE
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import deliveries, events, results
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.records import DeliveryClaim, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.transitions import TRANSITIONS
from chexnode.vocabulary.variants import ResultKind
from support.ledgers import Clock, arrival, claim, complete, opened, record

SENT, WAITING, DEAD = DeliveryState.SENT, DeliveryState.WAITING, DeliveryState.DEAD


def analysed(ledger: Ledger, *destinations: str, images: int = 1) -> list[str]:
    """Job ids of freshly analysed images with a SEG and an SC to each destination."""
    made = []
    for _ in range(images):
        record(ledger)
        job = claim(ledger)
        complete(ledger, job, *destinations)
        made.append(job.id)
    return made


def settle(ledger: Ledger, claims: list[DeliveryClaim], state: DeliveryState, **facts: object) -> int:
    return ledger.deliveries.settle([DeliveryOutcome(c, state, **facts) for c in claims])  # type: ignore[arg-type]


def states(ledger: Ledger) -> dict[str, list[DeliveryState]]:
    found: dict[str, list[DeliveryState]] = {}
    for view in ledger.views.deliveries(limit=None):
        found.setdefault(view.destination, []).append(view.state)
    return found


def test_what_a_destination_says_is_kept_apart_from_our_own_words(ledger: Ledger) -> None:
    (job,) = analysed(ledger, "pacs")
    ours, theirs = "0xA900 data set does not match SOP class (of the standard)", "no (0x0000) Doe^Jane"
    first, second = ledger.deliveries.claim("pacs", 10)
    settle(ledger, [first], DEAD, error=ours, comment=theirs)
    settle(ledger, [second], DEAD, error=ours)
    whole = f"{ours} ({theirs})"
    assert {view.error for view in ledger.views.job(job).deliveries} == {ours, whole}
    assert {view.error for view in ledger.views.job(job, with_comments=False).deliveries} == {ours}
    assert {(group.error, group.count) for group in ledger.work.dead()} == {(ours, 1), (whole, 1)}
    assert [(group.error, group.count) for group in ledger.work.dead(with_comments=False)] == [(ours, 2)]
    assert ledger.work.dead_ids("pacs", whole) == [first.id]
    ledger.deliveries.replay(ids=[first.id])
    [again] = ledger.deliveries.claim("pacs", 10)
    assert (again.error, again.comment) == (ours, theirs)
    settle(ledger, [again], SENT)
    assert {view.error for view in ledger.views.deliveries()} == {None, ours}


def test_claims_name_everything_a_courier_needs(ledger: Ledger, clock: Clock) -> None:
    (job,) = analysed(ledger, "pacs", "archive")
    claims = ledger.deliveries.claim("pacs", 10)
    made = {r.uid: r for r in ledger.views.job(job).results}
    assert {c.kind for c in claims} == {ResultKind.SEG, ResultKind.SC}
    for one in claims:
        result = made[one.sop_instance_uid]
        assert (one.path, one.sha256, one.size) == (result.path, result.sha256, result.size)
        assert (one.job, one.destination, one.attempts, one.error) == (job, "pacs", 0, "")
        assert one.created_at == clock.now
    assert ledger.deliveries.claim("pacs", 10) == []
    assert len(ledger.deliveries.claim("archive", 1)) == 1
    assert ledger.deliveries.due() == {"archive": 1}


def test_the_last_delivery_finishes_the_job(ledger: Ledger, clock: Clock) -> None:
    (job,) = analysed(ledger, "pacs")
    first, second = ledger.deliveries.claim("pacs", 10)
    assert settle(ledger, [first], SENT) == 1
    assert ledger.views.job(job).state is JobState.DELIVERING
    clock.forward(5)
    assert settle(ledger, [second], DEAD, error="0x0122") == 1
    view = ledger.views.job(job)
    assert (view.state, view.finished_at) == (JobState.DONE, clock.now)
    assert {d.error for d in view.deliveries} == {None, "0x0122"}


def test_a_waiting_delivery_comes_back_when_due(ledger: Ledger, clock: Clock) -> None:
    (job,) = analysed(ledger, "pacs")
    claims = ledger.deliveries.claim("pacs", 10)
    settle(ledger, claims, WAITING, error="busy", next_attempt=clock.now + timedelta(seconds=20))
    assert ledger.views.job(job).state is JobState.DELIVERING
    assert ledger.deliveries.claim("pacs", 10) == []
    assert ledger.deliveries.due() == {}
    clock.forward(21)
    again = ledger.deliveries.claim("pacs", 10)
    assert [(c.attempts, c.error) for c in again] == [(1, "busy")] * 2


def test_a_lost_lease_settles_nothing(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs")
    stale = ledger.deliveries.claim("pacs", 10)
    clock.forward(LEASE.total_seconds() + 1)
    fresh = ledger.deliveries.claim("pacs", 10)
    assert len(fresh) == len(stale) == 2
    assert settle(ledger, stale, DEAD, error="too slow") == 0
    assert settle(ledger, fresh, SENT) == 2
    assert settle(ledger, fresh, WAITING) == 0
    assert states(ledger) == {"pacs": [SENT, SENT]}


def test_renew_and_release(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs")
    kept, given = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.release([given])
    ledger.deliveries.release([])
    assert [c.id for c in ledger.deliveries.claim("pacs", 10)] == [given.id]
    for _ in range(3):
        clock.forward(LEASE.total_seconds() - 1)
        ledger.deliveries.renew([kept])
    assert [c.id for c in ledger.deliveries.claim("pacs", 10)] == [given.id]
    assert settle(ledger, [kept], SENT) == 1


def test_a_start_gives_every_claim_back(ledger: Ledger) -> None:
    analysed(ledger, "pacs")
    dead = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.release_all()
    assert len(ledger.deliveries.claim("pacs", 10)) == 2
    assert settle(ledger, dead, SENT) == 0


def test_an_open_breaker_stops_its_destination_only(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs", "archive")
    for number in range(1, 4):
        ledger.deliveries.destination_failed("pacs", "no connection", clock.now + timedelta(seconds=30))
        assert ledger.deliveries.breaker("pacs").failures == number
    assert ledger.deliveries.claim("pacs", 10) == []
    assert ledger.deliveries.due() == {"archive": 2}
    assert ledger.views.backlog().open_breakers == ("pacs",)
    assert len(ledger.deliveries.claim("archive", 10)) == 2
    clock.forward(31)
    assert ledger.deliveries.due() == {"pacs": 2}
    assert len(ledger.deliveries.claim("pacs", 10)) == 2
    ledger.deliveries.destination_succeeded("pacs")
    health = ledger.deliveries.breaker("pacs")
    assert (health.failures, health.open_until, health.last_error) == (0, None, "no connection")
    assert health.last_success_at == clock.now
    assert ledger.deliveries.breaker("unknown").failures == 0


def test_replay_sends_the_same_rows_again(ledger: Ledger, clock: Clock) -> None:
    (job,) = analysed(ledger, "pacs", "archive")
    settle(ledger, ledger.deliveries.claim("pacs", 10), DEAD, error="refused")
    settle(ledger, ledger.deliveries.claim("archive", 10), SENT)
    assert ledger.views.job(job).state is JobState.DONE
    clock.forward(1000)
    assert ledger.deliveries.replay(dead_only=True) == 2
    view = ledger.views.job(job)
    assert (view.state, view.finished_at) == (JobState.DELIVERING, None)
    assert states(ledger) == {"pacs": [DeliveryState.PENDING] * 2, "archive": [SENT] * 2}
    again = ledger.deliveries.claim("pacs", 10)
    assert {c.created_at for c in again} == {clock.now}, "the age limit starts anew"
    settle(ledger, again, SENT)
    assert ledger.views.job(job).state is JobState.DONE
    assert ledger.deliveries.replay(destination="archive") == 2
    assert ledger.deliveries.replay(destination="archive") == 0
    assert ledger.deliveries.replay(destination="nowhere") == 0
    assert ledger.deliveries.replay(ids=[again[0].id]) == 1
    assert ledger.deliveries.replay() == 1


def test_replay_of_an_unknown_id_changes_nothing(ledger: Ledger) -> None:
    analysed(ledger, "pacs")
    claims = ledger.deliveries.claim("pacs", 10)
    settle(ledger, claims, SENT)
    with pytest.raises(Usage, match="no delivery to replay: 999"):
        ledger.deliveries.replay(ids=[claims[0].id, 999])
    assert states(ledger) == {"pacs": [SENT, SENT]}


def test_replay_takes_a_waiting_delivery_from_its_courier(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs")
    settle(ledger, ledger.deliveries.claim("pacs", 10), WAITING, next_attempt=clock.now)
    claims = ledger.deliveries.claim("pacs", 10)
    assert ledger.deliveries.replay() == 2
    assert settle(ledger, claims, DEAD) == 0


def test_replay_of_very_many(ledger: Ledger) -> None:
    (job,) = analysed(ledger, "pacs")
    settle(ledger, ledger.deliveries.claim("pacs", 10), SENT)
    count = 40_000  # more than either database takes as parameters of one statement
    with ledger.database.write() as conn:
        uid = conn.execute(select(results.c.uid).limit(1)).scalar_one()
        rows = [
            {"result_uid": uid, "job_id": job, "destination": f"d{n}", "state": SENT, "created_at": ledger.clock()}
            for n in range(count)
        ]
        conn.execute(insert(deliveries), [row | {"kind": "seg", "attempts": 1, "fence": 1} for row in rows])
    assert ledger.deliveries.replay() == count + 2
    assert ledger.deliveries.give_up(["pacs"], timedelta(0)) == 500


def test_what_waits_for_a_destination_that_is_gone_is_given_up(ledger: Ledger) -> None:
    (job,) = analysed(ledger, "pacs", "old")
    settle(ledger, ledger.deliveries.claim("pacs", 10), SENT)
    assert ledger.deliveries.give_up(["pacs", "old"], timedelta(0)) == 0
    assert ledger.deliveries.give_up(["pacs"], timedelta(0)) == 2
    assert states(ledger) == {"pacs": [SENT, SENT], "old": [DEAD, DEAD]}
    assert ledger.views.job(job).state is JobState.DONE
    assert ledger.deliveries.give_up(["pacs"], timedelta(0)) == 0


def test_two_couriers_settle_the_last_deliveries_of_a_job_at_once(ledger_url: str) -> None:
    """Neither sees the other's uncommitted delivery; one of them must still finish the job."""
    with opened(ledger_url) as ledger:
        made = analysed(ledger, "pacs", "archive", images=12)
    barrier = threading.Barrier(2)
    failures: list[BaseException] = []

    def courier(destination: str) -> None:
        try:
            with opened(ledger_url) as ledger:
                claims = ledger.deliveries.claim(destination, 100)
                by_job = sorted(claims, key=lambda c: made.index(c.job), reverse=destination == "pacs")
                for start in range(0, len(by_job), 4):
                    barrier.wait(30)
                    settle(ledger, by_job[start : start + 4], SENT)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=courier, args=(name,)) for name in ("pacs", "archive")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with opened(ledger_url) as ledger:
        assert {ledger.views.job(job).state for job in made} == {JobState.DONE}
        assert [history.count("done") for history in histories(ledger, made)] == [1] * 12


def histories(ledger: Ledger, made: list[str]) -> list[list[str]]:
    return [[e.event for e in ledger.views.job(job).events] for job in made]


def test_couriers_settle_while_a_person_replays(ledger_url: str) -> None:
    """Whatever the order: no deadlock, no state outside the table, and everything can be delivered in the end."""
    with opened(ledger_url) as ledger:
        made = analysed(ledger, "pacs", images=6)
    stop = threading.Event()
    failures: list[BaseException] = []

    def person() -> None:
        try:
            with opened(ledger_url) as ledger:
                for _ in range(15):
                    ledger.deliveries.replay()
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    def courier() -> None:
        try:
            with opened(ledger_url) as ledger:
                while not stop.is_set():
                    claims = ledger.deliveries.claim("pacs", 5)
                    settle(ledger, claims, SENT)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for run in (person, courier, courier)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with opened(ledger_url) as ledger:
        while claims := ledger.deliveries.claim("pacs", 5):
            settle(ledger, claims, SENT)
        ledger.deliveries.release_all()
        while claims := ledger.deliveries.claim("pacs", 5):
            settle(ledger, claims, SENT)
        assert {ledger.views.job(job).state for job in made} == {JobState.DONE}
        with ledger.database.read() as conn:
            steps = conn.execute(select(events).where(events.c.subject == "delivery").order_by(events.c.id)).all()
        now: dict[str, str] = {}
        for step in steps:
            assert step.from_state == now.get(step.subject_id, DeliveryState.PENDING)
            assert DeliveryState(step.to_state) in TRANSITIONS[DeliveryState(step.from_state)]
            now[step.subject_id] = step.to_state
        assert set(now.values()) == {SENT}


def test_an_outcome_outside_the_table_is_refused_whole(ledger: Ledger) -> None:
    analysed(ledger, "pacs")
    first, second = ledger.deliveries.claim("pacs", 10)
    with pytest.raises(ValueError, match="PENDING may not become COMMITTED"):
        ledger.deliveries.settle([DeliveryOutcome(first, SENT), DeliveryOutcome(second, DeliveryState.COMMITTED)])
    assert states(ledger) == {"pacs": [DeliveryState.PENDING] * 2}


def test_deliveries_can_be_looked_at(ledger: Ledger) -> None:
    first, second = analysed(ledger, "pacs", images=2)
    settle(ledger, ledger.deliveries.claim("pacs", 1), SENT)
    assert len(ledger.views.deliveries(limit=3)) == 3
    assert [d.state for d in ledger.views.deliveries(["sent"])] == [SENT]
    assert {d.job for d in ledger.views.deliveries(job=second)} == {second}
    assert ledger.views.deliveries(destination="other") == []
    newest_first = [d.id for d in ledger.views.deliveries()]
    assert newest_first == sorted(newest_first, reverse=True)
    assert ledger.views.job(first).deliveries[0].job == first


def test_leases(ledger: Ledger, clock: Clock) -> None:
    mine = ledger.leases.take("housekeeping", "a", 60)
    assert mine is not None
    assert ledger.leases.take("housekeeping", "b", 60) is None
    assert ledger.leases.take("other", "b", 60) is not None
    clock.forward(59)
    assert ledger.leases.renew(mine, 60)
    clock.forward(59)
    assert ledger.leases.take("housekeeping", "b", 60) is None
    clock.forward(2)
    theirs = ledger.leases.take("housekeeping", "b", 60)
    assert theirs is not None
    assert theirs.fence > mine.fence
    assert not ledger.leases.renew(mine, 60)
    ledger.leases.release(mine)
    assert ledger.leases.take("housekeeping", "a", 60) is None
    assert not ledger.leases.renew(replace(theirs, owner="a"), 60)
    ledger.leases.release(theirs)
    assert ledger.leases.take("housekeeping", "a", 60) is not None
    ledger.leases.clear()
    assert ledger.leases.take("housekeeping", "c", 60) is not None
    again = ledger.leases.take("housekeeping", "c", 60)
    assert again is not None, "an owner that lost its memory takes its own lease again"


def test_an_arrival_is_not_needed_twice(ledger: Ledger) -> None:
    """A re-send of a delivered image sends nothing."""
    one = arrival()
    record(ledger, one)
    complete(ledger, claim(ledger), "pacs")
    settle(ledger, ledger.deliveries.claim("pacs", 10), SENT)
    record(ledger, one, one)
    assert ledger.deliveries.due() == {}
    assert len(ledger.views.deliveries()) == 2
