"""Claims, leases, fences and every move of a job. On both databases."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.queues import Queue

import pytest
from sqlalchemy import select, true, update

from chexnode.ledger.jobs import LEASE
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.moves import move
from chexnode.ledger.schema import events, jobs
from chexnode.vocabulary.errors import StaleMove, Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, JobClaim, Outcome
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState, StudyState
from chexnode.vocabulary.transitions import TRANSITIONS
from support.ledgers import OTHER_SPEC, SPEC, THIRD_SPEC, Clock, arrival, claim, complete, opened, record, results_for


def state_of(ledger: Ledger, job: JobClaim | str) -> JobState | InstanceState:
    return ledger.views.job(job if isinstance(job, str) else job.id).state


def history_of(ledger: Ledger, job: JobClaim | str) -> list[str]:
    return [e.event for e in ledger.views.job(job if isinstance(job, str) else job.id).events]


def test_a_batch_is_claimed_oldest_first(ledger: Ledger, clock: Clock) -> None:
    made = []
    for _ in range(5):
        made.append(arrival())
        record(ledger, made[-1])
        clock.forward(1)
    first, second = ledger.jobs.claim("a", 3, SPEC), ledger.jobs.claim("b", 3, SPEC)
    assert [c.sop_instance_uid for c in (*first, *second)] == [a.sop_instance_uid for a in made]
    assert ledger.jobs.claim("c", 3, SPEC) == []
    one = first[0]
    assert (one.path, one.digest, one.calling_ae_title) == (made[0].path, made[0].digest, "MODALITY")
    assert one.key == SPEC.key(made[0].sop_instance_uid, made[0].digest)
    assert (one.attempts, one.crashes) == (0, 0)


def test_a_worker_claims_only_its_own_analysis(ledger: Ledger) -> None:
    record(ledger)
    assert ledger.jobs.claim("w", 8, OTHER_SPEC) == []
    assert (ledger.jobs.due(OTHER_SPEC), ledger.jobs.due(SPEC)) == (0, 1)


def test_complete_commits_results_and_deliveries(ledger: Ledger) -> None:
    record(ledger)
    job = claim(ledger)
    made = complete(ledger, job, "pacs", "archive")
    detail = ledger.views.job(job.id)
    assert (detail.state, detail.score, detail.abnormal, detail.regions) == (JobState.DELIVERING, 0.9, True, 1)
    assert {r.uid for r in detail.results} == {r.uid for r in made}
    assert {(d.destination, d.kind, d.state) for d in detail.deliveries} == {
        (to, kind, DeliveryState.PENDING) for to in ("pacs", "archive") for kind in ("seg", "sc")
    }
    assert detail.finished_at is None


def test_complete_with_nothing_to_deliver_is_done(ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    job = claim(ledger)
    assert ledger.jobs.complete(job, Analysis(0.1, False, 0), results_for(job), []) is JobState.DONE
    assert ledger.views.job(job.id).finished_at == clock.now


def test_not_evaluated_stays_not_evaluated(ledger: Ledger) -> None:
    record(ledger)
    job = claim(ledger)
    ledger.jobs.complete(job, Analysis(0.4, None, 0), [], [])
    assert ledger.views.job(job.id).abnormal is None


def test_refuse_fail_and_requeue(ledger: Ledger, clock: Clock) -> None:
    record(ledger, arrival(), arrival(), arrival())
    first, second, third = ledger.jobs.claim("w", 3, SPEC)
    ledger.jobs.refuse(first, Reason.UNDECODABLE, "truncated")
    ledger.jobs.fail(second, "Traceback\n\0ZeroDivisionError")
    due = clock.now + timedelta(seconds=60)
    ledger.jobs.requeue(third, "out of memory", due)
    view = ledger.views.job(first.id)
    assert (view.state, view.reason, view.error) == (JobState.REFUSED, "undecodable", "truncated")
    assert "ZeroDivisionError" in (ledger.views.job(second.id).error or "")
    assert state_of(ledger, third) is JobState.QUEUED
    assert ledger.jobs.claim("w", 3, SPEC) == []
    clock.forward(61)
    assert [(c.id, c.attempts) for c in ledger.jobs.claim("w", 3, SPEC)] == [(third.id, 1)]


def test_release_gives_back_without_counting(ledger: Ledger) -> None:
    record(ledger)
    job = claim(ledger)
    ledger.jobs.release([job])
    again = claim(ledger)
    assert (again.attempts, again.crashes) == (0, 0)
    assert history_of(ledger, job) == ["new", "created", "claimed", "released", "claimed"]


MOVES: list[Callable[[Ledger, JobClaim], object]] = [
    lambda ledger, job: complete(ledger, job, "pacs"),
    lambda ledger, job: ledger.jobs.refuse(job, Reason.NOISE, ""),
    lambda ledger, job: ledger.jobs.fail(job, "bug"),
    lambda ledger, job: ledger.jobs.requeue(job, "busy", ledger.clock()),
]
MOVE_NAMES = ["complete", "refuse", "fail", "requeue"]


@pytest.mark.parametrize("move", MOVES, ids=MOVE_NAMES)
def test_a_stale_fence_moves_nothing(ledger: Ledger, clock: Clock, move: Callable[[Ledger, JobClaim], object]) -> None:
    record(ledger)
    stale = claim(ledger, "slow")
    clock.forward(LEASE.total_seconds() + 1)
    assert ledger.jobs.expire(9) == 1
    fresh = claim(ledger, "quick")
    assert fresh.fence != stale.fence
    with pytest.raises(StaleMove):
        move(ledger, stale)
    assert ledger.jobs.renew([stale]) == {stale.id}
    ledger.jobs.release([stale])
    assert state_of(ledger, fresh) is JobState.RUNNING
    assert ledger.views.job(fresh.id).results == ()
    complete(ledger, fresh)
    assert state_of(ledger, fresh) is JobState.DONE


@pytest.mark.parametrize("move", MOVES, ids=MOVE_NAMES)
def test_a_second_answer_moves_nothing(ledger: Ledger, move: Callable[[Ledger, JobClaim], object]) -> None:
    record(ledger)
    job = claim(ledger)
    complete(ledger, job, "pacs")
    with pytest.raises(StaleMove):
        move(ledger, job)
    assert state_of(ledger, job) is JobState.DELIVERING
    assert len(ledger.views.deliveries()) == 2


def test_a_heartbeat_keeps_the_lease(ledger: Ledger, clock: Clock) -> None:
    record(ledger, arrival(), arrival())
    kept, lost = ledger.jobs.claim("w", 2, SPEC)
    for _ in range(5):
        clock.forward(LEASE.total_seconds() - 1)
        assert ledger.jobs.renew([kept]) == set()
    assert ledger.jobs.expire(9) == 1
    assert ledger.jobs.renew([kept, lost]) == {lost.id}
    assert ledger.jobs.renew([]) == set()
    assert (state_of(ledger, kept), state_of(ledger, lost)) == (JobState.RUNNING, JobState.QUEUED)


def test_an_image_that_takes_workers_down_is_given_up(ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    for crash in range(3):
        job = claim(ledger)
        assert job.crashes == crash
        clock.forward(LEASE.total_seconds() + 1)
        assert ledger.jobs.expire(3) == 1
    view = ledger.views.job(job.id)
    assert (view.state, view.finished_at, view.attempts) == (JobState.FAILED, clock.now, 3)
    assert "worker stopped 3 time(s)" in (view.error or "")
    assert ledger.jobs.expire(3) == 0
    ledger.jobs.retry(job.id)
    assert claim(ledger).crashes == 0


def test_a_suspect_runs_alone(ledger: Ledger, clock: Clock) -> None:
    record(ledger, *(arrival() for _ in range(4)))
    assert len(ledger.jobs.claim("w", 8, SPEC)) == 4
    clock.forward(LEASE.total_seconds() + 1)
    ledger.jobs.expire(9)
    record(ledger, arrival(), arrival())
    sizes = []
    while batch := ledger.jobs.claim("w", 8, SPEC):
        assert len(batch) == 1 or all(c.crashes == 0 for c in batch)
        sizes.append(len(batch))
    assert sorted(sizes) == [1, 1, 1, 1, 2]


def test_a_start_takes_every_lease_back_at_once(ledger: Ledger) -> None:
    record(ledger, arrival(), arrival())
    held = ledger.jobs.claim("dead", 2, SPEC)
    assert ledger.jobs.expire(9) == 0
    assert ledger.jobs.expire(9, everything=True) == 2
    assert {state_of(ledger, c) for c in held} == {JobState.QUEUED}


def test_adopt_replaces_what_no_worker_offers(ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    old = ledger.views.jobs()[0].id
    clock.forward(30)
    assert ledger.jobs.adopt(OTHER_SPEC, timedelta(seconds=60)) == 0
    clock.forward(31)
    assert ledger.jobs.adopt(OTHER_SPEC, timedelta(seconds=60)) == 1
    assert ledger.jobs.adopt(OTHER_SPEC, timedelta(seconds=60)) == 0
    job = claim(ledger, spec=OTHER_SPEC)
    assert job.sop_instance_uid == one.sop_instance_uid
    assert (state_of(ledger, old), state_of(ledger, job)) == (JobState.CANCELLED, JobState.RUNNING)
    account = ledger.accounts.account()
    assert (account.pending, account.cancelled, account.difference) == (1, 0, 0)


def test_adopt_leaves_an_analysis_that_is_there_alone(ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    record(ledger, one, spec=OTHER_SPEC)
    new = claim(ledger, spec=OTHER_SPEC)
    complete(ledger, new)
    clock.forward(100)
    assert ledger.jobs.adopt(OTHER_SPEC, timedelta(seconds=60)) == 1
    assert state_of(ledger, new) is JobState.DONE
    assert history_of(ledger, new).count("created") == 1


def test_an_upgrade_that_is_taken_back_leaves_nothing_undone(ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    for spec in (OTHER_SPEC, SPEC):
        clock.forward(61)
        assert ledger.jobs.adopt(spec, timedelta(seconds=60)) == 1
        account = ledger.accounts.account()
        assert (account.pending, account.cancelled, account.difference) == (1, 0, 0)
    job = claim(ledger)
    complete(ledger, job)
    told = ["created", "replaced", "retried", "claimed", "analysed", "done"]
    assert [event for event in history_of(ledger, job) if event != "new"] == told


def test_of_several_analyses_the_adopted_one_counts(ledger: Ledger, clock: Clock) -> None:
    """Left queued by one model, analysed by the next, and then adopted by a third."""
    one = arrival()
    record(ledger, one)
    record(ledger, one, spec=OTHER_SPEC)
    complete(ledger, claim(ledger, spec=OTHER_SPEC))
    clock.forward(100)
    assert ledger.jobs.adopt(THIRD_SPEC, timedelta(seconds=60)) == 1
    account = ledger.accounts.account()
    assert (account.received, account.pending, account.analysed, account.difference) == (1, 1, 0, 0)


def test_a_job_queued_again_for_a_file_that_came_again_counts(ledger: Ledger) -> None:
    one = arrival()
    for spec in (SPEC, OTHER_SPEC):
        record(ledger, one, spec=spec)
        ledger.jobs.refuse(claim(ledger, spec=spec), Reason.SOURCE_MISSING, "")
    record(ledger, one)  # the first model is back
    complete(ledger, claim(ledger))
    account = ledger.accounts.account()
    assert (account.analysed, account.refused, account.difference) == (1, {}, 0)


def test_a_superseded_job_that_a_person_retries_counts(ledger: Ledger) -> None:
    """The model was taken back after its successor had failed over the image too."""
    one = arrival()
    for spec in (SPEC, OTHER_SPEC):
        record(ledger, one, spec=spec)
        ledger.jobs.fail(claim(ledger, spec=spec), "a bug")
    first = next(view.id for view in ledger.views.jobs() if view.model == SPEC.model)
    ledger.jobs.retry(first)
    account = ledger.accounts.account()
    assert (account.pending, account.failed, account.difference) == (1, 0, 0)
    complete(ledger, claim(ledger))
    account = ledger.accounts.account()
    assert (account.analysed, account.failed, account.difference) == (1, 0, 0)


def test_a_retried_job_of_an_analysis_that_nobody_offers_gives_way(ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    old = claim(ledger)
    ledger.jobs.fail(old, "a bug")
    record(ledger, one, spec=OTHER_SPEC)
    complete(ledger, claim(ledger, spec=OTHER_SPEC))
    ledger.jobs.retry(old.id)
    clock.forward(100)
    ledger.jobs.adopt(OTHER_SPEC, timedelta(seconds=60))
    assert state_of(ledger, old) is JobState.CANCELLED
    account = ledger.accounts.account()
    assert (account.analysed, account.cancelled, account.difference) == (1, 0, 0)


def test_retry_and_cancel_by_hand(ledger: Ledger) -> None:
    record(ledger)
    queued = ledger.views.jobs()[0].id
    with pytest.raises(Usage, match="QUEUED"):
        ledger.jobs.retry(queued)
    ledger.jobs.cancel(queued)
    assert ledger.jobs.claim("w", 1, SPEC) == []
    ledger.jobs.retry(queued)
    job = claim(ledger)
    ledger.jobs.cancel(job.id)
    with pytest.raises(StaleMove):
        complete(ledger, job)
    ledger.jobs.retry(job.id)
    again = claim(ledger)
    ledger.jobs.refuse(again, Reason.NOISE, "")
    ledger.jobs.retry(job.id)
    assert ledger.views.job(job.id).reason is None
    complete(ledger, claim(ledger))
    for act in (ledger.jobs.retry, ledger.jobs.cancel):
        with pytest.raises(Usage, match="DONE"):
            act(job.id)
        with pytest.raises(Usage, match="no job"):
            act("0" * 16)


def _claim_all(url: str, name: str, start: object, found: Queue[tuple[str, list[str]]]) -> None:
    with opened(url) as ledger:
        start.wait()  # type: ignore[attr-defined]
        mine: list[str] = []
        while batch := ledger.jobs.claim(name, 3, SPEC):
            mine += [c.id for c in batch]
        found.put((name, mine))


def test_processes_never_claim_the_same_job(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        record(ledger, *(arrival() for _ in range(60)))
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_claim_all, args=(ledger_url, f"w{n}", start, found)) for n in range(3)]
    for process in processes:
        process.start()
    claimed = dict(found.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    everything = [job for jobs in claimed.values() for job in jobs]
    assert len(everything) == len(set(everything)) == 60
    with opened(ledger_url) as ledger:
        assert {job.state for job in ledger.views.jobs()} == {JobState.RUNNING}


@pytest.mark.parametrize("to", JobState)
@pytest.mark.parametrize("start", JobState)
def test_no_move_outside_the_table(ledger: Ledger, start: JobState, to: JobState) -> None:
    """A row that is in the start state moves, with one event, only where the table allows it."""
    record(ledger)
    with ledger.database.write() as conn:
        conn.execute(update(jobs).values(state=start))

    def try_it() -> None:
        with ledger.database.write() as conn:
            move(conn, jobs, start, to, Event.RETRIED, Clock()(), true())

    if to in TRANSITIONS[start]:
        try_it()
    else:
        with pytest.raises(ValueError, match=f"{start} may not become {to}"):
            try_it()
    (job,) = ledger.views.jobs()
    moved = to in TRANSITIONS[start]
    assert job.state is (to if moved else start)
    assert history_of(ledger, job.id).count(Event.RETRIED) == moved


@pytest.mark.parametrize("act", MOVES, ids=MOVE_NAMES)
def test_a_worker_moves_only_what_runs(ledger: Ledger, act: Callable[[Ledger, JobClaim], object]) -> None:
    """Rows are forced into every other state: even then, and with the right fence, compare-and-swap finds nothing."""
    others = [state for state in JobState if state is not JobState.RUNNING]
    record(ledger, *(arrival() for _ in others))
    claims = ledger.jobs.claim("w", len(others), SPEC)
    for job, start in zip(claims, others, strict=True):
        with ledger.database.write() as conn:
            conn.execute(update(jobs).where(jobs.c.id == job.id).values(state=start))
        with pytest.raises(StaleMove):
            act(ledger, job)
        assert state_of(ledger, job) is start


def test_every_move_has_its_event_in_the_table(ledger: Ledger, clock: Clock) -> None:
    """After a life of everything, the events alone rebuild every state, and each step is one of TRANSITIONS."""
    record(ledger, *(arrival() for _ in range(4)))
    first, second, third, fourth = ledger.jobs.claim("w", 4, SPEC)
    complete(ledger, first, "pacs")
    ledger.jobs.fail(second, "bug")
    ledger.jobs.retry(second.id)
    ledger.jobs.requeue(third, "busy", clock.now)
    clock.forward(LEASE.total_seconds() + 1)
    ledger.jobs.expire(1)
    ledger.jobs.cancel(third.id)
    with ledger.database.read() as conn:
        steps = conn.execute(select(events).where(events.c.subject == "job").order_by(events.c.id)).all()
    now: dict[str, str | None] = {}
    for step in steps:
        assert step.from_state == now.get(step.subject_id)
        if step.from_state is not None:
            assert JobState(step.to_state) in TRANSITIONS[JobState(step.from_state)]
        now[step.subject_id] = step.to_state
    assert now == {job.id: job.state for job in ledger.views.jobs()}
    assert now[fourth.id] == JobState.FAILED


def test_the_states_of_different_things_are_not_mixed_up() -> None:
    for state, targets in TRANSITIONS.items():
        assert {type(target) for target in targets} <= {type(state)}
    assert set(TRANSITIONS) == {*JobState, *DeliveryState, *InstanceState, *StudyState}


def test_views_of_jobs(ledger: Ledger, clock: Clock) -> None:
    for _ in range(3):
        record(ledger)
        clock.forward(1)
    newest_first = [job.received_at for job in ledger.views.jobs()]
    assert newest_first == sorted(newest_first, reverse=True)
    assert len(ledger.views.jobs(limit=2)) == 2
    claim(ledger)
    assert [job.state for job in ledger.views.jobs(["running"])] == [JobState.RUNNING]
    with pytest.raises(Usage, match="no job"):
        ledger.views.job("i" + "0" * 15)
    record(ledger, arrival("1.2.840.1"))
    (one,) = ledger.views.jobs(sop_instance_uid="1.2.840.1")
    assert [e.event for e in ledger.views.job(one.id).events] == [Outcome.NEW, "created"]
