"""Promise 2, against a random life: whatever happens in whatever order, every acknowledged image is explained."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select

from chexnode.ledger.schema import deliveries, events, instances, jobs, results
from chexnode.vocabulary.errors import StaleMove, Usage
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import MANUFACTURER, Arrival, DeliveryClaim, DeliveryOutcome, JobClaim
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState, StudyState
from chexnode.vocabulary.transitions import TRANSITIONS
from support.ledgers import (
    ANALYSABLE,
    NOT_ANALYSED,
    OTHER_SPEC,
    QUARANTINED,
    SPEC,
    THIRD_SPEC,
    Clock,
    arrival,
    complete,
    opened,
)

VERDICTS = st.sampled_from([ANALYSABLE, ANALYSABLE, NOT_ANALYSED, QUARANTINED])
SPECS = st.sampled_from([SPEC, SPEC, OTHER_SPEC, THIRD_SPEC])
WHICH = st.integers(0, 1000)
STATES = {"job": JobState, "delivery": DeliveryState, "instance": InstanceState, "study": StudyState}


class Life(RuleBasedStateMachine):
    """Senders, workers, couriers, housekeepers and people, all at one ledger, none of them waiting for another."""

    template: Path

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=self.template.parent)))
        shutil.copy(self.template, folder / "x.db")
        self.clock = Clock()
        self.ledger = self.stack.enter_context(opened(f"sqlite:///{folder / 'x.db'}", self.clock))
        self.sent: list[Arrival] = []
        self.versions: set[tuple[str, str]] = set()
        self.duplicates = self.own_results = 0
        self.running: list[JobClaim] = []
        self.sending: list[DeliveryClaim] = []

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()

    def store(self, one: Arrival, spec: object = SPEC) -> None:
        self.ledger.instances.record([one], spec)  # type: ignore[arg-type]
        key = (one.sop_instance_uid, one.digest)
        self.duplicates += key in self.versions
        self.versions.add(key)
        self.sent.append(one)

    @rule(verdict=VERDICTS, spec=SPECS)
    def a_new_image(self, verdict: object, spec: object) -> None:
        self.store(arrival(verdict=verdict, study_instance_uid="1.5"), spec)

    @rule(which=WHICH, verdict=VERDICTS, spec=SPECS, syntax=st.sampled_from(["", ".99"]))
    def the_same_again(self, which: int, verdict: object, spec: object, syntax: str) -> None:
        if self.sent:
            old = self.sent[which % len(self.sent)]
            announced = f"1.2.840.10008.1.2.1{syntax}"
            again = replace(old, verdict=verdict, path=f"{old.path}x", transfer_syntax_uid=announced)  # type: ignore[arg-type]
            self.store(again, spec)

    @rule(which=WHICH)
    def other_bytes(self, which: int) -> None:
        if self.sent:
            self.store(arrival(self.sent[which % len(self.sent)].sop_instance_uid, f"{which}"))

    @rule(which=WHICH)
    def our_own_result(self, which: int) -> None:
        with self.ledger.database.read() as conn:
            uids = conn.execute(select(results.c.uid).order_by(results.c.uid)).scalars().all()
        if uids:
            mine = arrival(uids[which % len(uids)], manufacturer=MANUFACTURER)
            self.ledger.instances.record([mine], SPEC)
            self.own_results += 1

    @rule(limit=st.integers(1, 4), spec=SPECS)
    def a_worker_claims(self, limit: int, spec: object) -> None:
        self.running += self.ledger.jobs.claim("w", limit, spec)  # type: ignore[arg-type]

    @rule(which=WHICH, how=st.integers(0, 7))
    def a_worker_answers(self, which: int, how: int) -> None:
        """Perhaps for the second time, perhaps long after its lease."""
        if not self.running:
            return
        claim = self.running[which % len(self.running)]
        ledger = self.ledger
        moves: list[Callable[[], object]] = [
            lambda: complete(ledger, claim, "pacs", "archive"),
            lambda: complete(ledger, claim, "pacs"),
            lambda: complete(ledger, claim),
            lambda: ledger.jobs.refuse(claim, Reason.NOISE, ""),
            lambda: ledger.jobs.fail(claim, "bug"),
            lambda: ledger.jobs.requeue(claim, "busy", self.clock() + timedelta(seconds=5)),
            lambda: ledger.jobs.release([claim]),
            lambda: ledger.jobs.refuse(claim, Reason.SOURCE_MISSING, ""),
        ]
        try:
            moves[how]()
        except StaleMove:
            self.running.remove(claim)

    @rule(verdict=VERDICTS, to=st.sampled_from([(), ("pacs",), ("pacs", "archive")]))
    def a_good_day(self, verdict: object, to: tuple[str, ...]) -> None:
        """An image comes and whatever waits is analysed: without it few lives would come as far as a delivery."""
        self.store(arrival(verdict=verdict, study_instance_uid="1.5"))
        for claim in self.ledger.jobs.claim("w", 3, SPEC):
            complete(self.ledger, claim, *to)

    @rule(seconds=st.sampled_from([1, 10, 40, 100]))
    def time_passes(self, seconds: int) -> None:
        self.clock.forward(seconds)

    @rule()
    def a_new_start(self) -> None:
        self.ledger.jobs.expire(2, everything=True)
        self.ledger.deliveries.release_all()

    @rule(spec=SPECS)
    def housekeeping(self, spec: object) -> None:
        self.ledger.jobs.expire(2)
        self.ledger.jobs.adopt(spec, timedelta(seconds=60))  # type: ignore[arg-type]
        self.ledger.studies.close_quiet(30)

    @rule(first=SPECS, second=SPECS, third=SPECS)
    def upgrades(self, first: object, second: object, third: object) -> None:
        """An image sent to one model is sent to the next, which analyses it, and a third adopts what the first left."""
        one = arrival(study_instance_uid="1.5")
        self.store(one, first)
        self.store(replace(one, path=f"{one.path}x"), second)
        self.clock.forward(100)
        for claim in self.ledger.jobs.claim("w", 3, second):  # type: ignore[arg-type]
            complete(self.ledger, claim, "pacs")
        self.ledger.jobs.adopt(third, timedelta(seconds=60))  # type: ignore[arg-type]

    @rule(names=st.sampled_from([["pacs"], ["pacs", "archive"]]))
    def a_destination_goes(self, names: list[str]) -> None:
        self.ledger.deliveries.give_up(names, timedelta(0))

    @rule()
    def retention(self) -> None:
        for path in self.ledger.files.expire(self.clock() - timedelta(seconds=100)):
            assert not self.ledger.files.known([path])

    @rule(which=WHICH, retry=st.booleans())
    def a_person_acts(self, which: int, retry: bool) -> None:
        views = self.ledger.views.jobs(limit=None)
        if views:
            name = views[which % len(views)].id
            with suppress(Usage):
                (self.ledger.jobs.retry if retry else self.ledger.jobs.cancel)(name)

    @rule(
        name=st.sampled_from(["pacs", "archive"]),
        limit=st.integers(1, 3),
        state=st.sampled_from([None, DeliveryState.SENT, DeliveryState.WAITING, DeliveryState.DEAD]),
        keep=st.booleans(),
    )
    def a_courier_goes(self, name: str, limit: int, state: DeliveryState | None, keep: bool) -> None:
        """Perhaps without an answer, perhaps answering twice or long after its lease."""
        self.sending += self.ledger.deliveries.claim(name, limit)
        if state is not None:
            self.ledger.deliveries.settle([DeliveryOutcome(c, state) for c in self.sending])
            self.sending = self.sending if keep else []

    @rule(dead_only=st.booleans())
    def a_person_replays(self, dead_only: bool) -> None:
        self.ledger.deliveries.replay(dead_only=dead_only)

    @invariant()
    def the_account_balances(self) -> None:
        account = self.ledger.accounts.account()
        assert account.difference == 0
        assert account.received == len(self.versions)
        assert (account.duplicates, account.own_results) == (self.duplicates, self.own_results)

    @invariant()
    def what_is_counted_by_indexes_is_what_a_look_at_every_row_finds(self) -> None:
        with self.ledger.database.read() as conn:
            versions = conn.execute(select(instances)).all()
            worked = conn.execute(select(jobs)).all()
        counting = [job for job in worked if not job.superseded]
        analysable = [row for row in versions if row.state == InstanceState.ANALYSABLE]
        assert sorted((job.sop_instance_uid, job.digest) for job in counting) == sorted(
            (row.sop_instance_uid, row.digest) for row in analysable
        ), "of each version that may be analysed one job counts"
        tally = self.ledger.accounts.tally()
        assert tally.instances == Counter((row.state, row.reason) for row in versions)
        assert tally.jobs == Counter((job.state, job.reason) for job in worked)
        assert tally.newest == Counter((job.state, job.reason) for job in counting)
        assert tally.notes == Counter(note for row in (*versions, *worked) for note in set(row.notes))
        with self.ledger.database.read() as conn:
            of = (deliveries.c.destination, deliveries.c.kind, deliveries.c.state, results.c.kind)
            sent = conn.execute(select(*of).join(results, results.c.uid == deliveries.c.result_uid)).all()
        assert all(row[1] == row[3] for row in sent)
        assert self.ledger.views.backlog().deliveries == Counter(tuple(row[:3]) for row in sent)

    @invariant()
    def nothing_is_in_two_places(self) -> None:
        with self.ledger.database.read() as conn:
            is_open = deliveries.c.state.in_([DeliveryState.PENDING, DeliveryState.WAITING])
            opened_of = dict(
                conn.execute(
                    select(deliveries.c.job_id, func.count()).where(is_open).group_by(deliveries.c.job_id)
                ).all()
            )
            state_of = dict(conn.execute(select(jobs.c.id, jobs.c.state)).all())
            eligible = conn.execute(
                select(func.count()).select_from(instances).where(instances.c.state == InstanceState.ANALYSABLE)
            ).scalar_one()
            lost = conn.execute(
                select(func.count())
                .select_from(deliveries.join(results, results.c.uid == deliveries.c.result_uid))
                .where(is_open, results.c.path.is_(None))
            ).scalar_one()
        assert {job for job, state in state_of.items() if state == JobState.DELIVERING} == set(opened_of)
        assert len(state_of) >= eligible, "an image that may be analysed has a job"
        assert lost == 0, "retention took a file that is still to be delivered"

    @invariant()
    def the_events_tell_how_it_came(self) -> None:
        with self.ledger.database.read() as conn:
            steps = conn.execute(select(events).order_by(events.c.id)).all()
            now_in = {("job", job): state for job, state in conn.execute(select(jobs.c.id, jobs.c.state))}
        told: dict[tuple[str, str], str] = {}
        for step in steps:
            subject = (step.subject, step.subject_id)
            if step.to_state is None:
                continue
            if step.from_state is not None:
                assert told.get(subject, step.from_state) == step.from_state
                kind = STATES[step.subject]
                assert kind(step.to_state) in TRANSITIONS[kind(step.from_state)]
            told[subject] = step.to_state
        assert {subject: state for subject, state in told.items() if subject[0] == "job"} == now_in


def test_the_account_balances_through_any_life(tmp_path_factory: pytest.TempPathFactory) -> None:
    template = tmp_path_factory.mktemp("life") / "template.db"
    with opened(f"sqlite:///{template}"):
        pass
    Life.template = template
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,  # the same lives every time
            suppress_health_check=list(HealthCheck),
        ),
    )
