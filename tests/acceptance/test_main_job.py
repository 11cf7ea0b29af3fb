"""The main job, as a PACS administrator has it: Orthanc routes radiographs to the node, results come back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)

from support import senders, validators
from support.nodes import AE_TITLE, Node, loopback_destination
from support.phantoms import phantom_files
from support.servers import LOOPBACK, OnlySecondaryCapture, Orthanc, Redis, StoreSCP, wait_for

STUDY_AND_IDENTITY = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
]


class Site:
    """A PACS and a node that know each other; of two versions of an image the PACS keeps one set of results."""

    @property
    def deletes(self) -> dict[str, Any]:
        url = f"http://{LOOPBACK}:{self.pacs.http_port}"
        return {"withdraw": "delete", "withdraw_url": url, "withdraw_by_orthanc": True}

    def __init__(self, folder: Path, **tables: Any) -> None:
        self.node = Node(folder / "node", **tables)
        self.pacs = Orthanc(folder / "pacs", modalities={"chexnode": (AE_TITLE, self.node.port)})
        self.node.tables["destination"] = [loopback_destination("pacs", "ORTHANC", self.pacs.port, **self.deletes)]
        self.node.write_settings()

    def send(self, files: list[Path]) -> dict[str, Dataset]:
        """Put files into the PACS and let it route them; return SOP Instance UID -> (one of its) source headers."""
        for file in files:
            self.pacs.store("chexnode", self.pacs.post(file))
        return {ds.SOPInstanceUID: ds for ds in (pydicom.dcmread(file, stop_before_pixels=True) for file in files)}

    def results(self) -> dict[str, list[Dataset]]:
        """Source SOP Instance UID -> our objects in the PACS that refer to it."""
        found: dict[str, list[Dataset]] = {}
        for instance in self.pacs.instances():
            ds = self.pacs.dataset(instance)
            if ds.get("Manufacturer") == "ChexNode":
                found.setdefault(source_of(ds), []).append(ds)
        return found

    def digests(self) -> dict[str, str]:
        """Our objects in the PACS: SOP Instance UID -> digest of the data set."""
        digests = {}
        for objects in self.results().values():
            for ds in objects:
                ds.remove_private_tags()
                digests[str(ds.SOPInstanceUID)] = hashlib.sha256(ds.to_json().encode()).hexdigest()
        return digests


def source_of(ds: Dataset) -> str:
    """SOP Instance UID of the image that a result is of."""
    if "CurrentRequestedProcedureEvidenceSequence" in ds:
        series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        images = [i for one in series for i in one.ReferencedSOPSequence]
        (image,) = [i for i in images if i.ReferencedSOPClassUID != SegmentationStorage]
    else:
        series = ds.ReferencedSeriesSequence[0]
        (image,) = series.get("ReferencedInstanceSequence") or series.ReferencedImageSequence
    return str(image.ReferencedSOPInstanceUID)


ALWAYS = (SecondaryCaptureImageStorage, Comprehensive3DSRStorage)
WITH_A_FINDING = (SegmentationStorage,)


def check_results(
    sources: dict[str, Dataset],
    jobs: dict[str, list[dict[str, Any]]],
    results: dict[str, list[Dataset]],
    with_a_finding: tuple[str, ...] = WITH_A_FINDING,
) -> None:
    """Of every image the version that came last has one SC and SR, one SEG exactly if something was found; identity and
    study are its own."""
    for uid, source in sources.items():
        assert {job["state"] for job in jobs[uid]} == {"DONE"}
        latest = max(jobs[uid], key=lambda job: job["received_at"])
        wanted = [*ALWAYS, *(with_a_finding if latest["regions"] else ())]
        assert sorted(ds.SOPClassUID for ds in results[uid]) == sorted(wanted), (uid, jobs[uid])
        for ds in results[uid]:
            for keyword in STUDY_AND_IDENTITY:
                assert str(ds.get(keyword, "")).strip() == str(source.get(keyword, "")).strip(), keyword
            assert ds.SeriesInstanceUID != source.get("SeriesInstanceUID")


def growth(node: Node, before: dict[str, Any]) -> dict[str, int]:
    """By how much each number of the account is larger than ``before``."""
    return {name: number - before[name] for name, number in node.account().items() if isinstance(number, int)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Embedded defaults: SQLite and the embedded broker, one command. Each test sends images of its own."""
    site = Site(tmp_path_factory.mktemp("site"))
    with site.pacs, site.node.up:
        yield site


def test_phantoms_come_back(site: Site, tmp_path: Path) -> None:
    before = site.node.account()
    sources = site.send(phantom_files(tmp_path / "in", 3))
    jobs = site.node.wait_until_settled(before["received"] + 3)
    check_results(sources, jobs, site.results())
    assert any(job["regions"] for uid in sources for job in jobs[uid]), (
        "no phantom has a finding: the test shows too little"
    )
    grown = growth(site.node, before)
    assert (grown["received"], grown["analysed"]) == (3, 3)


