"""One image has one valid set of results, whatever becomes of the image: sent again in another encoding, corrected,
moved to another study. A real Orthanc sends it, and gets the results and what withdraws them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, KeyObjectSelectionDocumentStorage, generate_uid

from chexmodels.dicom.key_objects import KeyObject, read_key_objects
from chexnode.encode.rejection import encode_rejection
from chexnode.ledger.jobs import REUSED
from chexnode.vocabulary.supersession import Supersession
from support import validators
from support.nodes import AE_TITLE, Node, loopback_destination
from support.phantoms import phantom_files
from support.servers import LOOPBACK, Orthanc, StoreSCP, wait_for

WITH_AN_ABNORMALITY = 0
"""Seed of a phantom that has a finding, so that there is a Segmentation too."""


class Site:
    """An Orthanc that is told to delete, an archive that is told by rejection notes, and a node between them."""

    def __init__(self, folder: Path) -> None:
        self.node = Node(folder / "node")
        self.pacs = Orthanc(folder / "pacs", modalities={"chexnode": (AE_TITLE, self.node.port)})
        (folder / "archive").mkdir()
        self.archive = StoreSCP(folder / "archive")
        by_rest = {
            "withdraw": "delete",
            "withdraw_url": f"http://{LOOPBACK}:{self.pacs.http_port}",
            "withdraw_by_orthanc": True,
        }
        self.node.tables["destination"] = [
            loopback_destination("pacs", "ORTHANC", self.pacs.port, **by_rest),
            loopback_destination("archive", "STORESCP", self.archive.port),
        ]
        self.node.write_settings()

    def send(self, ds: Dataset) -> None:
        """Put one version of the image into the PACS, and have it sent on."""
        file = BytesIO()
        ds.save_as(file, enforce_file_format=True)
        self.pacs.store("chexnode", self.pacs.post(file.getvalue()))

    def results(self) -> list[Dataset]:
        """What the PACS has of ours."""
        found = [self.pacs.dataset(instance) for instance in self.pacs.instances()]
        return [ds for ds in found if ds.get("Manufacturer") == "ChexNode"]

    def archived(self) -> list[Dataset]:
        return [pydicom.dcmread(path) for path in self.archive.files()]

    def notes(self) -> list[Dataset]:
        return [ds for ds in self.archived() if ds.SOPClassUID == KeyObjectSelectionDocumentStorage]

    def searched(self, **parameters: str) -> list[dict[str, Any]]:
        """What the node's own DICOMweb finds of results."""
        answer = httpx.get(f"http://{LOOPBACK}:{self.node.web_port}/dicom-web/instances", params=parameters, timeout=60)
        assert answer.status_code == 200
        found: list[dict[str, Any]] = answer.json()
        return [one for one in found if one["0020000E"]["Value"][0].startswith("2.25.")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("versions"))
    with site.pacs, site.archive, site.node.up:
        yield site


def uids(found: list[Dataset]) -> set[str]:
    return {str(ds.SOPInstanceUID) for ds in found}


def compressed(ds: Dataset) -> Dataset:
    """The image in JPEG 2000 lossless, as a PACS hands it on."""
    copy = pydicom.dcmread(BytesIO(part10(ds)))
    copy.compress(JPEG2000Lossless, generate_instance_uid=False)
    copy.StationName = "ARCHIVE"  # and with an element of its own
    return copy


def part10(ds: Dataset) -> bytes:
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def changed(ds: Dataset, **elements: str) -> Dataset:
    copy = pydicom.dcmread(BytesIO(part10(ds)))
    for keyword, value in elements.items():
        setattr(copy, keyword, value)
    return copy


