"""Sets of results: of all versions of an image one is valid; what ends is sent no more. On both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.objects import Query
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, DeliveryOutcome, Digests, JobClaim, NewResult
from chexnode.vocabulary.states import DeliveryState, JobState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import KoForm, ResultKind, Variant
from support.ledgers import OTHER_SPEC, SPEC, Clock, arrival, claim, complete, record, results_for

CORRECTED = Supersession.CORRECTED


def finish(ledger: Ledger, job: JobClaim, *destinations: str, ends: dict[str, Supersession] | None = None) -> None:
    made = [replace(r, series_instance_uid=f"2.25.{job.key[:4].translate(_DIGITS)}") for r in results_for(job)]
    analysis = Analysis(0.9, True, 1, (), Digests("content", job.digest), f"spool/results/{job.id}.answer")
    ledger.jobs.complete(job, analysis, made, [(r.uid, d) for d in destinations for r in made], ends or {})


_DIGITS = str.maketrans("abcdef", "123456")


def two_versions(ledger: Ledger, clock: Clock) -> tuple[JobClaim, JobClaim]:
    """An image with results that went to the PACS, and a version of it that came later and is being analysed."""
    first = arrival()
    record(ledger, first)
    job = claim(ledger)
    finish(ledger, job, "pacs", "archive")
    sent = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT) for one in sent])
    clock.forward(60)
    study = {"study_instance_uid": first.study_instance_uid, "series_instance_uid": first.series_instance_uid}
    record(ledger, arrival(first.sop_instance_uid, "corrected", **study))
    return job, claim(ledger)


def states(ledger: Ledger, job: str) -> dict[str, set[DeliveryState]]:
    found: dict[str, set[DeliveryState]] = {}
    for view in ledger.views.deliveries(job=job, limit=None):
        found.setdefault(view.destination, set()).add(view.state)
    return found


def test_versions_of_one_image_are_claimed_one_after_the_other(ledger: Ledger, clock: Clock) -> None:
    first = arrival()
    record(ledger, first, arrival(first.sop_instance_uid, "again"), arrival())
    claims = ledger.jobs.claim("worker", 10, SPEC)
    assert len(claims) == 2
    assert ledger.jobs.due(SPEC) == 0
    for job in claims:
        complete(ledger, job)
    assert ledger.jobs.due(SPEC) == 1
    [second] = ledger.jobs.claim("worker", 10, SPEC)
    assert second.sop_instance_uid == first.sop_instance_uid


def test_a_new_set_ends_the_old_one_and_says_where_it_may_be(ledger: Ledger, clock: Clock) -> None:
    old, new = two_versions(ledger, clock)
    [valid] = ledger.sets.valid(new.sop_instance_uid)
    assert (valid.job, valid.digest, valid.spec, valid.digests) == (
        old.id, old.digest, SPEC, Digests("content", old.digest)
    )  # fmt: skip
    assert {member.destinations for member in valid.members} == {("pacs",)}, "nothing went to the archive yet"
    finish(ledger, new, "pacs", ends={old.id: CORRECTED})
    assert states(ledger, old.id) == {d: {DeliveryState.WITHDRAWN} for d in ("pacs", "archive")}
    assert ledger.views.job(old.id).state is JobState.DONE
    assert [one.job for one in ledger.sets.valid(new.sop_instance_uid)] == [new.id]
    assert ledger.deliveries.claim("archive", 10) == []
    assert ledger.deliveries.replay() == 0, "what is withdrawn is not sent again"
    account = ledger.accounts.account()
    assert (account.received, account.analysed, account.difference) == (2, 2, 0)


def test_a_set_that_is_not_the_valid_one_is_not_replaced(ledger: Ledger, clock: Clock) -> None:
    old, new = two_versions(ledger, clock)
    with pytest.raises(Transient):
        finish(ledger, new, "pacs")
    assert ledger.views.job(new.id).state is JobState.RUNNING
    assert states(ledger, old.id)["pacs"] == {DeliveryState.SENT}


def test_superseded_results_are_found_on_request_only(ledger: Ledger, clock: Clock) -> None:
    old, new = two_versions(ledger, clock)
    finish(ledger, new, ends={old.id: CORRECTED})
    made = {job.id: {r.uid for r in results_for(job)} for job in (old, new)}

    def found(**how: Any) -> set[str]:
        rows = ledger.objects.instances(Query(**how))
        return {row["sop_instance_uid"] for row in rows} - {old.sop_instance_uid}

    assert found() == made[new.id]
    assert found(superseded=True) == made[old.id] | made[new.id]
    [study] = ledger.objects.studies(Query())
    assert (study["series"], study["instances"]) == (2, 3)
    [study] = ledger.objects.studies(Query(superseded=True))
    assert (study["series"], study["instances"]) == (3, 5)
    uid = study["study_instance_uid"]
    held = {one.sop_instance_uid for one in ledger.objects.locate(uid)}
    assert held == made[new.id] | {old.sop_instance_uid}
    assert made[old.id] < {one.sop_instance_uid for one in ledger.objects.locate(uid, superseded=True)}


def test_what_was_under_way_is_withdrawn_after_it_can_have_arrived(ledger: Ledger, clock: Clock) -> None:
    old, new = two_versions(ledger, clock)
    ledger.deliveries.claim("archive", 10)
    [valid] = ledger.sets.valid(new.sop_instance_uid)
    assert {member.destinations for member in valid.members} == {("archive", "pacs")}
    note = NewResult("2.25.77", Variant(KoForm(CORRECTED)), "1.2.840.10008.5.1.4.1.1.88.59", "0" * 64, "spool/ko", 1)
    ledger.jobs.complete(new, Analysis(0.9, True, 1), [note], [(note.uid, "archive")], {old.id: CORRECTED})
    assert ledger.deliveries.claim("archive", 10) == []
    clock.forward(61)
    [due] = ledger.deliveries.claim("archive", 10)
    assert (due.sop_instance_uid, due.kind) == (note.uid, ResultKind.KO)


def test_a_result_that_was_accepted_but_never_committed_to_may_be_there(ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    job = claim(ledger)
    finish(ledger, job, "pacs", "archive")
    accepted, refused = (ledger.deliveries.claim(destination, 10) for destination in ("pacs", "archive"))
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT, to_be_committed=True) for one in accepted])
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.DEAD, "0x0122") for one in refused])
    clock.forward(60)
    assert ledger.commitments.ask("pacs", timedelta()) is None
    assert {view.state for view in ledger.views.deliveries()} == {DeliveryState.DEAD}
    [valid] = ledger.sets.valid(job.sop_instance_uid)
    assert {member.destinations for member in valid.members} == {("pacs",)}


def test_an_answer_is_found_by_its_content_and_model_until_retention_takes_it(ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    job = claim(ledger)
    finish(ledger, job)
    uid, path = job.sop_instance_uid, f"spool/results/{job.id}.answer"
    assert ledger.sets.answer(uid, "content", SPEC.model_digest) == path
    assert ledger.sets.answer(uid, "other", SPEC.model_digest) is None
    assert ledger.sets.answer(uid, "content", OTHER_SPEC.model_digest) is None
    assert ledger.files.known([path]) == {path}
    clock.forward(10)
    assert path in ledger.files.expire(clock.now)
    assert ledger.sets.answer(uid, "content", SPEC.model_digest) is None
    assert ledger.files.known([path]) == set()


def test_a_version_that_needs_no_results_is_counted_as_skipped(ledger: Ledger, clock: Clock) -> None:
    _, again = two_versions(ledger, clock)
    ledger.jobs.skip(again, Reason.SAME_IMAGE, "the same as an earlier version", Digests("content", "identity"))
    view = ledger.views.job(again.id)
    assert (view.state, view.reason) == (JobState.SKIPPED, Reason.SAME_IMAGE)
    account = ledger.accounts.account()
    assert (account.received, account.analysed, account.skipped, account.difference) == (2, 1, 1, 0)
    assert ledger.reports.due() == []


def test_a_version_that_is_the_latest_again_gets_results_again_under_other_uids(ledger: Ledger, clock: Clock) -> None:
    old, new = two_versions(ledger, clock)
    finish(ledger, new, "pacs", ends={old.id: CORRECTED})
    [one] = [view for view in ledger.views.jobs() if view.id == old.id]
    first = arrival(old.sop_instance_uid, "", study_instance_uid=one.study_instance_uid, series_instance_uid="1.2")
    for _ in range(2):  # the second time it is the latest already
        record(ledger, first)
    third = claim(ledger)
    assert third.digest == old.digest
    assert third.id not in (old.id, new.id)
    assert ledger.jobs.due(SPEC) == 0
    finish(ledger, third, "pacs", ends={new.id: CORRECTED})
    assert [one.job for one in ledger.sets.valid(old.sop_instance_uid)] == [third.id]
    account = ledger.accounts.account()
    assert (account.received, account.analysed, account.duplicates, account.difference) == (2, 2, 2, 0)


def test_a_version_whose_results_stand_gets_no_others_when_it_is_the_latest_again(ledger: Ledger, clock: Clock) -> None:
    old, again = two_versions(ledger, clock)
    ledger.jobs.skip(again, Reason.SAME_IMAGE, "the same as an earlier version", Digests("content", old.digest))
    [one] = [view for view in ledger.views.jobs() if view.id == old.id]
    for content in ("", "corrected", ""):
        study = one.study_instance_uid
        record(ledger, arrival(old.sop_instance_uid, content, study_instance_uid=study, series_instance_uid="1.2"))
    assert ledger.jobs.due(SPEC) == 0


def test_a_corrected_name_is_what_a_search_finds(ledger: Ledger, clock: Clock) -> None:
    first = arrival(study={"patient_name": "Wrong^Name", "patient_id": "1"})
    study = {"study_instance_uid": first.study_instance_uid, "series_instance_uid": first.series_instance_uid}
    record(ledger, first)
    record(ledger, arrival(**study, study={"patient_name": "Other^Image", "patient_id": "1"}))
    [row] = ledger.objects.studies(Query())
    assert row["patient_name"] == "Wrong^Name"
    corrected = {"patient_name": "Right^Name", "patient_id": "1"}
    record(ledger, arrival(first.sop_instance_uid, "corrected", **study, study=corrected))
    [row] = ledger.objects.studies(Query())
    assert (row["patient_name"], row["patient_name_key"]) == ("Right^Name", "right^name")
