"""What a decoding child cannot do once a stranger has taken it over, tried by one that does its worst."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil

from chexnode.sandbox.pool import Pool
from chexnode.settings.limits import LimitSettings
from support.servers import LOOPBACK, wait_for

CHILD = "support.hostile_child"


def test_a_taken_over_child_can_read_and_nothing_else(tmp_path: Path) -> None:
    spooled = tmp_path / "spooled.dcm"
    spooled.write_text("an image that was acknowledged")
    with socket.create_server((LOOPBACK, 0)) as service, Pool(CHILD, LimitSettings(), 1, {}) as pool:
        facts, _ = pool.ask({"path": str(spooled), "port": service.getsockname()[1]}, 0)
        held = pool.confinement()
    assert held["network"] == "none"
    assert facts == {"worked": [], "read": "an image that was acknowledged"}
    assert [path.name for path in tmp_path.iterdir()] == ["spooled.dcm"]
    assert spooled.read_text() == "an image that was acknowledged"


def test_each_layer_is_enough_for_files(tmp_path: Path) -> None:
    """Said of this kernel: where one layer is missing, the other is what the test above has seen."""
    with Pool("chexnode.sandbox.probe", LimitSettings(), 1, {}) as pool:
        held = pool.confinement()
    assert held["files"].startswith("Landlock") or held["calls"] == "seccomp"


def test_what_a_child_has_started_ends_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with Pool(CHILD, LimitSettings(), 1, {"pid_file": str(pid_file)}) as pool:
        pool.confinement()
        grandchild = psutil.Process(int(wait_for(lambda: pid_file.exists() and pid_file.read_text(), "a grandchild")))
        assert grandchild.is_running()
    psutil.wait_procs([grandchild], timeout=20)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
