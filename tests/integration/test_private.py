"""What the node keeps on disk is for its own user alone, whoever made the folder and with whatever umask."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from chexnode.roles.processes import lock
from support.nodes import Node


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def test_database_and_folder_are_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        node = Node(tmp_path)
        node.run("db", "upgrade")
        node.run("tokens", "add", "viewer", "--scope", "read")
    finally:
        os.umask(before)
    assert node.data_dir.stat().st_mode & 0o777 == 0o700
    assert {mode for path, mode in modes(node.data_dir).items() if path.startswith("chexnode.db")} == {0o600}


def test_an_open_folder_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    data_dir.chmod(0o755)
    with caplog.at_level(logging.WARNING), lock(data_dir, exclusive=True):
        assert data_dir.stat().st_mode & 0o777 == 0o700
    assert "was open to other users" in caplog.text
