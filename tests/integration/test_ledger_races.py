"""Two transactions at once, the first held open just before its commit: the second must wait for it or do without.

On SQLite the second waits for the file's only writer; on PostgreSQL only for the rows that it has to share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Connection, select

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import events
from chexnode.vocabulary.errors import StaleMove
from chexnode.vocabulary.records import DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, JobState
from support.ledgers import OTHER_SPEC, SPEC, Clock, arrival, claim, complete, opened, record

OVERLAP_SECONDS = 0.3
"""How long the first transaction stays open; a second that does not wait has long ended by then."""


class Racing:
    """Runs two actions, each on a ledger of its own at the same database."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url, self.clock = url, clock
        self.failures: list[BaseException] = []

    def run(self, first: Callable[[Ledger], object], second: Callable[[Ledger], object]) -> None:
        """``first`` up to its commit; then ``second``; then the commit; then both to their ends."""
        written, commit = threading.Event(), threading.Event()
        threads = [
            threading.Thread(target=self._act, args=(first, lambda ledger: _held_open(ledger, written, commit))),
            threading.Thread(target=self._act, args=(second, lambda ledger: None)),
        ]
        threads[0].start()
        assert written.wait(10)
        threads[1].start()
        threads[1].join(OVERLAP_SECONDS)
        commit.set()
        for thread in threads:
            thread.join(30)
        assert self.failures == []

    def _act(self, action: Callable[[Ledger], object], prepare: Callable[[Ledger], None]) -> None:
        try:
            with opened(self.url, self.clock) as ledger:
                prepare(ledger)
                action(ledger)
        except BaseException as error:
            self.failures.append(error)


def _held_open(ledger: Ledger, written: threading.Event, commit: threading.Event) -> None:
    write = ledger.database.write

    @contextmanager
    def slow_write() -> Iterator[Connection]:
        with write() as conn:
            yield conn
            written.set()
            assert commit.wait(30)

    ledger.database.write = slow_write  # type: ignore[method-assign]


@pytest.fixture
def racing(ledger_url: str, clock: Clock) -> Racing:
    return Racing(ledger_url, clock)


def deliver(ledger: Ledger, destination: str, state: DeliveryState) -> None:
    claims = ledger.deliveries.claim(destination, 10)
    ledger.deliveries.settle([DeliveryOutcome(c, state) for c in claims])


def assert_chains(ledger: Ledger) -> None:
    """Every event begins where the one before it ended."""
    with ledger.database.read() as conn:
        steps = conn.execute(select(events).where(events.c.subject == "delivery").order_by(events.c.id)).all()
    now: dict[str, str] = {}
    for step in steps:
        assert step.from_state == now.get(step.subject_id, DeliveryState.PENDING)
        now[step.subject_id] = step.to_state


def test_two_couriers_with_the_last_deliveries_of_a_job(racing: Racing, ledger: Ledger) -> None:
    """Neither sees the other's uncommitted row; one of them must still finish the job."""
    record(ledger)
    job = claim(ledger)
    complete(ledger, job, "pacs", "archive")
    claims = {name: ledger.deliveries.claim(name, 10) for name in ("pacs", "archive")}

    def settle(name: str) -> Callable[[Ledger], object]:
        return lambda mine: mine.deliveries.settle([DeliveryOutcome(c, DeliveryState.SENT) for c in claims[name]])

    racing.run(settle("pacs"), settle("archive"))
    assert ledger.views.job(job.id).state is JobState.DONE
    assert [e.event for e in ledger.views.job(job.id).events].count("done") == 1


def test_a_replay_while_a_courier_settles(racing: Racing, ledger: Ledger) -> None:
    record(ledger)
    job = claim(ledger)
    complete(ledger, job, "pacs")
    deliver(ledger, "pacs", DeliveryState.WAITING)
    claims = ledger.deliveries.claim("pacs", 10)
    racing.run(
        lambda mine: mine.deliveries.settle([DeliveryOutcome(c, DeliveryState.SENT) for c in claims]),
        lambda mine: mine.deliveries.replay(),
    )
    assert_chains(ledger)
    assert {d.state for d in ledger.views.deliveries()} == {DeliveryState.PENDING}
    assert ledger.views.job(job.id).state is JobState.DELIVERING


def test_a_courier_settles_while_a_destination_is_given_up(racing: Racing, ledger: Ledger) -> None:
    record(ledger)
    job = claim(ledger)
    complete(ledger, job, "pacs")
    claims = ledger.deliveries.claim("pacs", 10)
    racing.run(
        lambda mine: mine.deliveries.give_up([], timedelta(0)),
        lambda mine: mine.deliveries.settle([DeliveryOutcome(c, DeliveryState.SENT) for c in claims]),
    )
    assert_chains(ledger)
    assert ledger.views.job(job.id).state is JobState.DONE


