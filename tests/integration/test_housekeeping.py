"""What happens from time to time, on a real ledger and real files, with a clock that is told the time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from chexnode.keep import backup
from chexnode.keep.housekeeping import KNOW_SECONDS, ORPHAN_SECONDS, Housekeeper
from chexnode.ledger.deliveries import FORGOTTEN_AFTER
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import metadata, studies
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState
from support.disks import undeletable
from support.ledgers import NOT_ANALYSED, OTHER_SPEC, SPEC, Clock, arrival, claim, complete, node_on, opened, record

DAY = 24 * 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with opened(f"sqlite:///{tmp_path / 'chexnode.db'}", clock) as ledger:
        yield ledger


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    spool.prepare()
    return spool


def housekeeper(ledger: Ledger, spool: Spool, owner: str = "a", **tables: object) -> Housekeeper:
    pacs = {"name": "pacs", "kind": "folder", "path": spool.data_dir / "out"}
    settings = Settings.model_validate({"destination": [pacs], "worker": {"max_crashes": 2}} | tables)
    return Housekeeper(node_on(ledger, settings, spool=spool, owner=owner))


def put(spool: Spool, path: str) -> None:
    spool.path(path).parent.mkdir(parents=True, exist_ok=True)
    spool.path(path).write_bytes(b"x")


def test_one_worker_keeps_house_at_a_time(ledger: Ledger, spool: Spool, clock: Clock) -> None:
    record(ledger)
    job = claim(ledger)
    ledger.leases.take("housekeeping", "b", 60)
    clock.forward(40)
    housekeeper(ledger, spool).tick()
    assert ledger.views.job(job.id).state == "RUNNING", "it was b's turn"
    clock.forward(60)
    housekeeper(ledger, spool).tick()
    assert ledger.views.job(job.id).state == "QUEUED"


def test_an_image_that_takes_workers_down_is_given_up(ledger: Ledger, spool: Spool, clock: Clock) -> None:
    record(ledger)
    keeper = housekeeper(ledger, spool)
    for _ in range(2):
        job = claim(ledger)
        clock.forward(40)
        keeper.tick()
    view = ledger.views.job(job.id)
    assert view.state == "FAILED"
    assert "stopped 2 time(s)" in (view.error or "")
    assert ledger.accounts.account().failed == 1


def test_a_study_closes_when_quiet_and_a_late_image_reopens_it(ledger: Ledger, spool: Spool, clock: Clock) -> None:
    first = arrival()
    record(ledger, first)
    clock.forward(31)
    assert ledger.studies.close_quiet(30) == [first.study_instance_uid]
    late = arrival(study_instance_uid=first.study_instance_uid, series_instance_uid=first.series_instance_uid)
    record(ledger, late)
    clock.forward(31)
    assert ledger.studies.close_quiet(30) == [first.study_instance_uid]


def test_jobs_queued_for_a_model_that_is_gone_are_adopted(ledger: Ledger, spool: Spool, clock: Clock) -> None:
    record(ledger, spec=OTHER_SPEC)
    keeper = housekeeper(ledger, spool)
    keeper.tick()
    assert ledger.jobs.due(SPEC) == 0, "a rolling upgrade gets a minute"
    clock.forward(120)
    keeper.tick()
    assert ledger.jobs.due(SPEC) == 1
    account = ledger.accounts.account()
    assert (account.received, account.pending, account.difference) == (1, 1, 0)


def test_deliveries_to_a_destination_that_is_gone_are_dead_and_visible(
    ledger: Ledger, spool: Spool, clock: Clock
) -> None:
    record(ledger)
    job = claim(ledger)
    complete(ledger, job, "removed")
    clock.forward(FORGOTTEN_AFTER.total_seconds())
    housekeeper(ledger, spool).tick()
    assert {d.state for d in ledger.views.deliveries()} == {DeliveryState.DEAD}
    assert ledger.views.job(job.id).state == "DONE"


def test_retention_deletes_what_is_delivered_and_old_and_nothing_else(
    ledger: Ledger, spool: Spool, clock: Clock
) -> None:
    delivered, owed = arrival(), arrival()
    paths: dict[str, list[str]] = {}
    for image in (delivered, owed):
        record(ledger, image)
        job = claim(ledger)
        made = complete(ledger, job, "pacs")
        paths[image.path] = [image.path, *(result.path for result in made)]
    for path in [*paths[delivered.path], *paths[owed.path]]:
        put(spool, path)
    clock.forward(1)
    sent = [c for c in ledger.deliveries.claim("pacs", 10) if c.path in paths[delivered.path]]
    ledger.deliveries.settle([DeliveryOutcome(c, DeliveryState.SENT) for c in sent])
    keeper = housekeeper(ledger, spool)
    clock.forward(29 * DAY)
    assert keeper.retain() == 0
    clock.forward(2 * DAY)
    assert keeper.retain() == 3
    assert not any(spool.exists(path) for path in paths[delivered.path])
    assert all(spool.exists(path) for path in paths[owed.path])
    assert ledger.accounts.account().difference == 0


WHO = {
    "patient_id": "PID-OLD-1", "issuer_of_patient_id": "OLD-HOSPITAL", "patient_name": "Old^Olga",
    "patient_birth_date": "19310203", "patient_sex": "F", "accession_number": "ACC-OLD-1", "study_id": "ID-OLD-1",
    "study_description": "Thorax of Olga", "referring_physician_name": "Doc^Dora",
}  # fmt: skip


def test_names_expire_and_what_they_were_of_is_still_counted(
    tmp_path: Path, ledger: Ledger, spool: Spool, clock: Clock
) -> None:
    study = {"study_instance_uid": "1.2.826.0.1.50", "study": WHO, "series": {"series_description": "Olga p.a."}}
    image = arrival("1.2.826.0.1.51", **study)
    lateral = arrival("1.2.826.0.1.52", verdict=replace(NOT_ANALYSED, detail="Olga is LL"), **study)
    for one in (image, lateral):
        put(spool, one.path)
    record(ledger, image, lateral)
    complete(ledger, claim(ledger))
    keeper = housekeeper(ledger, spool, retention={"days": 10, "identity_days": 100})
    clock.forward(101 * DAY)
    assert keeper.forget() == 0, "there are files, which say it too"
    assert keeper.retain() > 0
    clock.forward(-2 * DAY)
    assert keeper.forget() == 0
    clock.forward(2 * DAY)
    counted = ledger.accounts.account()
    assert keeper.forget() == 1
    assert keeper.forget() == 0
    dump = everything(ledger)
    assert [value for value in (*WHO.values(), "OLD^OLGA", "old^olga", "Olga") if f"'{value}'" in dump] == []
    assert "Olga" not in dump
    assert ledger.accounts.account() == counted
    assert (counted.received, counted.difference) == (2, 0)
    assert len(ledger.views.jobs()) == 2

    record(ledger, replace(image, path="spool/sources/again"))  # the very same bytes, and so a file that says it
    assert subject(ledger) == ("PID-OLD-1", "Old^Olga")


def test_a_late_image_names_its_study_again(ledger: Ledger, spool: Spool, clock: Clock) -> None:
    record(ledger, arrival("1.2.826.0.1.51", study_instance_uid="1.2.826.0.1.50", study=WHO))
    complete(ledger, claim(ledger))
    keeper = housekeeper(ledger, spool, retention={"days": 1, "identity_days": 2})
    clock.forward(3 * DAY)
    keeper.retain()
    assert keeper.forget() == 1
    assert subject(ledger) == (None, None)
    record(ledger, arrival("1.2.826.0.1.53", study_instance_uid="1.2.826.0.1.50", study=WHO))
    assert subject(ledger) == ("PID-OLD-1", "Old^Olga")


def subject(ledger: Ledger) -> tuple[str | None, str | None]:
    """Patient ID and name of the only study."""
    with ledger.database.read() as conn:
        row = conn.execute(select(studies.c.patient_id, studies.c.patient_name)).one()
    return row.patient_id, row.patient_name


def everything(ledger: Ledger) -> str:
    """All rows."""
    with ledger.database.read() as conn:
        return repr([conn.execute(select(table)).all() for table in metadata.sorted_tables])


def test_retention_waits_for_a_backup(
    ledger: Ledger, spool: Spool, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = arrival()
    record(ledger, old)
    ledger.jobs.refuse(claim(ledger), Reason.CONSTANT, "all pixels are 0")
    put(spool, old.path)
    clock.forward(31 * DAY)
    keeper, copied = housekeeper(ledger, spool), []
    whole = backup._copied

    def while_it_runs(source: Path, target: Path, *, link: bool) -> bool:
        copied.append(keeper.retain())
        return whole(source, target, link=link)

    monkeypatch.setattr(backup, "_copied", while_it_runs)
    made = backup.save(ledger, spool.data_dir, tmp_path.with_name(f"{tmp_path.name}-backup"))
    assert copied == [0]
    assert made.files == 1
    assert keeper.retain() == 1


def test_the_sweep_deletes_old_files_without_a_row_only(ledger: Ledger, spool: Spool) -> None:
    known = arrival()
    record(ledger, known)
    old = ["spool/sources/20300102/03/orphan.dcm", "spool/tmp/unfinished.part", known.path]
    fresh = ["spool/sources/20300102/03/about-to-be-committed.dcm"]
    for path in old + fresh:
        put(spool, path)
    long_ago = time.time() - ORPHAN_SECONDS - 60
    for path in old:
        os.utime(spool.path(path), (long_ago, long_ago))
    assert housekeeper(ledger, spool).sweep() == 2
    assert [spool.path(path).exists() for path in old + fresh] == [False, False, True, True]


def test_a_file_that_the_disk_keeps_stands_in_no_other_ones_way(ledger: Ledger, spool: Spool) -> None:
    names = [f"spool/results/20200101/00/{name}.dcm" for name in ("a", "b", "c")]
    for name in names:
        put(spool, name)
        os.utime(spool.path(name), (0, 0))
    with undeletable(spool.path(names[1])):
        assert housekeeper(ledger, spool).sweep() == 2
        assert [spool.exists(name) for name in names] == [False, True, False]
    assert housekeeper(ledger, spool).sweep() == 1


def test_a_host_with_older_settings_gives_up_nothing_of_a_newer_one(ledger: Ledger, spool: Spool, clock: Clock) -> None:
    """During a rolling upgrade: old and new hosts keep house in turn; only what no host knows any more is given up."""
    record(ledger)
    complete(ledger, claim(ledger), "new")
    newer = {"destination": [{"name": "new", "kind": "folder", "path": spool.data_dir / "new"}]}
    old, new = housekeeper(ledger, spool, "old"), housekeeper(ledger, spool, "new", **newer)
    for _ in range(60):
        clock.forward(61)
        new._said = -KNOW_SECONDS
        new.tick()
        clock.forward(61)
        old.tick()
        assert {d.state for d in ledger.views.deliveries()} == {DeliveryState.PENDING}
    clock.forward(FORGOTTEN_AFTER.total_seconds() + 1)
    old.tick()
    assert {d.state for d in ledger.views.deliveries()} == {DeliveryState.DEAD}
