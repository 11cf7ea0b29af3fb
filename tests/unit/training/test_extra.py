"""``chextrain`` where the extra ``training`` is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

import chextrain


def test_help_loads_nothing_heavy() -> None:
    script = "import sys, chextrain.cli; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "scipy", "lightning", "pydicom", "matplotlib"} & set(said)


def test_missing_packages_are_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find_spec = importlib.util.find_spec

    def without_lightning(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "lightning" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_lightning)
    with pytest.raises(SystemExit) as ended:
        chextrain.main()
    assert ended.value.code == 3
    assert capsys.readouterr().err == "chextrain: lightning not installed: pip install 'chexnode[training]'\n"