def test_retention_while_a_person_replays(racing: Racing, ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    complete(ledger, claim(ledger), "pacs")
    deliver(ledger, "pacs", DeliveryState.SENT)
    clock.forward(10)
    racing.run(lambda mine: mine.deliveries.replay(), lambda mine: mine.files.expire(clock()))
    assert all(c.path for c in ledger.deliveries.claim("pacs", 10)), "a file went that is to be sent again"


def test_retention_while_a_resend_makes_a_new_job(racing: Racing, ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    complete(ledger, claim(ledger))
    clock.forward(10)
    racing.run(lambda mine: record(mine, one, spec=OTHER_SPEC), lambda mine: mine.files.expire(clock()))
    assert claim(ledger, spec=OTHER_SPEC).path == one.path


def test_a_resend_while_retention_works(racing: Racing, ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    complete(ledger, claim(ledger))
    clock.forward(10)
    racing.run(lambda mine: mine.files.expire(clock()), lambda mine: record(mine, one, spec=OTHER_SPEC))
    assert claim(ledger, spec=OTHER_SPEC).path == one.path


def test_a_late_image_while_its_study_closes(racing: Racing, ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    clock.forward(60)
    late = arrival(study_instance_uid=one.study_instance_uid)
    racing.run(lambda mine: mine.studies.close_quiet(30), lambda mine: record(mine, late))
    clock.forward(60)
    assert ledger.studies.close_quiet(30) == [one.study_instance_uid], "the late image reopened it"


def test_a_worker_answers_while_its_lease_is_taken_back(racing: Racing, ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    job = claim(ledger)
    clock.forward(100)

    def answer(mine: Ledger) -> None:
        with pytest.raises(StaleMove):
            complete(mine, job, "pacs")

    racing.run(lambda mine: mine.jobs.expire(9), answer)
    view = ledger.views.job(job.id)
    assert (view.state, view.results) == (JobState.QUEUED, ())


def test_a_lease_is_taken_back_while_its_worker_answers(racing: Racing, ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    job = claim(ledger)
    clock.forward(100)
    racing.run(lambda mine: complete(mine, job, "pacs"), lambda mine: mine.jobs.expire(9))
    view = ledger.views.job(job.id)
    assert (view.state, len(view.results)) == (JobState.DELIVERING, 2)
    assert [e.to_state for e in view.events if e.from_state] == ["RUNNING", "DELIVERING"]


def test_two_workers_claim(racing: Racing, ledger: Ledger) -> None:
    record(ledger, *(arrival() for _ in range(4)))
    taken: dict[str, list[str]] = {}

    def take(name: str) -> Callable[[Ledger], object]:
        return lambda mine: taken.update({name: [c.id for c in mine.jobs.claim(name, 3, SPEC)]})

    racing.run(take("a"), take("b"))
    assert len(taken["a"]) == 3
    assert len(taken["a"] + taken["b"]) == len({*taken["a"], *taken["b"]}) == 4


def test_two_receivers_with_the_same_image(racing: Racing, ledger: Ledger) -> None:
    one = arrival()
    racing.run(lambda mine: record(mine, one), lambda mine: record(mine, one))
    account = ledger.accounts.account()
    assert (account.received, account.duplicates, account.difference) == (1, 1, 0)


def test_a_cancel_while_a_worker_claims(racing: Racing, ledger: Ledger) -> None:
    record(ledger)
    (view,) = ledger.views.jobs()
    racing.run(lambda mine: claim(mine), lambda mine: mine.jobs.cancel(view.id))
    assert [e.to_state for e in ledger.views.job(view.id).events if e.from_state] == ["RUNNING", "CANCELLED"]


def test_two_housekeepers_want_the_lease(racing: Racing, ledger: Ledger, clock: Clock) -> None:
    ledger.leases.take("housekeeping", "old", 1)
    clock.forward(2)
    held: dict[str, object] = {}

    def take(name: str) -> Callable[[Ledger], object]:
        return lambda mine: held.update({name: mine.leases.take("housekeeping", name, 60)})

    racing.run(take("a"), take("b"))
    assert (held["a"] is None) + (held["b"] is None) == 1


def test_two_contents_under_one_uid_at_once_give_one_latest(ledger_url: str) -> None:
    """Two receivers, each on a connection of its own, many times: one first version, one conflict, the later served."""
    start = threading.Barrier(2)

    def receive(ledger: Ledger, content: str) -> None:
        for number in range(20):
            facts = {"study_instance_uid": "1.2", "series_instance_uid": "1.2.1"}
            one = arrival(f"1.2.3.{number}", content, **facts)
            start.wait(30)
            record(ledger, one)

    with opened(ledger_url) as first, opened(ledger_url) as second:
        threads = [threading.Thread(target=receive, args=pair) for pair in ((first, "a"), (second, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        served = [found.sop_instance_uid for found in first.objects.locate("1.2")]
        assert sorted(served) == sorted(f"1.2.3.{number}" for number in range(20)), "each has one latest version"
        assert first.accounts.account().received == 40
