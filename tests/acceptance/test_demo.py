"""`make demo` as a user meets it: pictures and exit code 0, a plain reason if it fails, nothing left running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from support import servers

DEMO = Path(__file__).parents[2] / "deploy" / "demo" / "demo.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with its temporary files under ``folder``, and see that no process is left there."""
    scratch = folder / "scratch"
    scratch.mkdir()
    command = [sys.executable, str(DEMO), "--out", str(folder / "out"), "--phantoms", "2", *arguments]
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={"TMPDIR": str(scratch), "PATH": "/usr/bin:/usr/sbin"}
    )
    assert list(scratch.iterdir()) == [], answer.stdout
    assert [p.cmdline() for p in psutil.process_iter() if works_in(p, scratch)] == []
    assert "was killed" not in answer.stdout
    return answer


def works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether ``process`` has its working folder under ``folder``."""
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False


@pytest.mark.parametrize("small", [True, False], ids=["small", "orthanc"])
def test_phantoms_come_back(tmp_path: Path, small: bool) -> None:
    if not small:
        servers.find_tool("Orthanc", "orthanc")
    answer = run(tmp_path, "--model", "phantom64", *["--small-pacs"] * small)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert ("small" in answer.stdout) == small
    assert "SEG + SR + SC" in answer.stdout
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) == 2
    with Image.open(pictures[0]) as picture:
        colours = picture.convert("RGB").getcolors(picture.width * picture.height) or []
    assert any(r > 200 and g < 100 and b < 100 for _, (r, g, b) in colours), "no red outline"


def test_a_node_that_cannot_start_is_explained(tmp_path: Path) -> None:
    answer = run(tmp_path, "--model", "no-such-model", "--small-pacs")
    assert answer.returncode == 1
    assert "the node ended while starting" in answer.stdout
    assert "no bundle 'no-such-model'" in answer.stdout


def test_a_file_that_is_no_dicom_is_a_usage_error(tmp_path: Path) -> None:
    answer = run(tmp_path, str(DEMO))
    assert answer.returncode == 2
    assert "not a DICOM file" in answer.stdout
