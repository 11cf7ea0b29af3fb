"""A site's own rules on a running node: left out, first in the queue, sent to one destination only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from support.nodes import Node
from support.phantoms import phantom_files
from support.senders import is_acknowledged

RULES: list[dict[str, Any]] = [
    {"name": "quality", "station": "QA*", "action": "refuse", "reason": "quality control room"},
    {"name": "emergency", "station": "ER*", "urgent": True},
    {"name": "branch", "station": "SOUTH", "destinations": ["south"]},
]
STATIONS = ["QA1", "ER-2", "SOUTH", "WARD"]


@pytest.mark.timeout(180)
def test_each_image_goes_the_way_of_the_rule_that_decides(tmp_path: Path) -> None:
    folders = [{"name": name, "kind": "folder", "path": name} for name in ("main", "south")]
    node = Node(tmp_path / "node", rule=RULES, destination=folders)
    uids, studies = {}, {}
    with node.up:
        for station, file in zip(STATIONS, phantom_files(tmp_path / "in", len(STATIONS)), strict=True):
            ds = pydicom.dcmread(file)
            ds.StationName = station
            ds.save_as(file)
            assert is_acknowledged(node.port, file.read_bytes())
            uids[str(ds.SOPInstanceUID)] = station
            studies[str(ds.StudyInstanceUID)] = station
        settled = node.wait_until_settled(len(STATIONS))
        jobs = {uids[uid]: jobs[0] for uid, jobs in settled.items()}
        shown = {station: node.json("jobs", "show", job["id"]) for station, job in jobs.items()}
        node.account()

    assert {station: (job["state"], job["reason"]) for station, job in jobs.items()} == {
        "QA1": ("NOT_ANALYSED", "site-rule"),
        "ER-2": ("DONE", None),
        "SOUTH": ("DONE", None),
        "WARD": ("DONE", None),
    }
    assert shown["QA1"]["instance_detail"] == "rule 'quality': quality control room"
    assert shown["ER-2"]["instance_detail"].startswith("rule 'emergency'")
    assert [shown[station]["priority"] for station in STATIONS[1:]] == ["urgent", "routine", "routine"]
    sent = {
        name: {studies[str(pydicom.dcmread(path).StudyInstanceUID)] for path in (node.folder / name).rglob("*.dcm")}
        for name in ("main", "south")
    }
    assert sent == {"main": {"ER-2", "WARD"}, "south": {"ER-2", "SOUTH", "WARD"}}
