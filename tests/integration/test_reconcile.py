"""Compare with a real Orthanc: what was never sent, what was deleted, and fetching it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from chexnode.archive.query_retrieve import Archive
from support.archives import ArchiveSCP
from support.collectors import Collector
from support.deliveries import data_set_bytes
from support.ledgers import node_on, opened
from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.receivers import a_settings
from support.servers import LOOPBACK, Orthanc, StoreSCP, free_port

SINCE = "2020-01-01"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


@pytest.fixture
def pacs(tmp_path: Path, node: Node) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "pacs", modalities={"node": ("CHEXNODE", node.port)}) as orthanc:
        node.tables["destination"] = [loopback_destination("pacs", "ORTHANC", orthanc.port)]
        node.write_settings()
        yield orthanc


def test_what_was_never_sent_is_found_and_fetched_and_deleted_results_are_missed(
    tmp_path: Path, node: Node, pacs: Orthanc
) -> None:
    *files, knee = phantom_files(tmp_path / "files", 4)
    ids = [pacs.post(file) for file in files]
    ds = dcmread(knee)
    ds.BodyPartExamined = "KNEE"
    ds.save_as(knee)
    pacs.post(knee)
    other_node = dcmread(files[0])  # a capture of another ChexNode, which this one did not make
    other_node.SOPInstanceUID, other_node.SeriesInstanceUID = generate_uid(), generate_uid()
    other_node.file_meta.MediaStorageSOPInstanceUID = other_node.SOPInstanceUID
    other_node.Manufacturer, other_node.SeriesDescription = "ChexNode", "AI Overlay - NOT FOR DIAGNOSTIC USE"
    other_node.save_as(knee)
    pacs.post(knee)
    with node.up:
        pacs.store("node", ids[0])
        node.wait_until_settled(1)

        found = node.json("reconcile", "--pacs", "pacs", "--since", SINCE)
        assert (found["radiographs"], len(found["missed"])) == (3, 2), "the knee is not ours to miss"
        assert not any(one["fetched"] for one in found["missed"])
        assert found["results"] > 0
        assert found["gone"] == []
        assert node.run("reconcile", "--pacs", "pacs", "--since", SINCE, check=False).returncode == 1

        fetched = node.json("reconcile", "--pacs", "pacs", "--since", SINCE, "--fetch")
        assert [one["fetched"] for one in fetched["missed"]] == [True, True]
        node.wait_until_settled(3)
        assert {job["state"] for job in node.jobs()} == {"DONE"}

        again = node.json("reconcile", "--pacs", "pacs", "--since", SINCE)
        assert again["missed"] == again["gone"] == []
        assert again["radiographs"] == 3, "our Secondary Captures, which are DX too, do not count"

        result = next(series for series in pacs.series() if series["MainDicomTags"]["SeriesNumber"] == "9201")
        pacs.http.delete(f"/series/{result['ID']}").raise_for_status()
        gone = node.json("reconcile", "--pacs", "pacs", "--since", SINCE)["gone"]
        assert len(gone) == 1
        assert "gone" in node.run("reconcile", "--pacs", "pacs", "--since", SINCE, check=False).stdout


def test_a_pacs_that_cannot_be_asked_is_an_error(tmp_path: Path, node: Node) -> None:
    with StoreSCP(tmp_path) as scp:
        node.tables["destination"] = [
            loopback_destination("store", "STORESCP", scp.port),
            {"name": "folder", "kind": "folder", "path": "out"},
        ]
        node.write_settings()
        node.run("db", "upgrade")
        asked = node.run("reconcile", "--pacs", "store", "--since", SINCE, check=False)
        assert asked.returncode == 3
        assert "does not accept Study Root queries" in asked.stderr
    for name in ("folder", "nobody"):
        assert node.run("reconcile", "--pacs", name, "--since", SINCE, check=False).returncode == 2
    assert node.run("reconcile", "--pacs", "store", "--since", SINCE, check=False).returncode == 3, "it is down"


# Neither PACS knows our AE title: by C-MOVE it could send us nothing.


def orthanc(folder: Path) -> Orthanc:
    return Orthanc(folder / "pacs", options={"DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True})


def fill(pacs: Orthanc | ArchiveSCP, files: list[Path]) -> None:
    if isinstance(pacs, ArchiveSCP):
        pacs.take(files)
    else:
        for file in files:
            pacs.post(file)


@pytest.mark.parametrize("kind", ["orthanc", "dcmqrscp"])
def test_what_was_missed_is_fetched_by_c_get_with_the_promises_of_c_store(
    tmp_path: Path, node: Node, kind: str
) -> None:
    files = phantom_files(tmp_path / "files", 3)
    made = orthanc(tmp_path) if kind == "orthanc" else ArchiveSCP(tmp_path / "pacs")
    with made as pacs, Collector("tcp") as log:
        fill(pacs, files)
        only_asked = {"results": [], "retrieve": "get"}
        node.tables["destination"] = [loopback_destination("pacs", pacs.ae_title, pacs.port) | only_asked]
        node.tables["audit"] = {"url": log.url}
        node.write_settings()
        node.run("db", "upgrade")
        found = node.json("reconcile", "--pacs", "pacs", "--since", SINCE, "--fetch")
        assert [one["fetched"] for one in found["missed"]] == [True] * 3
        assert node.account()["received"] == 3
        jobs = node.jobs()
        kept = {
            job["sop_instance_uid"]: node.data_dir / node.json("jobs", "show", job["id"])["source_path"] for job in jobs
        }
        for file in files:
            assert data_set_bytes(kept[str(dcmread(file).SOPInstanceUID)]) == data_set_bytes(file)
        told = log.wait_for("DICOM Instances Transferred")
        assert told[0].users == [pacs.ae_title, "CHEXNODE"]
        assert sum(sum(one.counts.values()) for one in told) == 3
        assert node.json("reconcile", "--pacs", "pacs", "--since", SINCE)["missed"] == []
        looked = {look["name"]: look["detail"] for look in node.json("check")}
        assert "Model - FIND" in looked["destination pacs"]
        assert "Model - GET" in looked["destination pacs"]


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_an_archive_is_proposed_what_will_be_used(tmp_path: Path, retrieve: str) -> None:
    proposed: list[str] = []

    def remember(event: evt.Event) -> None:
        proposed.extend(str(context.abstract_syntax) for context in event.assoc.requestor.requested_contexts)

    ae = AE("ARCHIVE")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    port = free_port()
    server = ae.start_server((LOOPBACK, port), block=False, evt_handlers=[(evt.EVT_REQUESTED, remember)])
    pacs = loopback_destination("pacs", "ARCHIVE", port) | {"results": [], "retrieve": retrieve}
    settings = a_settings(tmp_path, destination=[pacs])
    try:
        with opened(settings.database.url) as ledger, Archive(node_on(ledger, settings), settings.destination[0]):
            pass
    finally:
        server.shutdown()
    used = [StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove]
    assert proposed == (used if retrieve == "move" else used[:1])


def test_what_is_too_large_is_refused_however_large(tmp_path: Path, node: Node) -> None:
    small = phantom_files(tmp_path / "small", 1)
    large = phantom_files(tmp_path / "large", 1, shape=(1000, 900))
    with orthanc(tmp_path) as pacs:
        fill(pacs, large + small)
        node.tables["destination"] = [loopback_destination("pacs", "ORTHANC", pacs.port) | {"retrieve": "get"}]
        node.tables["limits"] = {"max_object_mb": 1}
        node.write_settings()
        node.run("db", "upgrade")
        found = node.json("reconcile", "--pacs", "pacs", "--since", SINCE, "--fetch")
        fetched = {one["sop_instance_uid"]: one["fetched"] for one in found["missed"]}
        assert fetched == {uid_of(small): True, uid_of(large): False}
        assert node.account()["received"] == 1

        fill(pacs, phantom_files(tmp_path / "huge", 1, shape=(1500, 1200)))
        asked = node.run("reconcile", "--pacs", "pacs", "--since", SINCE, "--fetch", check=False)
        assert asked.returncode == 1, "some are still missed"
        assert node.account()["received"] == 1


def uid_of(files: list[Path]) -> str:
    return str(dcmread(files[0]).SOPInstanceUID)


def test_a_pacs_without_c_get_is_told(tmp_path: Path, node: Node) -> None:
    files = phantom_files(tmp_path / "files", 1)
    with ArchiveSCP(tmp_path / "pacs", "--disable-get") as pacs:
        fill(pacs, files)
        node.tables["destination"] = [loopback_destination("pacs", pacs.ae_title, pacs.port) | {"retrieve": "get"}]
        node.write_settings()
        node.run("db", "upgrade")
        asked = node.run("reconcile", "--pacs", "pacs", "--since", SINCE, "--fetch", check=False)
        assert asked.returncode == 3
        assert "does not accept Study Root retrieval (C-GET)" in asked.stderr
