"""A closed study tells what in it was not analysed and why: once, from durable bytes, to whoever wants it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from chexnode.encode.objects import to_bytes
from chexnode.ledger.ledger import Ledger
from chexnode.spool.spool import DiskRefused, Spool
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Outcome, Verdict
from chexnode.vocabulary.states import DeliveryState, InstanceState
from chexnode.work import reporter as reporter_module
from chexnode.work.reporter import LONG_SERIES, UNREADABLE, Reporter
from support.disks import unmounted, unreadable
from support.ledgers import SPEC, Clock, arrival, claim, complete, opened, record
from support.radiographs import parsed, part10, radiograph
from support.studies import LATERAL, Site

DAY = 24 * 3600.0


@pytest.fixture
def site(tmp_path: Path, ledger: Ledger, clock: Clock) -> Site:
    return Site(tmp_path, ledger, clock)


def said(ds: Dataset) -> dict[str, str]:
    """SOP Instance UID -> code of the reason, in a report."""
    (measurements,) = [
        item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    reasons = {}
    for group in measurements.ContentSequence:
        (reason,) = [
            item.ConceptCodeSequence[0].CodeValue
            for item in group.ContentSequence
            if item.ConceptNameCodeSequence[0].CodingSchemeDesignator == "99CHEXNODE"
        ]
        (image,) = [item for item in group.ContentSequence if item.ValueType in ("IMAGE", "COMPOSITE")]
        reasons[str(image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)] = reason
    return reasons


def test_a_closed_study_tells_what_was_not_analysed(site: Site) -> None:
    lateral = site.receive(LATERAL)
    site.receive()
    complete(site.ledger, claim(site.ledger), "pacs")
    broken = site.receive(Verdict(InstanceState.QUARANTINED, Reason.MALFORMED, "ends at byte 512"))
    site.close()
    (report,) = site.delivered()
    assert said(report) == {lateral.sop_instance_uid: "lateral-view", broken.sop_instance_uid: "malformed"}
    assert report.SOPClassUID == Comprehensive3DSRStorage
    source = parsed(radiograph())
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate"):
        assert report[keyword].value == source[keyword].value
    (delivery,) = [d for d in site.ledger.views.deliveries() if d.job is None]
    assert (delivery.kind, delivery.state, delivery.sop_instance_uid) == ("sr", "SENT", report.SOPInstanceUID)
    with site.ledger.database.read() as conn:
        events = conn.exec_driver_sql("SELECT event, detail FROM events WHERE subject = 'study' ORDER BY id").all()
    assert [tuple(e) for e in events] == [("closed", None), ("reported", "2 image(s)")]


def test_a_study_whose_only_file_is_broken_is_told_of_with_its_patient(site: Site) -> None:
    ds = radiograph()
    incoming = site.spool.incoming()
    incoming.write(part10(ds).replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00ZZ"))
    stored = incoming.complete("sources")
    incoming.keep()
    broken = arrival(
        ds.SOPInstanceUID,
        path=stored.path,
        verdict=Verdict(InstanceState.QUARANTINED, Reason.MALFORMED, "an unknown value representation"),
        study_instance_uid=site.study,
        sop_class_uid=ds.SOPClassUID,
    )
    record(site.ledger, broken)
    site.close()
    (report,) = site.delivered()
    assert said(report) == {broken.sop_instance_uid: "malformed"}
    assert (report.PatientID, report.PatientName) == (ds.PatientID, ds.PatientName)


def test_images_without_a_series_are_told_of_beside_those_with_one(site: Site) -> None:
    broken = Verdict(InstanceState.QUARANTINED, Reason.MALFORMED, "an element is cut short")
    images = [site.receive(broken, sop_class_uid="1.2.3", series_instance_uid=uid) for uid in (None, "1.2.3.9", None)]
    site.close()
    (report,) = site.delivered()
    told = "".join(element.value for element in report.iterall() if element.keyword == "TextValue")
    assert all(image.sop_instance_uid in told for image in images)


@pytest.mark.parametrize("study", ["1.2." * 12, None])
def test_a_study_that_nothing_can_be_filed_under_is_told_of_in_the_ledger(
    site: Site, study: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    facts = {"study_instance_uid": study} if study else {}
    ds = radiograph(StudyInstanceUID=study) if study else None
    image = site.receive(Verdict(InstanceState.QUARANTINED, Reason.INVALID_UID), ds, **facts)
    if study is None:
        site.spool.unlink(image.path)
    site.close()
    assert site.delivered() == []
    with site.ledger.database.read() as conn:
        events = conn.exec_driver_sql("SELECT detail FROM events WHERE event = 'report-failed'").scalars().all()
    assert events == ["its files give it no valid UID" if study else "none of its files can be read"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_it_tells_once_whatever_happens(site: Site) -> None:
    site.receive(LATERAL)
    site.close()
    (first,) = site.delivered()
    stored = site.files()
    for _ in range(3):
        site.close()
        site.receive(LATERAL, radiograph(SOPInstanceUID="1.2.3.1"))  # the very bytes again: a duplicate
    site.close()
    assert [ds.SOPInstanceUID for ds in site.delivered()] == [first.SOPInstanceUID]
    assert site.files() == stored


def test_a_study_without_such_images_tells_nothing(site: Site) -> None:
    site.receive()
    site.receive(Verdict(InstanceState.NOT_ANALYSED, Reason.NO_PIXEL_DATA), instance={})
    complete(site.ledger, claim(site.ledger), "pacs")
    site.close()
    assert site.delivered() == []
    assert site.ledger.reports.due() == []


def test_a_late_image_makes_another_report_only_if_it_changes_what_is_said(site: Site) -> None:
    first = site.receive(LATERAL)
    site.close()
    site.receive()
    complete(site.ledger, claim(site.ledger), "pacs")
    site.close()
    (before,) = site.delivered()
    late = site.receive(LATERAL)
    site.close()
    after = {ds.SOPInstanceUID: ds for ds in site.delivered()}
    assert len(after) == 2
    del after[before.SOPInstanceUID]
    (newer,) = after.values()
    assert set(said(newer)) == {first.sop_instance_uid, late.sop_instance_uid}
    assert newer.SeriesInstanceUID != before.SeriesInstanceUID


def test_it_waits_for_what_is_still_to_be_analysed(site: Site) -> None:
    lateral = site.receive(LATERAL)
    refused, failed = site.receive(), site.receive()
    site.close()
    assert site.ledger.reports.due() == []
    jobs = {job.sop_instance_uid: job for job in site.ledger.jobs.claim("worker", 2, SPEC)}
    site.ledger.jobs.refuse(jobs[refused.sop_instance_uid], Reason.NOISE, "")
    site.tick()
    assert site.delivered() == []
    site.ledger.jobs.fail(jobs[failed.sop_instance_uid], "Traceback: Doe^John")
    site.tick()
    (report,) = site.delivered()
    assert said(report) == {
        lateral.sop_instance_uid: "lateral-view",
        refused.sop_instance_uid: "noise-pixels",
        failed.sop_instance_uid: "failed",
    }
    assert "Traceback" not in report.to_json(), "an error's text may hold anything"


def test_a_job_tried_again_changes_the_report(site: Site) -> None:
    lateral = site.receive(LATERAL)
    site.receive()
    job = claim(site.ledger)
    site.ledger.jobs.refuse(job, Reason.UNDECODABLE, "")
    site.close()
    assert len(site.delivered()) == 1
    site.ledger.jobs.retry(job.id)
    site.tick()
    complete(site.ledger, claim(site.ledger), "pacs")
    site.tick()
    assert sorted(said(ds) for ds in site.delivered() if len(said(ds)) == 1) == [
        {lateral.sop_instance_uid: "lateral-view"}
    ]


def test_destinations_have_their_own_forms_and_share_equal_ones(site: Site) -> None:
    site.configured(
        {"name": "a", "not_analysed": True},
        {"name": "b", "not_analysed": True},
        {"name": "old", "not_analysed": True, "sr_class": "comprehensive", "results": ["sc"]},
        {"name": "research", "not_analysed": True, "label": "RESEARCH"},
        {"name": "no"},
        {"name": "other", "not_analysed": True, "peers": ["ELSEWHERE"]},
        {"name": "theirs", "not_analysed": True, "peers": ["MODALITY"], "send": "abnormal"},
    )
    site.receive(LATERAL)
    site.close()
    found = {d.name: site.delivered(d.name) for d in site.settings.destination}
    assert {name: len(reports) for name, reports in found.items()} == {
        "a": 1, "b": 1, "old": 1, "research": 1, "no": 0, "other": 0, "theirs": 1,
    }  # fmt: skip
    (a,), (b,), (old,), (research,), (theirs,) = (found[n] for n in ("a", "b", "old", "research", "theirs"))
    assert a.SOPInstanceUID == b.SOPInstanceUID == theirs.SOPInstanceUID
    assert old.SOPClassUID == ComprehensiveSRStorage
    assert research.SeriesDescription == f"RESEARCH {a.SeriesDescription}"
    assert len({a.SOPInstanceUID, old.SOPInstanceUID, research.SOPInstanceUID}) == 3
    assert len(site.files()) == 3


def test_a_long_series_is_one_sentence(site: Site) -> None:
    slices = [
        site.receive(
            Verdict(InstanceState.NOT_ANALYSED, Reason.MODALITY, "Modality is CT"), series_instance_uid="1.2.4"
        )
        for _ in range(LONG_SERIES + 5)
    ]
    lateral = site.receive(LATERAL)
    site.close()
    (report,) = site.delivered()
    named = said(report)
    assert sorted(named.values()) == ["lateral-view", "modality"]
    assert named[lateral.sop_instance_uid] == "lateral-view"
    assert set(named) < {lateral.sop_instance_uid, *(one.sop_instance_uid for one in slices)}
    assert f"(Modality is CT; and {len(slices) - 1} more of its series)" in report.to_json()


def test_an_image_that_comes_while_it_is_being_reported_is_in_the_next_report(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.receive(LATERAL)
    encode = reporter_module.encode_not_analysed

    def interrupted(*args: Any) -> Dataset:
        monkeypatch.undo()
        site.receive(LATERAL)
        return encode(*args)

    monkeypatch.setattr(reporter_module, "encode_not_analysed", interrupted)
    site.close()
    assert site.files() == [], "the file of a report that was not committed"
    assert site.delivered() == []
    site.close()
    (report,) = site.delivered()
    assert len(said(report)) == 2


def test_a_report_that_cannot_be_made_is_told_once_and_holds_up_no_other(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.receive(LATERAL, study_instance_uid="1.2.9")  # its file names another study
    fine = site.receive(LATERAL)
    site.close()
    site.close()
    (report,) = site.delivered()
    assert list(said(report)) == [fine.sop_instance_uid]
    assert caplog.text.count("a study cannot be reported") == 1
    with site.ledger.database.read() as conn:
        rows = conn.exec_driver_sql("SELECT subject_id, detail FROM events WHERE event = 'report-failed'").all()
    assert [row.subject_id for row in rows] == ["1.2.9"]
    assert rows[0].detail == "its files give it no valid UID"


@pytest.mark.parametrize("away", [unreadable, unmounted])
def test_a_study_whose_files_the_disk_does_not_give_is_reported_later(
    site: Site, away: Callable[[Path], AbstractContextManager[None]]
) -> None:
    lateral = site.receive(LATERAL)
    with away(site.spool.path(lateral.path)):
        site.close()
        site.clock.forward(DAY)
        site.tick()
    site.tick()
    assert site.delivered() == [], "it is not looked at all the time"
    site.clock.forward(UNREADABLE.total_seconds())
    site.tick()
    assert [list(said(report)) for report in site.delivered()] == [[lateral.sop_instance_uid]]


def test_a_file_that_the_disk_does_not_give_holds_up_no_other(site: Site) -> None:
    lost = site.receive(LATERAL, study_instance_uid="1.2.9")
    fine = site.receive(LATERAL)
    with unreadable(site.spool.path(lost.path)):
        site.close()
    assert [list(said(report)) for report in site.delivered()] == [[fine.sop_instance_uid]]


def test_another_file_of_the_study_will_do(site: Site) -> None:
    lost, other = site.receive(LATERAL), site.receive(LATERAL)
    with unreadable(site.spool.path(lost.path)):
        site.close()
    [report] = site.delivered()
    assert set(said(report)) == {lost.sop_instance_uid, other.sop_instance_uid}


def test_a_full_disk_that_takes_no_report_keeps_retention_from_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = site.receive(LATERAL, study_instance_uid=None, series_instance_uid=None)
    site.clock.forward(31 * DAY)
    site.receive(LATERAL)
    with monkeypatch.context() as full:
        full.setattr(Spool, "write_result", refusing)
        site.close()
    assert not site.spool.exists(old.path)
    assert site.delivered() == []
    site.tick()
    assert len(site.delivered()) == 1


def refusing(spool: Spool, data: bytes) -> None:
    raise DiskRefused("the disk refused: ENOSPC")


def test_nobody_is_told_of_studies_from_before_they_asked(site: Site) -> None:
    site.configured({"name": "pacs"})
    site.receive(LATERAL)
    site.close()
    site.configured({"name": "pacs", "not_analysed": True})
    site.close()
    assert site.delivered() == []
    site.receive(LATERAL)
    site.close()
    (report,) = site.delivered()
    assert len(said(report)) == 2


def test_our_report_sent_back_to_us_is_dropped(site: Site) -> None:
    site.receive(LATERAL)
    site.close()
    (report,) = site.delivered()
    digest = hashlib.sha256(to_bytes(report)).hexdigest()
    (receipt,) = record(
        site.ledger, arrival(report.SOPInstanceUID, manufacturer=report.Manufacturer, content=digest, path="x")
    )
    assert receipt.outcome is Outcome.OWN_RESULT


def test_it_is_replayed_and_kept_until_delivered_and_old(site: Site) -> None:
    site.receive(LATERAL)
    site.close()
    site.clock.forward(40 * DAY)
    assert [path for path in site.ledger.files.expire(site.clock()) if "results" in path] == [], "not delivered yet"
    site.deliver()
    (delivery,) = site.ledger.views.deliveries()
    assert site.ledger.deliveries.replay(ids=[delivery.id]) == 1
    assert site.ledger.views.deliveries()[0].state is DeliveryState.PENDING
    site.deliver()
    assert site.ledger.deliveries.replay(destination="pacs") == 1
    assert site.ledger.deliveries.give_up(["elsewhere"], timedelta(0)) == 1
    assert site.ledger.views.deliveries()[0].state is DeliveryState.DEAD
    assert site.ledger.files.expire(site.clock()) == [], "a dead one may be replayed"
    site.ledger.deliveries.replay()
    site.deliver()
    assert [path for path in site.ledger.files.expire(site.clock()) if "results" in path] == [
        str(path.relative_to(site.folder / "data")) for path in site.files()
    ]
    assert site.ledger.files.expire(site.clock()) == []


def test_two_reporters_at_once_make_one_report(site: Site, ledger_url: str) -> None:
    site.receive(LATERAL)
    site.clock.forward(31)
    site.ledger.studies.close_quiet(30, reports=True)
    with opened(ledger_url, site.clock) as other:
        start = threading.Barrier(2)

        def report(ledger: Ledger) -> None:
            reporter = Reporter(replace(site.node, ledger=ledger))
            start.wait()
            reporter.report()

        threads = [threading.Thread(target=report, args=(one,)) for one in (site.ledger, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(site.delivered()) == 1
    assert len(site.files()) == 1
