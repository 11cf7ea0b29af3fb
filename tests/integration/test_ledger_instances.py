"""What the ledger makes of arrivals: versions, duplicates, conflicts, our own results, studies. On both databases."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import instances, series, studies
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import MANUFACTURER, Arrival, Outcome, Priority, Verdict
from chexnode.vocabulary.states import InstanceState, JobState, StudyState
from support.ledgers import (
    ANALYSABLE,
    NOT_ANALYSED,
    OTHER_SPEC,
    QUARANTINED,
    SPEC,
    Clock,
    arrival,
    claim,
    complete,
    opened,
    record,
)
from support.servers import wait_for


def test_a_new_image_gets_its_row_its_study_and_a_job(ledger: Ledger) -> None:
    one = arrival(
        study={"accession_number": "A1", "patient_name": "Yamada^Tarou=山田^太郎", "no_such_column": "x"},
        series={"modality": "DX", "series_number": 3},
        instance={"rows": 2000, "columns": 1500},
        verdict=replace(ANALYSABLE, notes=(Note.VIEW_UNKNOWN,)),
    )
    (receipt,) = record(ledger, one)
    assert (receipt.outcome, receipt.path) == (Outcome.NEW, one.path)
    assert receipt.job == SPEC.key(one.sop_instance_uid, one.digest)[:16]
    (job,) = ledger.views.jobs()
    assert (job.id, job.state, job.accession_number) == (receipt.job, JobState.QUEUED, "A1")
    assert ledger.views.job(job.id).notes == ("view-unknown",)
    with ledger.database.read() as conn:
        assert conn.execute(select(studies.c.patient_name)).scalar_one() == "Yamada^Tarou=山田^太郎"
        assert conn.execute(select(series.c.modality, series.c.series_number)).one() == ("DX", 3)
        assert conn.execute(select(instances.c.rows, instances.c.conflict)).one() == (2000, False)


@pytest.mark.parametrize("verdict", [NOT_ANALYSED, QUARANTINED], ids=lambda v: v.state)
def test_an_ineligible_image_gets_a_reason_and_no_job(ledger: Ledger, verdict: Verdict) -> None:
    (receipt,) = record(ledger, arrival(verdict=verdict))
    assert receipt.job is None
    (view,) = ledger.views.jobs()
    assert (view.state, view.reason, view.error) == (verdict.state, verdict.reason, verdict.detail)
    assert ledger.views.job(view.id).events[0].to_state == verdict.state
    assert ledger.jobs.due(SPEC) == 0


def test_a_quarantined_data_set_needs_no_uids(ledger: Ledger) -> None:
    record(ledger, arrival(verdict=QUARANTINED, study_instance_uid="", series_instance_uid=""))
    (view,) = ledger.views.jobs()
    assert view.study_instance_uid == ""


def test_the_very_bytes_again_are_a_duplicate(ledger: Ledger) -> None:
    one = arrival()
    record(ledger, one)
    again = replace(one, path="spool/sources/again.dcm")
    (receipt,) = record(ledger, again)
    assert (receipt.outcome, receipt.path, receipt.job) == (Outcome.DUPLICATE, one.path, None)
    account = ledger.accounts.account()
    assert (account.received, account.duplicates, account.pending, account.difference) == (1, 1, 1, 0)


def test_duplicates_within_one_transaction(ledger: Ledger) -> None:
    one = arrival()
    receipts = record(ledger, one, one, one)
    assert [r.outcome for r in receipts] == [Outcome.NEW, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert ledger.accounts.account().duplicates == 2
    assert len(ledger.views.jobs()) == 1


def test_other_bytes_under_a_known_uid_are_a_conflict_and_a_job_of_their_own(ledger: Ledger) -> None:
    one = arrival("1.2.3", "first")
    other = arrival("1.2.3", "second", study_instance_uid=one.study_instance_uid, series_instance_uid="1.9")
    record(ledger, one)
    (receipt,) = record(ledger, other)
    assert receipt.outcome is Outcome.CONFLICT
    assert {job.id for job in ledger.views.jobs(sop_instance_uid="1.2.3")} == {
        SPEC.key(a.sop_instance_uid, a.digest)[:16] for a in (one, other)
    }
    assert ledger.accounts.account().received == 2
    with ledger.database.read() as conn:
        flags = dict(conn.execute(select(instances.c.digest, instances.c.conflict)).all())  # type: ignore[arg-type]
    assert flags == {one.digest: False, other.digest: True}


def test_our_own_result_coming_back_is_dropped_and_counted(ledger: Ledger) -> None:
    record(ledger)
    made = complete(ledger, claim(ledger), "pacs")
    mine = arrival(made[0].uid, manufacturer=MANUFACTURER)
    (receipt,) = record(ledger, mine)
    assert (receipt.outcome, receipt.path) == (Outcome.OWN_RESULT, None)
    account = ledger.accounts.account()
    assert (account.received, account.own_results) == (1, 1)


def test_our_name_on_an_unknown_uid_and_our_uid_under_another_name_are_ordinary(ledger: Ledger) -> None:
    record(ledger)
    made = complete(ledger, claim(ledger), "pacs")
    receipts = record(ledger, arrival(manufacturer=MANUFACTURER), arrival(made[0].uid, manufacturer="Somebody"))
    assert [r.outcome for r in receipts] == [Outcome.NEW, Outcome.NEW]


def test_a_resend_after_the_gate_changed_is_analysed(ledger: Ledger) -> None:
    one = arrival(verdict=NOT_ANALYSED)
    record(ledger, one)
    (receipt,) = record(ledger, replace(one, verdict=ANALYSABLE, path="spool/sources/x.dcm"))
    assert (receipt.outcome, receipt.path) == (Outcome.DUPLICATE, one.path)
    assert receipt.job
    (view,) = ledger.views.jobs()
    assert (view.state, view.reason) == (JobState.QUEUED, None)
    assert [e.event for e in ledger.views.job(view.id).events] == ["new", "duplicate", "triaged", "created"]
    assert ledger.accounts.account().difference == 0


def test_a_resend_that_the_gate_now_refuses_keeps_its_job(ledger: Ledger) -> None:
    one = arrival()
    record(ledger, one)
    record(ledger, replace(one, verdict=NOT_ANALYSED))
    assert [job.state for job in ledger.views.jobs()] == [JobState.QUEUED]


def test_quarantine_is_final(ledger: Ledger) -> None:
    one = arrival(verdict=QUARANTINED)
    record(ledger, one)
    (receipt,) = record(ledger, replace(one, verdict=ANALYSABLE))
    assert receipt.job is None
    assert [view.state for view in ledger.views.jobs()] == [InstanceState.QUARANTINED]


@pytest.mark.parametrize("together", [True, False])
def test_quarantine_ends_when_the_same_bytes_come_in_another_transfer_syntax(ledger: Ledger, together: bool) -> None:
    right = arrival()
    wrong = replace(right, verdict=QUARANTINED, transfer_syntax_uid="1.2.3", study_instance_uid="", path="a.dcm")
    receipts = record(ledger, wrong, right) if together else [*record(ledger, wrong), *record(ledger, right)]
    assert [(receipt.outcome, receipt.path) for receipt in receipts] == [
        (Outcome.NEW, "a.dcm"),
        (Outcome.DUPLICATE, right.path),
    ]
    (job,) = [view for view in ledger.views.jobs()]
    assert (job.id, job.state) == (receipts[1].job, JobState.QUEUED)
    with ledger.database.read() as conn:
        row = conn.execute(select(instances)).one()
    assert (row.transfer_syntax_uid, row.reason) == (right.transfer_syntax_uid, None)
    assert (row.path, row.study_instance_uid) == (right.path, right.study_instance_uid)
    assert ledger.accounts.account().difference == 0


def test_a_resend_under_a_new_model_gets_a_second_job_and_counts_once(ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    complete(ledger, claim(ledger))
    clock.forward(1)
    (receipt,) = record(ledger, one, spec=OTHER_SPEC)
    assert receipt.outcome is Outcome.DUPLICATE
    assert receipt.job
    account = ledger.accounts.account()
    assert (account.received, account.analysed, account.pending, account.difference) == (1, 0, 1, 0)


def test_a_resend_restores_a_file_that_retention_took(ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    complete(ledger, claim(ledger))
    clock.forward(10)
    assert one.path in ledger.files.expire(clock())
    again = replace(one, path="spool/sources/again.dcm")
    (receipt,) = record(ledger, again)
    assert (receipt.outcome, receipt.path) == (Outcome.DUPLICATE, again.path)
    assert ledger.instances.files_of(one.sop_instance_uid, one.digest) == (again.path,)


def test_a_resend_of_a_lost_file_is_analysed_after_all(ledger: Ledger) -> None:
    one = arrival()
    record(ledger, one)
    lost = claim(ledger)
    ledger.jobs.refuse(lost, Reason.SOURCE_MISSING, "")
    again = replace(one, path="spool/sources/again.dcm")
    (receipt,) = record(ledger, again)
    assert (receipt.outcome, receipt.path, receipt.job) == (Outcome.DUPLICATE, again.path, lost.id)
    assert claim(ledger).path == again.path


def test_a_resend_of_an_image_with_bad_pixels_stays_refused(ledger: Ledger) -> None:
    one = arrival()
    record(ledger, one)
    ledger.jobs.refuse(claim(ledger), Reason.NOISE, "")
    (receipt,) = record(ledger, replace(one, path="spool/sources/again.dcm"))
    assert (receipt.path, receipt.job) == (one.path, None)


def test_urgent_images_are_claimed_first(ledger: Ledger, clock: Clock) -> None:
    record(ledger)
    clock.forward(1)
    urgent = arrival(verdict=replace(ANALYSABLE, priority=Priority.URGENT))
    record(ledger, urgent)
    assert claim(ledger).sop_instance_uid == urgent.sop_instance_uid


def test_text_that_a_database_cannot_hold(ledger: Ledger) -> None:
    hostile = "a\0b\ud800c\U0001f600"
    record(
        ledger,
        arrival(
            study={"patient_name": hostile},
            calling_ae_title=hostile,
            verdict=Verdict(InstanceState.NOT_ANALYSED, Reason.MODALITY, hostile),
        ),
    )
    (view,) = ledger.views.jobs()
    assert view.error is not None
    assert view.error.startswith("a\ufffdb")
    assert view.error.endswith("c\U0001f600")


def test_a_late_image_reopens_its_study(ledger: Ledger, clock: Clock) -> None:
    one = arrival()
    record(ledger, one)
    assert ledger.studies.close_quiet(30) == []
    clock.forward(31)
    assert ledger.studies.close_quiet(30) == [one.study_instance_uid]
    assert ledger.studies.close_quiet(30) == []
    record(ledger, arrival(study_instance_uid=one.study_instance_uid))
    with ledger.database.read() as conn:
        row = conn.execute(select(studies.c.state, studies.c.closed_at, studies.c.last_received_at)).one()
    assert row == (StudyState.OPEN, None, clock.now)
    clock.forward(31)
    assert ledger.studies.close_quiet(30) == [one.study_instance_uid]


def test_one_study_under_two_uids_of_series(ledger: Ledger) -> None:
    one = arrival()
    record(
        ledger,
        one,
        arrival(study_instance_uid=one.study_instance_uid, series_instance_uid="1.5"),
        arrival(study_instance_uid=one.study_instance_uid, series_instance_uid=one.series_instance_uid),
    )
    assert len(ledger.views.jobs(wanted=Filter(study=one.study_instance_uid))) == 3
    with ledger.database.read() as conn:
        assert len(conn.execute(select(series)).all()) == 2


def test_receivers_that_store_the_same_images_at_once_agree(ledger_url: str) -> None:
    # Of different studies: a common one would have them wait for each other at its row.
    shared = [arrival() for _ in range(24)]
    outcomes: list[Outcome] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def receiver(number: int) -> None:
        try:
            with opened(ledger_url) as ledger:
                barrier.wait()
                order = shared if number % 2 else shared[::-1]
                for start in range(0, len(order), 8):
                    mine = [replace(a, path=f"{a.path}.{number}") for a in order[start : start + 8]]
                    outcomes.extend(r.outcome for r in ledger.instances.record(mine, SPEC))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=receiver, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (outcomes.count(Outcome.NEW), outcomes.count(Outcome.DUPLICATE)) == (24, 72)
    with opened(ledger_url) as ledger:
        account = ledger.accounts.account()
        assert (account.received, account.duplicates, account.pending, account.difference) == (24, 72, 24, 0)


def test_the_account_balances_while_images_arrive(ledger_url: str) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def receive() -> None:
        try:
            with opened(ledger_url) as ledger:
                while not stop.is_set():
                    record(ledger, arrival(), arrival(verdict=NOT_ANALYSED), arrival(verdict=QUARANTINED))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        with opened(ledger_url) as ledger:
            accounts = [ledger.accounts.account() for _ in range(60)]
            wait_for(lambda: failures or ledger.accounts.account().received > accounts[0].received, "an arrival")
            accounts += [ledger.accounts.account() for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert accounts[-1].received > accounts[0].received, "nothing arrived while we counted"
    assert {account.difference for account in accounts} == {0}


def test_retention_takes_only_what_is_finished_delivered_and_old(ledger: Ledger, clock: Clock) -> None:
    kept: list[Arrival] = []
    done, dropped = arrival(), arrival(verdict=NOT_ANALYSED)
    record(ledger, done, dropped)
    made = complete(ledger, claim(ledger))
    queued, running, dead = arrival(), arrival(), arrival()
    for one in (dead, running, queued):
        record(ledger, one)
        kept.append(one)
        clock.forward(1)
    complete(ledger, claim(ledger), "pacs")
    assert claim(ledger).sop_instance_uid == running.sop_instance_uid
    ledger.deliveries.give_up([], timedelta(0))
    clock.forward(10)
    young = arrival()
    record(ledger, young)
    assert sorted(ledger.files.expire(clock() - timedelta(seconds=5))) == sorted(
        [done.path, dropped.path, *(r.path for r in made)]
    )
    assert ledger.files.expire(clock() - timedelta(seconds=5)) == []
    assert ledger.files.known([a.path for a in (*kept, young, done)]) == {a.path for a in (*kept, young)}


def test_what_retention_took_cannot_be_replayed(ledger: Ledger, clock: Clock) -> None:
    from chexnode.vocabulary.records import DeliveryOutcome
    from chexnode.vocabulary.states import DeliveryState

    record(ledger)
    complete(ledger, claim(ledger), "pacs")
    claims = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.settle([DeliveryOutcome(c, DeliveryState.SENT) for c in claims])
    clock.forward(10)
    assert len(ledger.files.expire(clock())) == 3
    with pytest.raises(Usage, match="no delivery to replay"):
        ledger.deliveries.replay(ids=[claims[0].id])
    assert ledger.deliveries.replay() == 0
    assert ledger.deliveries.past_retention() == ledger.deliveries.past_retention("pacs") == 2
    assert ledger.deliveries.past_retention("elsewhere") == 0
