"""Who may read what a folder destination gets: whoever may read the folder, whatever this process' umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from chexnode.deliver.folder import FolderDestination


@pytest.fixture(autouse=True)
def private() -> Iterator[None]:
    """The umask of a node."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o2770, 0o660), (0o700, 0o600)])
def test_a_file_is_for_those_the_folder_is_for(tmp_path: Path, folder: int, file: int) -> None:
    place = tmp_path / "out"
    place.mkdir()
    place.chmod(folder)
    assert FolderDestination("out", place, Event())._write("1.dcm", b"result")
    assert (place / "1.dcm").stat().st_mode & 0o777 == file
