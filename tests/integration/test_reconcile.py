"""Compare with a real Orthanc: what was never sent, what was deleted, and fetching it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from nodes import Node, loopback_destination
from phantoms import phantom_files
from servers import Orthanc, StoreSCP

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
