"""Images that are analysed again, and models on trial, in the ledger. On both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.reanalysis import Request
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.purposes import Purpose, Urgency
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, DeliveryOutcome, JobClaim, JobSpec
from chexnode.vocabulary.reports import Reanalysis
from chexnode.vocabulary.states import DeliveryState, JobState
from support.ledgers import OTHER_SPEC, SPEC, THIRD_SPEC, Clock, arrival, claim, complete, record

EVERYTHING = Filter()


def analysed(ledger: Ledger, clock: Clock, count: int = 1) -> list[JobClaim]:
    """Images with delivered results of the first model."""
    done = []
    for _ in range(count):
        record(ledger)
        done.append(claim(ledger))
        finish(ledger, done[-1])
        clock.forward(60)
    return done


def finish(ledger: Ledger, job: JobClaim) -> None:
    complete(ledger, job, "pacs")
    sent = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT) for one in sent])


def again(
    ledger: Ledger, purpose: Purpose = Purpose.REANALYSIS, spec: JobSpec = OTHER_SPEC, **more: object
) -> Reanalysis:
    return ledger.reanalyses.request(Request(EVERYTHING, purpose, [spec], **more))  # type: ignore[arg-type]


def valid_models(ledger: Ledger, job: JobClaim) -> set[str]:
    return {one.spec.model for one in ledger.sets.valid(job.sop_instance_uid)}


def counting(ledger: Ledger) -> tuple[int, int, int]:
    account = ledger.accounts.account()
    return account.analysed, account.pending, account.difference


def test_until_it_is_analysed_again_the_old_answer_counts_and_then_the_new_one(ledger: Ledger, clock: Clock) -> None:
    [old] = analysed(ledger, clock)
    assert again(ledger).queued == 1
    assert counting(ledger) == (1, 0, 0)
    assert valid_models(ledger, old) == {"model 1"}
    new = claim(ledger, spec=OTHER_SPEC)
    assert new.purpose is Purpose.REANALYSIS
    finish(ledger, new)
    assert valid_models(ledger, old) == {"model 2"}
    assert counting(ledger) == (1, 0, 0)
    assert {view.state for view in ledger.views.deliveries(job=old.id)} == {DeliveryState.WITHDRAWN}


def test_a_second_request_repeats_nothing_that_is_queued_or_done(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, clock, 3)
    assert again(ledger, is_dry_run=True).queued == 3
    assert again(ledger).queued == 3
    assert again(ledger).queued == again(ledger, is_dry_run=True).queued == 0
    finish(ledger, claim(ledger, spec=OTHER_SPEC))
    refused = claim(ledger, spec=OTHER_SPEC)
    ledger.jobs.refuse(refused, Reason.OUT_OF_SCOPE, "")
    assert again(ledger).queued == 0
    assert len(ledger.sets.valid(refused.sop_instance_uid)) == 1
    assert counting(ledger) == (3, 0, 0)


def test_what_failed_is_tried_again_by_the_same_request(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, clock)
    again(ledger)
    job = claim(ledger, spec=OTHER_SPEC)
    ledger.jobs.fail(job, "a bug")
    assert counting(ledger) == (1, 0, 0)
    report = again(ledger)
    assert (report.queued, report.retried) == (1, 1)
    assert claim(ledger, spec=OTHER_SPEC).id == job.id


def test_it_waits_for_all_that_has_come_for_its_hours_and_for_its_pace(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, clock, 2)
    report = again(ledger, per_minute=2)
    assert report.last_due_at == clock() + timedelta(seconds=30)
    record(ledger, arrival(), spec=OTHER_SPEC)
    assert [one.purpose for one in ledger.jobs.claim("w", 8, OTHER_SPEC, Urgency.SHADOW)] == [Purpose.IMAGE]
    assert ledger.jobs.due(OTHER_SPEC, Urgency.SHADOW) == 0
    assert ledger.views.backlog().oldest_queued_at is None
    assert ledger.views.waiting(10) == 1
    assert ledger.jobs.due(OTHER_SPEC) == 1
    clock.forward(30)
    assert ledger.jobs.due(OTHER_SPEC) == 2


def test_a_queued_reanalysis_holds_up_no_newer_version_of_its_image(ledger: Ledger, clock: Clock) -> None:
    [old] = analysed(ledger, clock)
    again(ledger)
    clock.forward(1)
    record(ledger, arrival(old.sop_instance_uid, "corrected"), spec=OTHER_SPEC)
    [job] = ledger.jobs.claim("w", 8, OTHER_SPEC)
    assert job.purpose is Purpose.IMAGE


def test_only_what_is_done_or_all_that_has_ended(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, clock)
    record(ledger)
    ledger.jobs.fail(claim(ledger), "a bug")
    record(ledger)
    assert again(ledger, only_done=True, is_dry_run=True).queued == 1
    assert again(ledger, is_dry_run=True).queued == 2


def test_what_retention_has_deleted_is_counted_and_left_as_it_is(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, clock, 2)
    ledger.files.expire(clock() - timedelta(seconds=90))
    report = again(ledger)
    assert (report.queued, report.without_source) == (1, 1)


def test_results_of_both_models_stand_beside_each_other_where_wanted(ledger: Ledger, clock: Clock) -> None:
    [old] = analysed(ledger, clock)
    again(ledger, Purpose.BESIDE)
    new = claim(ledger, spec=OTHER_SPEC)
    ledger.jobs.complete(new, Analysis(0.1, False, 0), [], [])
    assert valid_models(ledger, old) == {"model 1"}  # and the new set, which has no objects here
    assert again(ledger, Purpose.BESIDE).queued == 0
    assert ledger.views.job(new.id).state is JobState.DONE
    assert counting(ledger) == (1, 0, 0)


def test_a_rollback_gives_back_the_answer_before_once(ledger: Ledger, clock: Clock) -> None:
    [old, untouched] = analysed(ledger, clock, 2)
    again_of = Request(Filter(until=untouched.received_at), Purpose.REANALYSIS, [OTHER_SPEC])
    assert ledger.reanalyses.request(again_of).queued == 1
    clock.forward(60)
    finish(ledger, claim(ledger, spec=OTHER_SPEC))
    back = Request(EVERYTHING, Purpose.ROLLBACK, [OTHER_SPEC])
    report = ledger.reanalyses.request(back)
    assert (report.queued, report.not_offered) == (0, {"model 1": 1})
    back = replace(back, specs=[OTHER_SPEC, SPEC])
    clock.forward(60)
    assert ledger.reanalyses.request(back).queued == 1
    assert ledger.reanalyses.request(back).queued == 0
    job = claim(ledger)
    assert (job.sop_instance_uid, job.purpose) == (old.sop_instance_uid, Purpose.ROLLBACK)
    assert job.key not in (old.key, SPEC.key(job.sop_instance_uid, job.digest))
    finish(ledger, job)
    assert valid_models(ledger, old) == {"model 1"}
    assert ledger.reanalyses.request(back).queued == 0
    assert counting(ledger) == (2, 0, 0)
    clock.forward(60)
    assert ledger.reanalyses.request(again_of).queued == 1  # and it can be analysed again after all


@pytest.mark.parametrize("purpose", [Purpose.REANALYSIS, Purpose.SHADOW])
def test_jobs_of_the_background_are_cancelled_once_nobody_offers_their_analysis(
    ledger: Ledger, clock: Clock, purpose: Purpose
) -> None:
    analysed(ledger, clock)
    again(ledger, purpose)
    clock.forward(120)
    ledger.jobs.adopt(SPEC, timedelta(seconds=60), [OTHER_SPEC])
    assert ledger.jobs.due(OTHER_SPEC) == 1
    ledger.jobs.adopt(THIRD_SPEC, timedelta(seconds=60))
    assert ledger.jobs.due(OTHER_SPEC) == 0
    assert counting(ledger) == (1, 0, 0)
    assert again(ledger, purpose).retried == 1


def test_a_shadow_counts_nowhere_delivers_nothing_and_fails_for_itself(ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    job = claim(ledger)
    ledger.jobs.complete(job, Analysis(0.9, True, 1), [], [], {}, [OTHER_SPEC, THIRD_SPEC])
    assert ledger.views.job(job.id).state is JobState.DONE
    tried, failing = claim(ledger, spec=OTHER_SPEC), claim(ledger, spec=THIRD_SPEC)
    assert {tried.purpose, failing.purpose} == {Purpose.SHADOW}
    ledger.jobs.complete(tried, Analysis(0.2, False, 0, (), None, "spool/results/a.answer"), [], [])
    ledger.jobs.fail(failing, "a bug")
    assert counting(ledger) == (1, 0, 0)
    assert ledger.accounts.tally().jobs == {(JobState.DONE, None): 1}
    assert [view.id for view in ledger.views.jobs()] == [job.id]
    said = {one.model: (one.state, one.score, one.answer_path) for one in ledger.views.job(job.id).shadows}
    assert said == {
        "model 2": (JobState.DONE, 0.2, "spool/results/a.answer"),
        "model 3": (JobState.FAILED, None, None),
    }
    assert ledger.views.job(tried.id).purpose == Purpose.SHADOW
    ledger.jobs.retry(failing.id)
    assert counting(ledger) == (1, 0, 0)


def test_history_is_shown_to_a_model_on_trial_once(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, clock, 2)
    assert again(ledger, Purpose.SHADOW).queued == 2
    assert again(ledger, Purpose.SHADOW).queued == 0
    for _ in range(2):
        ledger.jobs.complete(claim(ledger, spec=OTHER_SPEC), Analysis(0.2, False, 0), [], [])
    assert again(ledger, Purpose.SHADOW).queued == 0
    pairs = ledger.comparisons.pairs(SPEC, OTHER_SPEC, EVERYTHING)
    assert [(p.abnormal_a, p.abnormal_b, p.score_a, p.score_b) for p in pairs] == [(True, False, 0.9, 0.2)] * 2
    assert again(ledger).queued == 2  # the model is promoted: that it was tried is no reason to leave anything out


def test_what_waits_for_a_model_on_trial_keeps_no_files(ledger: Ledger, clock: Clock) -> None:
    [done] = analysed(ledger, clock)
    again(ledger, Purpose.SHADOW)
    assert done.path in ledger.files.expire(clock())
