"""A destination that is paused, and one that is added later, as the administrator of a running node handles them."""

from __future__ import annotations

from pathlib import Path

import pydicom

from support.nodes import Node
from support.phantoms import phantom_files
from support.senders import read_part10, store_file
from support.servers import wait_for


def files(folder: Path) -> dict[str, list[str]]:
    """Modality -> SOP Instance UIDs of what the folder holds."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        found.setdefault(ds.Modality, []).append(ds.SOPInstanceUID)
    return found


def folder(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "kind": "folder", "path": name, "results": ["sr"]} | more


def test_a_paused_destination_gets_all_later_and_a_new_one_its_history(tmp_path: Path) -> None:
    two, three = phantom_files(tmp_path, 2), phantom_files(tmp_path, 3)
    rule = {"name": "private", "calling_ae_title": "PRIVATE", "destinations": ["open"]}
    node = Node(tmp_path / "node", destination=[folder("open"), folder("shut")], rule=[rule])
    node.run("db", "upgrade")
    node.run("destinations", "pause", "shut")
    with node.up:
        for image in two:
            store_file(node.port, read_part10(image))
        wait_for(lambda: len(files(tmp_path / "node" / "open").get("SR", [])) == 2, "the reports of two images")
        assert files(tmp_path / "node" / "shut") == {}
        assert [one["waiting"] for one in node.json("destinations", "list")] == [0, 2]
        assert node.json("destinations", "resume", "shut")["waiting"] == 2
        store_file(node.port, read_part10(three[2]), calling="PRIVATE")
        node.wait_until_settled(3)
    assert len(files(tmp_path / "node" / "shut")["SR"]) == 2, "all that waited, and nothing that a rule sends elsewhere"
    node.tables["destination"].append(folder("new", label="COPY"))
    node.tables["destination"].append(folder("late"))
    node.write_settings()
    with node.up:
        assert node.json("replay", "--destination", "late", "--since", "today") == {
            "results": 2,
            "images": 2,
            "lacking": 0,
        }
        assert node.json("replay", "--destination", "new")["lacking"] == 2, "none was made with its label"
        node.wait_until_settled(3)
    assert files(tmp_path / "node" / "late") == files(tmp_path / "node" / "shut")
    assert node.json("replay", "--destination", "late")["results"] == 0