def test_every_version_of_an_image_leaves_one_valid_set_under_its_identity(site: Site, tmp_path: Path) -> None:
    [file] = phantom_files(tmp_path, 1, WITH_AN_ABNORMALITY)
    explicit = pydicom.dcmread(file)
    renamed = changed(explicit, PatientName="Corrected^Name")
    moved = changed(renamed, StudyInstanceUID=generate_uid(), AccessionNumber="MOVED-1")
    sets: list[set[str]] = []
    withdrawn: set[str] = set()
    for number, (version, is_new) in enumerate(
        ((explicit, True), (compressed(explicit), False), (renamed, True), (moved, True)), 1
    ):
        site.send(version)
        site.node.wait_until_settled(number)
        results = site.results()
        if is_new:
            withdrawn |= sets[-1] if sets else set()
            sets.append(uids(results))
        assert uids(results) == sets[-1], "the PACS has another set than the valid one"
        assert {ds.Modality for ds in results} == {"SEG", "SR", "DX"}
        for ds in results:
            for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "AccessionNumber"):
                assert ds[keyword].value == version[keyword].value
        assert {one["00080018"]["Value"][0] for one in site.searched()} == sets[-1]
        assert {one["00080018"]["Value"][0] for one in site.searched(includesuperseded="true")} == sets[-1] | withdrawn
        check_archive(site, withdrawn, sets[-1])
        account = site.node.account()
        assert (account["received"], account["analysed"] + account["skipped"]) == (number, number)
        assert account["skipped"] == (number > 1)
    assert len(set.union(*sets)) == sum(map(len, sets)) == 9
    check_history(site, explicit)


def test_a_rejection_note_of_the_pacs_withdraws_the_results_everywhere(site: Site) -> None:
    sources = [ds for ds in map(site.pacs.dataset, site.pacs.instances()) if ds.get("Manufacturer") != "ChexNode"]
    assert sources, "the versions of the image that the test before has sent"
    valid = uids(site.results())
    assert valid
    there = uids(site.archived())
    latest = sources[-1]
    keywords = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    named = [KeyObject(*(str(latest[keyword].value) for keyword in keywords))]
    note = encode_rejection(latest, named, Supersession.REPLACED, datetime.now(UTC), "1")
    note.Manufacturer = "PACS"
    site.send(note)
    wait_for(lambda: not any(map(site.pacs.lookup, valid)), "the PACS to have none of our results")
    fresh = wait_for(lambda: uids(site.archived()) - there, "the archive to be told")
    [told] = [ds for ds in site.notes() if str(ds.SOPInstanceUID) in fresh]
    assert read_key_objects(told).title == ("113001", "DCM")
    assert {one.sop_instance_uid for one in read_key_objects(told).objects} <= there
    assert {one["00080016"]["Value"][0] for one in site.searched()} == {KeyObjectSelectionDocumentStorage}, "the note"
    assert site.node.account()["difference"] == 0


def check_archive(site: Site, withdrawn: set[str], valid: set[str]) -> None:
    """It keeps what it got, and has notes that name all but the valid set."""
    named = {one.sop_instance_uid for note in site.notes() for one in read_key_objects(note).objects}
    assert named == withdrawn
    assert uids(site.archived()) == valid | withdrawn | uids(site.notes())
    for note in site.notes():
        assert read_key_objects(note).title == ("113038", "DCM")
        of_note = [ds for ds in site.archived() if ds.StudyInstanceUID == note.StudyInstanceUID]
        assert note.PatientName in {ds.PatientName for ds in of_note if ds.SOPInstanceUID in named}
        assert validators.dciodvfy(part10(note)) == []


def check_history(site: Site, source: Dataset) -> None:
    """The model ran once, and each report names the one that it takes the place of."""
    jobs = [site.node.json("jobs", "show", job["id"]) for job in reversed(site.node.jobs())]
    assert [job["state"] for job in jobs] == ["DONE", "SKIPPED", "DONE", "DONE"]
    assert "same as an earlier version" in jobs[1]["error"]
    analysed = [event for job in jobs for event in job["events"] if event["event"] == "analysed"]
    assert [event["detail"] for event in analysed] == [None, REUSED, REUSED]
    assert len({job["score"] for job in jobs if job["score"] is not None}) == 1
    reports = {str(ds.StudyInstanceUID) + str(ds.PatientName): ds for ds in site.archived() if ds.Modality == "SR"}
    first, second, third = (ds for ds in sorted(reports.values(), key=lambda ds: ds.InstanceCreationTime))
    assert "PredecessorDocumentsSequence" not in first
    for earlier, later in ((first, second), (second, third)):
        [study] = later.PredecessorDocumentsSequence
        [series] = study.ReferencedSeriesSequence
        assert study.StudyInstanceUID == earlier.StudyInstanceUID
        assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [earlier.SOPInstanceUID]
        assert validators.unexplained(part10(later), part10(source)) == []
