"""Models of others' tools are added by one command, and run from Orthanc to results in Orthanc."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from support.foreign_models import monai_bundle, onnx_graph
from support.nodes import AE_TITLE, Node, loopback_destination
from support.phantoms import phantom_files
from support.servers import LOOPBACK, Orthanc


def texts(ds: Dataset) -> set[str]:
    """All words of a report."""
    found = {str(ds.TextValue)} if ds.get("ValueType") == "TEXT" else set()
    return found.union(*(texts(item) for item in ds.get("ContentSequence", ())))


def answered(folder: Path, pacs: Orthanc, added: tuple[str, ...], title: str) -> tuple[dict[str, Any], list[Dataset]]:
    """Add a model, let the PACS send a phantom; the job, and what the PACS then has of the node's."""
    node = Node(folder, destination=[loopback_destination("pacs", "ORTHANC", pacs.port, heat_map=True)])
    node.tables["model"]["bundle"] = node.json("models", "add", *added)["folder"]
    node.write_settings()
    assert node.run("models", "check", check=False).stdout.startswith(f"{title}: ")
    known = pacs.http.put("/modalities/chexnode", json={"AET": AE_TITLE, "Host": LOOPBACK, "Port": node.port})
    known.raise_for_status()
    with node.up:
        pacs.store("chexnode", pacs.post(phantom_files(folder / "phantoms", 1)[0]))
        ((settled,),) = node.wait_until_settled(1).values()
        ledger = node.ledger()
        job = asdict(ledger.views.job(settled["id"]))
        ledger.close()
    datasets = [pacs.dataset(instance) for instance in pacs.instances()]
    return job, [ds for ds in datasets if ds.get("Manufacturer") == "ChexNode"]


@pytest.mark.parametrize("kind", ["monai", "onnx"])
def test_a_model_made_elsewhere_runs_from_orthanc_to_orthanc(kind: str, tmp_path: Path, orthanc: Orthanc) -> None:
    if kind == "monai":
        added, title = (str(monai_bundle(tmp_path / "spleen")),), "spleen 0.3"
    else:
        (tmp_path / "theirs").mkdir()
        graph, _ = onnx_graph(tmp_path / "theirs")
        added, title = (str(graph), "--mapping", str(graph.parent / "mapping.toml")), "two 1"
    job, results = answered(tmp_path / "node", orthanc, added, title)
    assert job["state"] == "DONE", job
    assert job["model"] == title
    modalities = {str(ds.Modality) for ds in results}
    assert {"SR"} < modalities, modalities  # and pictures
    assert ("SEG" in modalities) == bool(job["regions"])
    (report,) = (ds for ds in results if ds.Modality == "SR")
    assert title in " ".join(texts(report))
    assert all(ds.StudyInstanceUID == report.StudyInstanceUID for ds in results)
