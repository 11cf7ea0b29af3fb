"""Destinations paused, resumed and given the history that they lack. On both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from chexnode.ledger.destinations import History
from chexnode.ledger.ledger import Ledger
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import EVERYTHING, Filter
from chexnode.vocabulary.records import Analysis, DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import ScForm, SegForm, Variant
from support.ledgers import Clock, arrival, claim, complete, record

BOTH = [Variant(SegForm()), Variant(ScForm())]


def analysed(ledger: Ledger, *destinations: str, score: float = 0.9, **facts: str) -> str:
    """The id of a job whose deliveries are over."""
    record(ledger, arrival(**facts))
    job = claim(ledger)
    complete(ledger, job, *destinations, score=score)
    for destination in destinations:
        claims = ledger.deliveries.claim(destination, 10)
        ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT) for one in claims])
    assert ledger.views.job(job.id).state is JobState.DONE
    return job.id


def test_nothing_is_sent_to_a_paused_destination_and_nothing_ages(ledger: Ledger, clock: Clock) -> None:
    ledger.destinations.pause("pacs")
    record(ledger)
    complete(ledger, claim(ledger), "pacs", "archive")
    clock.forward(90 * 3600)
    assert ledger.deliveries.claim("pacs", 10) == []
    assert ledger.deliveries.due() == {"archive": 2}
    archive, pacs = ledger.overviews.destinations([])
    assert (pacs.name, pacs.waiting, pacs.paused_at) == ("pacs", 2, clock.now - timedelta(hours=90))
    assert (archive.name, archive.waiting, archive.paused_at) == ("archive", 2, None)
    ledger.destinations.pause("pacs")
    assert ledger.overviews.destinations([])[1].paused_at == pacs.paused_at, "it is paused since the first time"
    assert ledger.views.backlog().paused == ("pacs",)
    assert ledger.destinations.resume("pacs") == 2
    assert {one.created_at for one in ledger.deliveries.claim("pacs", 10)} == {clock.now}
    with pytest.raises(Usage):
        ledger.destinations.resume("pacs")


def test_a_destination_is_given_the_past_once(ledger: Ledger, clock: Clock) -> None:
    done = [analysed(ledger, "pacs"), analysed(ledger, "pacs")]
    assert ledger.destinations.fill("new", BOTH, EVERYTHING) == History(4, 2, 0)
    assert {ledger.views.job(job).state for job in done} == {JobState.DELIVERING}
    assert ledger.destinations.fill("new", BOTH, EVERYTHING) == History(0, 0, 0)
    claims = ledger.deliveries.claim("new", 10)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT) for one in claims])
    assert {ledger.views.job(job).state for job in done} == {JobState.DONE}
    assert len(claims) == 4


def test_it_is_given_what_it_wants_of_those_it_wants_it_of(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs", score=0.1)
    clock.forward(3600)
    since = Filter(since=clock.now)
    analysed(ledger, "pacs", calling_ae_title="OTHER")
    fill = ledger.destinations.fill
    assert fill("jpeg", [Variant(ScForm("jpeg"))], EVERYTHING) == History(0, 0, 2)
    assert fill("late", BOTH, since) == History(2, 1, 0)
    assert fill("abnormal", BOTH, EVERYTHING, abnormal_only=True) == History(2, 1, 0)
    assert fill("modality", BOTH, EVERYTHING, peers=["MODALITY"]) == History(2, 1, 0)
    assert fill("ruled", BOTH, EVERYTHING, permits=lambda _, caller: caller == "OTHER") == History(2, 1, 0)


def test_superseded_results_are_no_history(ledger: Ledger, clock: Clock) -> None:
    old = analysed(ledger, "pacs")
    uid = ledger.views.job(old).sop_instance_uid
    clock.forward(1)
    record(ledger, arrival(uid, "corrected"))
    new = claim(ledger)
    ledger.jobs.complete(new, Analysis(0.9, True, 1), [], [], {old: Supersession.CORRECTED})
    assert ledger.destinations.fill("new", BOTH, EVERYTHING).results == 0