def test_every_chest_file_comes_back(tmp_path: Path, shared: Path) -> None:
    # The operating point that marks most images, so that segmentations of real files are judged too.
    site = Site(tmp_path, model={"bundle": "chexnomaly", "operating_point": "triage"})
    files = sorted((shared / "data/dicom/chest").glob("*.dcm"))
    with site.pacs, site.node.up:
        sources = site.send(files)
        jobs = site.node.wait_until_settled(len(files))
        results = site.results()
        check_results(sources, jobs, results)
        assert any(job["regions"] for versions in jobs.values() for job in versions), "no segmentation was judged"
        latest = {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID): file for file in files}
        for uid, file in latest.items():
            for ds in results.get(uid, []):
                result = site.pacs.file(site.pacs.lookup(ds.SOPInstanceUID)[0])
                assert validators.unexplained(result, file.read_bytes()) == []
        site.node.account()


def test_a_resend_changes_nothing(site: Site, tmp_path: Path) -> None:
    before, others = site.node.account(), site.digests()
    files = phantom_files(tmp_path / "in", 2, first_seed=100)
    for _ in range(3):
        site.send(files)
    site.node.wait_until_settled(before["received"] + 2)
    first = site.digests()
    assert 4 <= len(first) - len(others) <= 6
    site.node.up.stop()
    for message in (site.node.data_dir / "broker" / "messages").iterdir():  # the flushed broker
        message.unlink()
    site.node.up.start()
    site.send(files)
    site.node.wait_until_settled(before["received"] + 2)
    assert site.digests() == first
    grown = growth(site.node, before)
    assert grown["received"] == 2
    assert grown["duplicates"] == 6


def test_our_results_sent_back_to_us_make_no_loop(site: Site, tmp_path: Path) -> None:
    started = site.node.account()
    site.send(phantom_files(tmp_path / "in", 1, first_seed=200))
    site.node.wait_until_settled(started["received"] + 1)
    before, instances = site.digests(), site.pacs.instances()
    for instance in instances:
        site.pacs.store("chexnode", instance)
    grown = growth(site.node, started)
    assert grown["own_results"] == len(before)
    assert grown["duplicates"] == len(instances) - len(before)
    assert grown["received"] == 1
    assert site.digests() == before


