"""Drift on seeded ledgers: an unchanged stream is silent, a shifted one raises the alarm. On both databases."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from sqlalchemy import bindparam, update

from chexnode.alarms.rules import Facts, conditions
from chexnode.ledger.drift import OUTCOME, DriftWindow
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import jobs
from chexnode.settings.alarms import AlarmSettings
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.reports import Drift
from chexnode.vocabulary.states import JobState
from chexnode.web.metrics import _of_drift
from support.ledgers import NOT_ANALYSED, SPEC, Clock, arrival, record

WINDOW = DriftWindow(days=7, images=100, psi=0.25)


def stream(
    ledger: Ledger,
    clock: Clock,
    seed: int,
    count: int = 300,
    bright: float = 0.0,
    station: str = "ROOM1",
    abnormal: float = 0.2,
) -> None:
    """Images of a day: scores and grey levels as dice say, ``bright`` brighter than they were."""
    dice = random.Random(seed)
    came = [arrival(instance={"station_name": station}) for _ in range(count)]
    record(ledger, *came)
    rows = []
    for image in came:
        is_abnormal = dice.random() < abnormal
        refused = dice.random() < 0.05
        rows.append(
            {
                "uid": image.sop_instance_uid,
                "state": JobState.REFUSED if refused else JobState.DONE,
                "reason": Reason.OUT_OF_SCOPE if refused else None,
                "score": None if refused else dice.betavariate(*((6, 2) if is_abnormal else (2, 8))),
                "abnormal": None if refused else is_abnormal,
                "area": None if refused else is_abnormal * dice.random() / 10,
                "brightness": None if refused else dice.gauss(0.5 + bright, 0.05),
                "contrast": None if refused else dice.gauss(0.2, 0.02),
            }
        )
    named = {name: bindparam(f"new_{name}") for name in rows[0] if name != "uid"}
    change = update(jobs).where(jobs.c.sop_instance_uid == bindparam("uid")).values(**named)
    with ledger.database.write() as conn:
        conn.execute(change, [{"uid" if k == "uid" else f"new_{k}": v for k, v in row.items()} for row in rows])


def alarms(found: list[Drift], clock: Clock) -> list[str]:
    facts = Facts(clock(), {}, [], None, 0, False, None, timedelta(), found)
    return [one.subject for one in conditions(facts, AlarmSettings()) if one.rule == "drift"]


@pytest.fixture
def with_baseline(ledger: Ledger, clock: Clock) -> Ledger:
    """A ledger whose first day is the baseline, and two weeks have passed."""
    stream(ledger, clock, 1, 500)
    fixed = ledger.drifts.fix_baseline(clock() - timedelta(days=1), clock() + timedelta(days=1), 100)
    assert (fixed.images, fixed.groups) == ({SPEC.model: 500}, 2)
    clock.forward(14 * 86400)
    return ledger


def test_without_a_baseline_or_without_images_nothing_is_said(ledger: Ledger, clock: Clock) -> None:
    assert (ledger.drifts.look(WINDOW), ledger.drifts.baseline()) == ([], None)
    with pytest.raises(Usage, match="100 images"):
        ledger.drifts.fix_baseline(clock() - timedelta(days=1), clock(), 100)


def test_an_unchanged_stream_is_silent(with_baseline: Ledger, clock: Clock) -> None:
    for seed in range(2, 5):
        stream(with_baseline, clock, seed, 120)
        found = with_baseline.drifts.look(WINDOW)
        assert {one.statistic for one in found} == {OUTCOME, "score", "area", "brightness", "contrast"}
        assert alarms(found, clock) == []
        clock.forward(8 * 86400)
        assert with_baseline.drifts.look(WINDOW) == []


def test_brighter_images_of_one_station_raise_the_alarm_for_it(with_baseline: Ledger, clock: Clock) -> None:
    stream(with_baseline, clock, 2, bright=0.08)
    found = with_baseline.drifts.look(WINDOW)
    assert {one.statistic for one in found if one.is_shifted} == {"brightness"}
    assert alarms(found, clock) == ["model 1", "model 1 from ROOM1 (MODALITY)"]
    assert found[0].psi > 1
    [index, shifted] = _of_drift(found)
    assert {s.labels["statistic"]: s.value > 1 for s in index.samples}["brightness"]
    assert [(s.labels, s.value) for s in shifted.samples] == [({"model": "model 1"}, 2)]


def test_more_abnormal_images_raise_the_alarm(with_baseline: Ledger, clock: Clock) -> None:
    stream(with_baseline, clock, 2, abnormal=0.6)
    shifted = {one.statistic for one in with_baseline.drifts.look(WINDOW) if one.is_shifted}
    assert {OUTCOME, "score", "area"} <= shifted
    assert not shifted & {"brightness", "contrast"}


def test_too_few_images_are_not_judged(with_baseline: Ledger, clock: Clock) -> None:
    stream(with_baseline, clock, 2, 60, bright=0.3)
    assert with_baseline.drifts.look(WINDOW) == []


def test_an_answer_may_be_some_minutes_old(with_baseline: Ledger, clock: Clock) -> None:
    assert with_baseline.drifts.look(WINDOW) == []
    stream(with_baseline, clock, 2)
    assert with_baseline.drifts.look(WINDOW, most_age=300) == []
    assert with_baseline.drifts.look(WINDOW) != []


def test_the_figures_of_a_day(ledger: Ledger, clock: Clock) -> None:
    stream(ledger, clock, 1, 50)
    record(ledger, arrival(verdict=NOT_ANALYSED, instance={"station_name": "ROOM2"}))
    of_header, of_model = ledger.drifts.daily(clock() - timedelta(days=1), clock() + timedelta(days=1))
    assert (of_header.model, of_header.station, of_header.images) == ("", "ROOM2", 1)
    assert of_header.refused == {Reason.LATERAL_VIEW: 1}
    assert (of_model.day, of_model.model, of_model.station) == ("2030-01-02", SPEC.model, "ROOM1")
    assert (of_model.calling_ae_title, of_model.images) == ("MODALITY", 50)
    refused = of_model.refused[Reason.OUT_OF_SCOPE]
    assert sum(of_model.scores) == 50 - refused
    assert of_model.abnormal is not None
    assert 0 < of_model.abnormal < 0.6
    assert of_model.brightness == pytest.approx(0.5, abs=0.03)
    assert of_model.contrast == pytest.approx(0.2, abs=0.02)
