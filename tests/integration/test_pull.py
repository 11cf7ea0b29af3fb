"""Studies fetched from Orthanc's DICOMweb plugin into the receive path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit

from chexnode.archive import pull
from chexnode.node import Node as OpenedNode
from chexnode.receive.storage import StorageService
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.disk import DiskSettings
from chexnode.settings.loading import load
from chexnode.vocabulary.errors import DestinationDown
from support import servers
from support.collectors import Collector
from support.deliveries import data_set_bytes, result
from support.ledgers import node_on
from support.ledgers import opened as opened_ledger
from support.nodes import Node
from support.phantoms import phantom_files
from support.receivers import a_settings
from support.stow import Reply, service

TRANSFERRED, QUERY = "DICOM Instances Transferred", "Query"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Orthanc]:
    with servers.Orthanc(tmp_path_factory.mktemp("orthanc"), dicom_web=True) as server:
        yield server


def image(study: str, modality: str = "CR", date: str = "20250110", **more: Any) -> Dataset:
    ds = result(**more)
    ds.StudyInstanceUID, ds.Modality, ds.StudyDate = study, modality, date
    return ds


def keep(pacs: servers.Orthanc, *objects: Dataset) -> None:
    for ds in objects:
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        pacs.post(buffer.getvalue())


@pytest.fixture
def node(tmp_path: Path, pacs: servers.Orthanc) -> Node:
    pacs.delete_all()
    url = f"http://{servers.LOOPBACK}:{pacs.http_port}/dicom-web"
    node = Node(tmp_path / "node", destination=[{"name": "archive", "kind": "stow", "url": url}])
    node.run("db", "upgrade")
    return node


def received(node: Node) -> set[str]:
    return {job["sop_instance_uid"] for job in node.jobs()}


def test_studies_come_in_once(node: Node, pacs: servers.Orthanc) -> None:
    first = [
        image("1.2.30", size=600_000),
        image("1.2.30", "DX", syntax=ImplicitVRLittleEndian),
        image("1.2.30", syntax=JPEGBaseline8Bit),
    ]
    capture = image("1.2.30")  # of another ChexNode
    capture.Manufacturer, capture.SeriesDescription = "ChexNode", "AI Overlay - NOT FOR DIAGNOSTIC USE"
    keep(pacs, *first, capture, image("1.2.30", "CT"), image("1.2.31"), image("1.2.32", date="20240101"))
    said = node.json("pull", "--from", "archive", "--study", "1.2.30")
    assert said == {"studies": 1, "expected": 3, "found": 3, "held": 0, "stored": 3, "failed": {}, "incomplete": []}
    assert received(node) == {ds.SOPInstanceUID for ds in first}

    # The transfer syntax is the stored one, and the bytes are those that the PACS gives.
    kept = {job["sop_instance_uid"]: node.json("jobs", "show", job["id"]) for job in node.jobs()}
    for ds in first:
        theirs = node.folder / "theirs.dcm"
        theirs.write_bytes(pacs.file(pacs.lookup(ds.SOPInstanceUID)[0]))
        ours = node.data_dir / kept[ds.SOPInstanceUID]["source_path"]
        assert data_set_bytes(ours) == data_set_bytes(theirs)

    again = node.json("pull", "--from", "archive", "--study", "1.2.30")
    assert again == {"studies": 1, "expected": 3, "found": 3, "held": 3, "stored": 0, "failed": {}, "incomplete": []}
    found = node.json("pull", "--from", "archive", "--query", "StudyDate=20250101-20250131")
    assert found == {"studies": 2, "expected": 4, "found": 4, "held": 3, "stored": 1, "failed": {}, "incomplete": []}
    assert node.account()["received"] == 4
    assert node.account()["duplicates"] == 0


def test_pages_are_turned(node: Node, pacs: servers.Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "PAGE", 2)
    keep(pacs, *(image(f"1.2.40.{number}") for number in range(5)))
    with opened(node) as (_, _, service):
        assert sorted(service.studies({})) == [f"1.2.40.{number}" for number in range(5)]


@pytest.mark.parametrize(("honest", "given"), [(True, 7), (False, 3)])
def test_a_page_that_the_archive_cut_short_is_not_the_last(tmp_path: Path, honest: bool, given: int) -> None:
    """It gives at most 3 of 7 and says so; the dishonest one gives the same 3 again and again."""

    def search(path: str) -> Reply:
        offset = int(parse_qs(urlsplit(path).query)["offset"][0]) if honest else 0
        page = [{"0020000D": {"vr": "UI", "Value": [f"1.2.90.{n}"]}} for n in range(offset, min(offset + 3, 7))]
        more = {"Warning": '299 archive "There are 4 additional results that can be requested"'}
        return Reply(200, json.dumps(page).encode(), more if offset + 3 < 7 else {})

    settings = a_settings(tmp_path)
    with service(search=search) as (url, _), opened_ledger(settings.database.url) as ledger:
        archive = DestinationSettings(name="archive", kind="stow", url=url, results=())
        with pull.DicomWebArchive(node_on(ledger, settings), archive) as asked:
            assert len(asked.studies({})) == given
            assert bool(asked.incomplete) != honest
            assert all("There are 4 additional" in sentence for sentence in asked.incomplete)


def test_it_is_said_how_many_were_expected(tmp_path: Path) -> None:
    """A series says that it has 5 instances, and 3 are listed; another says nothing, and 3 are listed."""

    def search(path: str) -> Reply:
        parts = urlsplit(path)
        offset = int(parse_qs(parts.query)["offset"][0])
        level = parts.path.rsplit("/", 1)[1]
        rows: list[dict[str, Any]] = [{"00080018": {"vr": "UI", "Value": [f"1.2.9.{number}"]}} for number in range(3)]
        if level == "series":
            facts = {"00080060": {"vr": "CS", "Value": ["CR"]}}
            said = {"00201209": {"vr": "IS", "Value": [5]}}
            rows = [facts | {"0020000E": {"vr": "UI", "Value": [f"1.2.8.{n}"]}} | (said if n else {}) for n in range(2)]
        return Reply(200, json.dumps(rows[offset:]).encode(), {})

    settings = a_settings(tmp_path)
    with service(search=search) as (url, _), opened_ledger(settings.database.url) as ledger:
        archive = DestinationSettings(name="archive", kind="stow", url=url, results=())
        with pull.DicomWebArchive(node_on(ledger, settings), archive) as asked:
            assert len(list(asked.instances("1.2.7", ["CR"]))) == 6
            assert asked.expected == 8
            (sentence,) = asked.incomplete
            assert "1.2.8.1" in sentence
            assert "3 of 5" in sentence


def test_a_service_that_is_away_is_waited_for_and_then_told(node: Node, pacs: servers.Orthanc) -> None:
    keep(pacs, image("1.2.50"))
    waits: list[float] = []
    gone = DestinationSettings(name="x", kind="stow", url=f"http://{servers.LOOPBACK}:{servers.free_port()}")
    with (
        opened(node) as (us, _, _),
        pull.DicomWebArchive(us, gone, waits.append) as service,
        pytest.raises(DestinationDown, match="no connection"),
    ):
        service.studies({})
    assert len(waits) == pull.ATTEMPTS - 1


def test_what_cannot_be_had_is_told_and_the_rest_comes(node: Node, pacs: servers.Orthanc) -> None:
    with opened(node) as (_, _, service), pytest.raises(pull.NotRetrieved, match="HTTP 404"):
        service.retrieve("1.2.60", "1.2.61", "1.2.62", lambda boundary: pytest.fail("an answer"))
    huge, small = image("1.2.60", size=1_200_000), image("1.2.60")
    keep(pacs, huge, small)
    node.tables["limits"] = {"max_object_mb": 1}
    node.write_settings()
    said = node.json("pull", "--from", "archive", "--study", "1.2.60")
    assert said["stored"] == 1
    assert said["failed"] == {huge.SOPInstanceUID: "object larger than the limit"}
    assert received(node) == {small.SOPInstanceUID}


def test_the_audit_trail_says_whose_images_came(node: Node, pacs: servers.Orthanc) -> None:
    one = image("1.2.80")
    one.PatientID = "P80"
    keep(pacs, one)
    with Collector("tcp") as log:
        node.tables["audit"] = {"url": log.url}
        node.write_settings()
        node.run("pull", "--from", "archive", "--study", "1.2.80")
        (told,) = log.wait_for(TRANSFERRED)
        assert told.users == [node.tables["destination"][0]["url"], "CHEXNODE"]
        assert [p.get("UserIsRequestor") for p in told.root.findall("ActiveParticipant")] == ["false", "true"]
        assert told.objects[:1] == ["1.2.80"]
        assert told.counts == {one.SOPClassUID: 1}
        asked = [question.objects[0] for question in log.told if question.event == QUERY]
        assert asked[0] == "/dicom-web/studies/1.2.80/series"
        assert len(asked) == 2, "the series of the study, and the instances of the one that is wanted"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "give --study UID, or --query"),
        (["--study", "1.2", "--query", "StudyDate=2025"], "give --study UID, or --query"),
        (["--study", "../../x"], "is not a UID"),
        (["--query", "Date"], "not KEY=VALUE"),
        (["--query", "Nonsense=1"], "not KEY=VALUE"),
    ],
)
def test_what_makes_no_sense(node: Node, arguments: list[str], error: str) -> None:
    done = node.run("pull", "--from", "archive", *arguments, check=False)
    assert done.returncode == 2
    assert error in done.stderr
    assert node.run("pull", "--from", "nobody", "--study", "1.2", check=False).returncode == 2
    assert json.loads(node.run("jobs", "--json").stdout) == []


@contextmanager
def opened(node: Node) -> Iterator[tuple[OpenedNode, StorageService, pull.DicomWebArchive]]:
    """A command's own process: the node, its receive path, and the service to fetch from."""
    with (
        OpenedNode.open(load(node.config)[0], "test") as us,
        StorageService(us) as storage,
        pull.DicomWebArchive(us, us.settings.destination[0]) as service,
    ):
        yield us, storage, service