def test_a_cluster_on_postgresql_and_redis(tmp_path: Path, shared: Path, postgres_url: str, redis: Redis) -> None:
    site = Site(
        tmp_path, database={"url": postgres_url}, broker={"url": redis.url},
        model={"bundle": "chexnomaly", "device": "cpu"}, worker={"batch_size": 2, "decoders": 1},
    )  # fmt: skip
    node = site.node
    files = sorted((shared / "data/dicom/chest").glob("*.dcm"))[:2] + phantom_files(tmp_path / "in", 4)
    assert node.run("receive", check=False).returncode == 3, "an empty schema is refused"
    node.run("db", "upgrade")
    with site.pacs, node.role("receive"), node.role("worker", 1), node.role("worker", 2), node.role("web"):
        sources = site.send(files)
        redis.ask(b"FLUSHALL")
        jobs = node.wait_until_settled(len(files))
        check_results(sources, jobs, site.results())
        owners = {
            event["detail"]
            for uid in sources
            for job in jobs[uid]
            for event in node.json("jobs", "show", job["id"])["events"]
            if event["event"] == "claimed"
        }
        assert len(owners) == 2, "one of the two workers did nothing"
        node.account()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that writes into folders. Each test sends images of its own."""
    node = Node(
        tmp_path_factory.mktemp("folders") / "node",
        destination=[
            {"name": "all", "kind": "folder", "path": "all"},
            {"name": "abnormal", "kind": "folder", "path": "abnormal", "send": "abnormal"},
            {"name": "elsewhere", "kind": "folder", "path": "elsewhere", "peers": ["OTHER"]},
            {"name": "jpeg", "kind": "folder", "path": "jpeg", "results": ["sc"], "sc_encoding": "jpeg"},
        ],
    )
    with node.up:
        yield node


@pytest.mark.parametrize("folder", ["not_chest", "other_modalities", "charset", "malformed"])
def test_everything_else_ends_in_a_coded_state(folders: Node, shared: Path, folder: str) -> None:
    node, before = folders, folders.account()
    files = sorted((shared / "data/dicom" / folder).rglob("*.dcm"))
    pids = {role: node.up.children(role)[0].pid for role in ("receive", "worker", "web")}
    acknowledged = 0
    for file in files:
        acknowledged += senders.is_acknowledged(node.port, file.read_bytes())
    jobs = [job for versions in node.wait_until_settled(before["received"] + 1).values() for job in versions]
    grown = growth(node, before)
    assert grown["received"] + grown["duplicates"] == acknowledged
    assert grown["received"] >= 1
    assert grown["failed"] == 0, [j for j in jobs if j["state"] == "FAILED"]
    assert all(job["reason"] for job in jobs if job["state"] != "DONE")
    assert {role: node.up.children(role)[0].pid for role in pids} == pids, "a role died"


def test_only_abnormal_and_only_from_one_peer(folders: Node, tmp_path: Path) -> None:
    node, received = folders, folders.account()["received"]
    count: Callable[[str], int] = lambda name: len(list((node.folder / name).glob("*.dcm")))  # noqa: E731
    before = {name: count(name) for name in ("all", "abnormal", "jpeg")}
    files = phantom_files(tmp_path / "in", 4)
    for file in files:
        assert senders.is_acknowledged(node.port, file.read_bytes())
    jobs = node.wait_until_settled(received + 4)
    ours = [str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files]
    abnormal = sum(bool(job["abnormal"]) for uid in ours for job in jobs[uid])
    assert 0 < abnormal < 4, "the phantoms should be of both kinds"
    assert count("all") - before["all"] == 2 * 4 + abnormal
    assert count("abnormal") - before["abnormal"] == 3 * abnormal
    assert count("elsewhere") == 0
    assert count("jpeg") - before["jpeg"] == 4


def test_each_destination_has_what_it_can_show(tmp_path: Path) -> None:
    """A PACS with everything, an old archive that takes captures only, a folder for research; and what was left out."""
    site = Site(tmp_path, study={"quiet_seconds": 3})
    archive = OnlySecondaryCapture(tmp_path / "archive")
    everything = {"results": ["seg", "sc", "sr", "gsps"], "heat_map": True, "not_analysed": True}
    research = {"results": ["seg", "sr"], "sr_class": "comprehensive", "sr_outline": "contour", "label": "RESEARCH"}
    site.node.tables["destination"] = [
        loopback_destination("pacs", "ORTHANC", site.pacs.port, **everything),
        loopback_destination("archive", "STORESCP", archive.port),
        {"name": "research", "kind": "folder", "path": "research", **research},
    ]
    site.node.write_settings()
    files = phantom_files(tmp_path / "in", 2)
    lateral = pydicom.dcmread(files[0])
    lateral.SOPInstanceUID = lateral.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    lateral.ViewPosition = "LL"
    lateral.save_as(tmp_path / "lateral.dcm")
    with site.pacs, archive, site.node.up:
        sources = site.send(files)
        site.send([tmp_path / "lateral.dcm"])
        jobs = site.node.wait_until_settled(3)
        wait_for(lambda: lateral.SOPInstanceUID in site.results(), "the report of what was not analysed", every=0.5)
        site.node.wait_until_settled(3)
        results = site.results()
        metrics = httpx.get(f"http://127.0.0.1:{site.node.web_port}/metrics").text
        checks = {check["name"]: check for check in site.node.json("check")}
        refused = site.node.json("deliveries", "--state", "DEAD")
        site.node.account()
    found = sum(bool(job["regions"]) for uid in sources for job in jobs[uid])
    assert found > 0

    (report,) = results.pop(lateral.SOPInstanceUID)
    assert (report.SOPClassUID, report.StudyInstanceUID) == (Comprehensive3DSRStorage, lateral.StudyInstanceUID)
    assert "lateral" in str(report).lower()
    for uid, objects in results.items():
        heat = [ds for ds in objects if str(ds.SeriesNumber).startswith("9202")]
        assert len(heat) == 1
        results[uid] = [ds for ds in objects if ds not in heat]
    check_results(sources, jobs, results, (SegmentationStorage, GrayscaleSoftcopyPresentationStateStorage))

    assert len(archive.files()) == 2
    assert {d["destination"] for d in refused} == {"archive"}
    assert sorted(d["kind"] for d in refused) == sorted(["sr"] * 2 + ["seg"] * found)
    assert all(d["error"].startswith("SOP class not accepted by destination: ") for d in refused)
    assert not checks["destination archive"]["ok"]
    assert "does not accept Segmentation, Comprehensive 3D SR" in checks["destination archive"]["detail"]
    assert checks["destination pacs"]["ok"]
    assert 'chexnode_deliveries{destination="archive",kind="sr",state="DEAD"} 2.0' in metrics

    research_objects = [pydicom.dcmread(path) for path in (site.node.folder / "research").iterdir()]
    assert sorted(ds.SOPClassUID for ds in research_objects) == sorted(
        [ComprehensiveSRStorage] * 2 + [SegmentationStorage] * found
    )
    assert all(ds.SeriesDescription.startswith("RESEARCH ") for ds in research_objects)
    theirs = {ds.SOPInstanceUID for ds in research_objects}
    assert not theirs & {ds.SOPInstanceUID for objects in results.values() for ds in objects}


def test_one_destination_down_holds_up_no_other(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    alive, gone = StoreSCP(tmp_path / "alive"), StoreSCP(tmp_path / "gone")
    node.tables["destination"] = [
        loopback_destination("gone", "STORESCP", gone.port), loopback_destination("alive", "STORESCP", alive.port)
    ]  # fmt: skip
    node.write_settings()
    with alive, node.up:
        for file in phantom_files(tmp_path / "in", 2):
            assert senders.is_acknowledged(node.port, file.read_bytes())
        wait_for(lambda: len(alive.files()) >= 2, "the living destination")
        waiting = node.json("deliveries", "--destination", "gone")
        assert waiting
        assert {d["state"] for d in waiting} <= {"PENDING", "WAITING"}
        with gone:
            node.wait_until_settled(2)
            assert len(gone.files()) == len(alive.files())
        node.account()
