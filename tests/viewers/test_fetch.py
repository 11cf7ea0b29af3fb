"""What is fetched is what was tried, and lands nowhere but in its folder."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from viewers import fetch


def archive(path: Path, *names: str) -> Path:
    """Write a package of files that hold their own names."""
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, BytesIO(name.encode()))
    return path


def test_another_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")  # without npm
    monkeypatch.setattr(fetch, "URL", archive(tmp_path / "app.tgz", "package/dist/index.html").as_uri())
    with pytest.raises(ValueError, match=fetch.INTEGRITY[:40].replace("+", r"\+")):
        fetch.fetch()
    assert not fetch.folder().exists()
    assert list(fetch.folder().parent.iterdir()) == []


def test_no_answer_is_told_from_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(fetch, "URL", (tmp_path / "nothing.tgz").as_uri())
    with pytest.raises(fetch.Unreachable):
        fetch.fetch()


def test_only_the_viewer_is_unpacked(tmp_path: Path) -> None:
    names = ("package/package.json", "package/dist/index.html", "package/dist/a/b.js", "package/dist/ort/big.wasm")
    fetch._unpack(archive(tmp_path / "app.tgz", *names), tmp_path / "dist")
    found = {path.relative_to(tmp_path / "dist").as_posix() for path in (tmp_path / "dist").rglob("*.*")}
    assert found == {"index.html", "a/b.js"}


def test_no_file_leaves_the_folder(tmp_path: Path) -> None:
    with pytest.raises(tarfile.OutsideDestinationError):
        fetch._unpack(archive(tmp_path / "app.tgz", "package/dist/../../outside"), tmp_path / "dist")