def test_no_more_than_so_many_a_minute(node: Node, pacs: servers.Orthanc) -> None:
    keep(pacs, *(image("1.2.70") for _ in range(3)))
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    with opened(node) as (us, storage, service):
        pace = pull.Pace(us, storage, 0, 0.5, sleep, lambda: now[0])
        said = pull.pull(us, service, storage, ["1.2.70"], pace)
    assert said.stored == 3
    assert waits == [120, 120], "the first may come at once"


def test_it_waits_for_the_analysis_and_for_the_disk(node: Node, pacs: servers.Orthanc) -> None:
    """Nobody analyses here: what is queued stays, until a job is cancelled while the pull waits."""
    keep(pacs, *(image("1.2.71") for _ in range(5)))
    stored = []

    with opened(node) as (us, storage, service):

        def sleep(seconds: float) -> None:
            waiting = us.ledger.views.jobs(limit=10)
            stored.append(len(waiting))
            us.ledger.jobs.cancel(next(job.id for job in waiting if job.state == "QUEUED"))

        pace = pull.Pace(us, storage, 2, 0, sleep)
        said = pull.pull(us, service, storage, ["1.2.71"], pace)
        assert said.stored == 5
        assert stored == [2, 3, 4], "two at once, and then one for each that was done"

        full = us.settings.model_copy(update={"disk": DiskSettings(watermark=1e-9, reserve_gb=0)})
        looks = []

        def make_room(seconds: float) -> None:
            looks.append(seconds)
            storage.settings = us.settings

        keep(pacs, image("1.2.72"))
        storage.settings = full
        pace = pull.Pace(us, storage, 0, 0, make_room)
        said = pull.pull(us, service, storage, ["1.2.72"], pace)
        assert (said.stored, len(looks)) == (1, 1)


def test_an_archive_that_gets_no_results_can_be_pulled_from(tmp_path: Path, pacs: servers.Orthanc) -> None:
    pacs.delete_all()
    url = f"http://{servers.LOOPBACK}:{pacs.http_port}/dicom-web"
    only = {"name": "archive", "kind": "stow", "url": url, "results": []}
    node = Node(tmp_path / "node", destination=[only])
    node.run("db", "upgrade")
    for file in phantom_files(tmp_path / "files", 2):
        pacs.post(file)
    assert node.json("pull", "--from", "archive", "--query", "StudyDate=20000101-")["stored"] == 2
    with node.role("worker"):
        node.wait_until_settled(2)
    assert {job["state"] for job in node.jobs()} == {"DONE"}
    assert node.json("deliveries") == []
    assert len(pacs.get("/instances")) == 2
    looked = {look["name"]: look["detail"] for look in node.json("check")}
    assert looked["destination archive"] == f"{url} answers QIDO-RS"
