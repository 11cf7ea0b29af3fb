"""One image has one valid set of results, whatever becomes of the image: sent again in another encoding, corrected,
moved to another study. A real Orthanc sends it, and gets the results and what withdraws them. And a patient whose
images are being analysed is erased: nothing of theirs is left or comes back."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, KeyObjectSelectionDocumentStorage, generate_uid

from chexmodels.dicom.key_objects import KeyObject, read_key_objects
from chexnode.encode.rejection import encode_rejection
from chexnode.ledger.jobs import REUSED
from chexnode.vocabulary.supersession import Supersession
from support import validators
from support.nodes import AE_TITLE, Node, loopback_destination
from support.phantoms import phantom_files
from support.senders import read_part10, store_file
from support.servers import LOOPBACK, Orthanc, StoreSCP, free_port, wait_for

WITH_AN_ABNORMALITY = 0
"""Seed of a phantom that has a finding, so that there is a Segmentation too."""
REAL = "nih_dx_implicit.dcm"
"""One that the model for phantoms calls abnormal, under data/dicom/chest."""


class Site:
    """An Orthanc that is told to delete, an archive that is told by rejection notes, and a node between them."""

    def __init__(self, folder: Path) -> None:
        # Nobody is there to collect audit messages: they wait in their spool.
        self.node = Node(folder / "node", audit={"url": f"tcp://{LOOPBACK}:{free_port()}"})
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


@pytest.fixture
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """A real radiograph in Explicit VR Little Endian where there is one, else a phantom."""
    try:
        file = Path(request.getfixturevalue("shared")) / "data" / "dicom" / "chest" / REAL
    except pytest.skip.Exception as none:
        warnings.warn(f"a phantom takes the place of a real radiograph: {none}", stacklevel=1)
        [file] = phantom_files(tmp_path, 1, WITH_AN_ABNORMALITY)
    ds = pydicom.dcmread(file)
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        ds.decompress(generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return pydicom.dcmread(BytesIO(part10(ds)))


def test_every_version_of_an_image_leaves_one_valid_set_under_its_identity(site: Site, image: Dataset) -> None:
    explicit = image
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
                assert ds.get(keyword, "") == version.get(keyword, "")
        assert {one["00080018"]["Value"][0] for one in site.searched()} == sets[-1]
        assert {one["00080018"]["Value"][0] for one in site.searched(includesuperseded="true")} == sets[-1] | withdrawn
        check_archive(site, withdrawn, sets[-1], explicit)
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


ERASED, KEPT = ("PID-ERASED-77", "Erased^Erika", "ACC-ERASED-77"), ("PID-KEPT-88", "Kept^Karla", "ACC-KEPT-88")


def of_patient(folder: Path, who: tuple[str, str, str], count: int, seed: int) -> list[Dataset]:
    """Phantoms, large enough for the worker to be at them for a while."""
    made = []
    for file in phantom_files(folder, count, seed, (1500, 1300)):
        ds = pydicom.dcmread(file)
        ds.PatientID, ds.PatientName, ds.AccessionNumber = who
        made.append(ds)
    return made


def test_a_patient_who_is_erased_amid_analysis_is_nowhere_afterwards(site: Site, tmp_path: Path) -> None:
    before = site.node.account()["received"]
    erased, kept = of_patient(tmp_path, ERASED, 9, 700), of_patient(tmp_path, KEPT, 1, 800)
    names = [*ERASED, *(str(ds[k].value) for ds in erased for k in ("StudyInstanceUID", "SOPInstanceUID"))]
    store_all(site, erased[:1], tmp_path)
    site.node.wait_until_settled(before + 1)  # this one's results are everywhere by now
    results = {str(ds.SOPInstanceUID) for ds in site.results() if ds.PatientID == ERASED[0]}
    assert len(results) >= 2
    there = readable(site)
    assert missing_in(there["database"] + there["api"], [*names[:5], *results]) == []
    assert missing_in(there["audit"], [*ERASED[:2], names[3]]) == []
    assert missing_in(there["spool"], [*names[:5], *results]) == []

    store_all(site, erased[1:], tmp_path)
    site.node.wait_for_job("RUNNING")
    answer = httpx.post(f"http://{LOOPBACK}:{site.node.web_port}/api/erasure", json={"patient": ERASED[0]}, timeout=120)
    assert answer.status_code == 200, answer.text
    erasure = answer.json()
    assert erasure["erased"]["images"] == len(erased)
    assert erasure["erased"]["unfinished"] == 0, "they were cancelled first"
    assert (set(erasure["withdrawn"]), erasure["not_withdrawn"]) == ({"pacs", "archive"}, {})
    assert erasure["scrubbed"]

    store_all(site, kept, tmp_path)  # what the worker was at is over when it has got to this
    site.node.wait_until_settled(before + 1)
    account = site.node.account()
    assert (account["received"], account["pending"]) == (before + 1, 0)
    left = readable(site)
    for place, text in left.items():
        found = [name for name in (*names, *results) if name.encode() in text]
        assert not found, f"{place} still says {found}"
    for place in ("database", "spool", "audit", "api"):
        assert KEPT[0].encode() in left[place], "another patient's is still there"
    assert b"was taken over" in left["logs"] or b"left to its lease" in left["logs"], "no analysis was under way"
    ours = {str(ds.SOPInstanceUID) for ds in site.results()}
    assert not ours & results, "the PACS was told to delete them"
    told = {one.sop_instance_uid for note in site.notes() for one in read_key_objects(note).objects}
    assert results <= told, "the archive was told that they are withdrawn"


def store_all(site: Site, images: list[Dataset], folder: Path) -> None:
    for ds in images:
        file = folder / "outgoing.dcm"
        ds.save_as(file, enforce_file_format=True)
        assert store_file(site.node.port, read_part10(file)).status == 0


def readable(site: Site) -> dict[str, bytes]:
    """Everything that the node keeps and says, place by place: files as they are, freed pages of the database too."""
    node, url = site.node, f"http://{LOOPBACK}:{site.node.web_port}"
    with sqlite3.connect(node.data_dir / "chexnode.db") as database:
        rows = "\n".join(database.iterdump()).encode()
    files = {place: b"" for place in ("database", "spool", "audit", "elsewhere")}
    for path in node.data_dir.rglob("*"):
        if path.is_file():
            top = path.relative_to(node.data_dir).parts[0]
            place = "database" if top.startswith("chexnode.db") else top if top in files else "elsewhere"
            files[place] += path.name.encode() + path.read_bytes()
    asked = ("/api/jobs", "/api/deliveries", "/api/events?limit=10000", "/api/account", "/dicom-web/studies")
    answers = {path: httpx.get(url + path, timeout=60) for path in (*asked, "/metrics", "/console")}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    logs = b"".join(path.read_bytes() for path in node.folder.glob("*.log*"))
    said = {"api": b"".join(answers[path].content for path in asked), "metrics": answers["/metrics"].content}
    files["database"] += rows
    return {**files, **said, "page": answers["/console"].content, "logs": logs}


def missing_in(text: bytes, names: list[str]) -> list[str]:
    return [name for name in names if name.encode() not in text]


def check_archive(site: Site, withdrawn: set[str], valid: set[str], source: Dataset) -> None:
    """It keeps what it got, and has notes that name all but the valid set."""
    named = {one.sop_instance_uid for note in site.notes() for one in read_key_objects(note).objects}
    assert named == withdrawn
    assert uids(site.archived()) == valid | withdrawn | uids(site.notes())
    for note in site.notes():
        assert read_key_objects(note).title == ("113038", "DCM")
        of_note = [ds for ds in site.archived() if ds.StudyInstanceUID == note.StudyInstanceUID]
        assert note.PatientName in {ds.PatientName for ds in of_note if ds.SOPInstanceUID in named}
        assert validators.unexplained(part10(note), part10(source)) == []


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
