"""The doctor: what it says of a healthy node, and that each fault is found, named and bounded in time."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from shutil import copytree
from threading import Event
from typing import Any

import pytest

from chexmodels.bundle import find
from chexnode.ledger.database import Database, utc_now
from chexnode.ledger.migrate import upgrade
from chexnode.roles import check
from chexnode.settings.loading import load
from chexnode.spool.identity import FILE_NAME
from chexnode.vocabulary.errors import BadEnvironment
from support.nodes import Node
from support.servers import LOOPBACK, OnlySecondaryCapture, Orthanc, Postgres, Redis, free_port


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


def checked(node: Node) -> dict[str, tuple[bool, str]]:
    return {line.name: (line.ok, line.detail) for line in check.run(*load(node.config))}


def upgraded(node: Node) -> None:
    database = Database(load(node.config)[0].database.url)
    upgrade(database)
    database.close()


def destination(port: int, **facts: Any) -> list[dict[str, Any]]:
    made = {"name": "pacs", "ae_title": "ORTHANC", "host": LOOPBACK, "port": port, "timeout_seconds": 2}
    return [made | facts]


def test_a_healthy_node(node: Node, orthanc: Orthanc, redis: Redis, postgres_url: str) -> None:
    node.tables |= {
        "destination": [
            *destination(orthanc.port),
            {"name": "folder", "kind": "folder", "path": "out"},
        ],
        "broker": {"url": redis.url},
        "database": {"url": postgres_url},
    }
    node.write_settings()
    upgraded(node)
    found = checked(node)
    assert list(found) == [
        "settings", "disk", "database", "data_dir", "broker", "model", "device", "sandbox", "destination pacs",
        "destination folder",
    ]  # fmt: skip
    assert {name: ok for name, (ok, _) in found.items() if not ok} == {}
    assert "accepts Segmentation, Secondary Capture Image, Comprehensive 3D SR" in found["destination pacs"][1]
    assert "phantom64" in found["model"][1]


def test_a_sick_node(node: Node, postgres: Postgres) -> None:
    node.tables |= {
        "destination": [
            *destination(free_port()),
            {"name": "gone", "kind": "folder", "path": "out"},
        ],
        "broker": {"url": f"redis://:hunter2@{LOOPBACK}:{free_port()}/0"},
        "database": {"url": f"postgresql+psycopg://me:hunter2@{LOOPBACK}:{free_port()}/x"},
        "model": {"bundle": "nothing"},
        "disk": {"reserve_gb": 1e9},
    }
    node.write_settings()
    (node.folder / "out").rmdir()
    done = node.run("check", "--json", check=False)
    assert done.returncode == 1
    lines = json.loads(done.stdout)
    assert all(list(line) == ["name", "ok", "detail"] for line in lines)
    found = {line["name"]: (line["ok"], line["detail"]) for line in lines}
    assert {name for name, (ok, _) in found.items() if ok} == {"settings", "device", "sandbox"}
    assert "hunter2" not in done.stdout
    assert "reserve_gb" in found["disk"][1]
    assert "shipped are" in found["model"][1]
    assert "does not exist" in found["destination gone"][1]
    assert all(detail for _, detail in found.values())


def test_a_data_dir_of_another_database(node: Node) -> None:
    upgraded(node)
    assert checked(node)["data_dir"][0]
    (node.data_dir / FILE_NAME).write_text("0123\n")
    ok, detail = checked(node)["data_dir"]
    assert not ok
    assert "another database" in detail


def test_an_empty_schema_names_its_remedy(node: Node) -> None:
    ok, detail = checked(node)["database"]
    assert not ok
    assert "chexnode db upgrade" in detail


def test_damaged_weights(node: Node, tmp_path: Path) -> None:
    bundle = copytree(find("phantom64"), tmp_path / "bundle")
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    node.tables["model"] = {"bundle": str(bundle), "device": "cpu"}
    node.write_settings()
    ok, detail = checked(node)["model"]
    assert not ok
    assert "SHA-256" in detail


def test_a_destination_that_takes_no_segmentations(node: Node, tmp_path: Path) -> None:
    with OnlySecondaryCapture(tmp_path / "scp") as scp:
        node.tables["destination"] = destination(scp.port)
        node.write_settings()
        assert checked(node)["destination pacs"] == (
            False,
            f"ORTHANC at {LOOPBACK}:{scp.port} does not accept Segmentation, Comprehensive 3D SR, "
            "Key Object Selection Document",
        )
        well = f"ORTHANC at {LOOPBACK}:{scp.port} answers C-ECHO and accepts Secondary Capture Image"
        without = ", but not Key Object Selection Document: set its withdraw to another way, or to none"
        for keys, said in (({"withdraw": "none"}, well), ({}, well + without)):
            node.tables["destination"] = destination(scp.port, results=["sc"], **keys)
            node.write_settings()
            assert checked(node)["destination pacs"] == (True, said)
        more = {"sc_encoding": "jpeg", "not_analysed": True, "sr_class": "comprehensive"}
        node.tables["destination"] = destination(scp.port, results=["sc", "gsps"], **more)
        node.write_settings()
        assert checked(node)["destination pacs"] == (
            False,
            f"ORTHANC at {LOOPBACK}:{scp.port} does not accept Secondary Capture Image as JPEG Baseline (Process 1), "
            "Grayscale Softcopy Presentation State, Comprehensive SR, Key Object Selection Document",
        )


@pytest.mark.parametrize("what", ["destination", "broker"])
def test_one_that_accepts_and_never_answers_is_given_up(node: Node, what: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        if what == "destination":
            node.tables["destination"] = destination(port)
        else:
            node.tables["broker"] = {"url": f"amqp://{LOOPBACK}:{port}//"}
        node.write_settings()
        name = "destination pacs" if what == "destination" else "broker"
        assert not checked(node)[name][0]


def test_a_look_that_hangs_does_not_hang_the_others() -> None:
    hanging: Callable[[], Any] = Event().wait
    look = check._Look("slow", 0.05, hanging)
    well = check._Look("well", 5, lambda: "fine")
    assert look.answer().detail == "no answer within 0.05 s"
    assert (well.answer().ok, well.answer().detail) == (True, "fine")


def test_clocks_that_differ(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    upgraded(node)
    monkeypatch.setattr(Database, "server_time", lambda self: utc_now() + timedelta(seconds=60))
    with pytest.raises(BadEnvironment, match="differ by 60 s"):
        check.database(load(node.config)[0])


def test_a_peer_whose_host_nobody_knows(node: Node) -> None:
    known = [
        {"ae_title": "CT*", "host": ["localhost", "10.1.0.0/16", "10.2.0.1-10.2.0.9", "::1"]},
        {"ae_title": "*", "host": LOOPBACK},
    ]
    node.tables |= {"peer": known}
    node.write_settings()
    settings, _ = load(node.config)
    assert check.peers(settings) == "2 may call"
    node.tables |= {"peer": [*known, {"ae_title": "LOST", "host": "nowhere.invalid"}]}
    node.write_settings()
    settings, _ = load(node.config)
    with pytest.raises(BadEnvironment, match=r"nowhere\.invalid \(LOST\)"):
        check.peers(settings)


@pytest.mark.parametrize("key", ["web.port", "node.port"])
def test_up_on_a_taken_port_ends_with_one_sentence(node: Node, key: str) -> None:
    port = node.web_port if key == "web.port" else node.port
    with socket.create_server((LOOPBACK, port)):
        ended = node.run("up", check=False)
    assert ended.returncode != 0
    assert f"cannot listen on {LOOPBACK}:{port} ({key}): another program listens there" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_looking_makes_nothing(node: Node) -> None:
    """In a folder without a node: nothing is made, and each command says that there is none."""
    before = sorted(node.folder.rglob("*"))
    found = {line["name"]: line for line in node.json("check")}
    assert found["disk"]["ok"]
    for name in ("database", "data_dir"):
        assert not found[name]["ok"]
        assert "there is no database" in found[name]["detail"]
    for command in ("jobs", "account", "deliveries"):
        done = node.run(command, check=False)
        assert done.returncode == 3
        assert "there is no database" in done.stderr
        assert "chexnode up" in done.stderr
    assert sorted(node.folder.rglob("*")) == before
