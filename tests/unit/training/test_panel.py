"""Bundles of different sizes are averaged into one, which is calibrated, exported and converted as any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from chexmodels import registry
from chexmodels.bundle import MODEL_JSON, BundleError, find
from chexmodels.nets.committee import Panel
from chexmodels.registry import PANEL
from chextrain.config import ConfigError
from chextrain.data import phantom
from chextrain.evaluate.convert import to_monai, to_onnx
from chextrain.evaluate.export import export
from chextrain.recipes.panel import averaged


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``phantom64`` made to look at 32 px, with a card that says how it was trained."""
    folder = tmp_path_factory.mktemp("bundles") / "smaller"
    shutil.copytree(find("phantom64"), folder)
    manifest = json.loads((folder / MODEL_JSON).read_text())
    manifest |= {"name": "smaller", "size": 32}
    manifest["calibration"]["temperature"] = 2.0
    (folder / MODEL_JSON).write_text(json.dumps(manifest))
    (folder / "card.md").write_text("# smaller\n\nTrained with\n\n    chextrain train supermodel --format phantom\n")
    return folder


@pytest.fixture(scope="module")
def bundle(smaller: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, network = averaged(["phantom64", str(smaller)], False, "phantom")
    collection = phantom.collection(train=24, val=24, test=24)
    out = tmp_path_factory.mktemp("bundles") / "both"
    export(run, network, out, "both", "0.1", "It fails often.", collection, anyway=True)
    return out


def test_what_is_exported_is_the_mean_of_its_members(bundle: Path, smaller: Path) -> None:
    model = registry.load(bundle)
    assert isinstance(model, registry.Loaded)
    assert (model.card.architecture, model.card.size) == (PANEL, 64)
    members = [registry.load(find("phantom64")), registry.load(smaller)]
    image = torch.rand(1, 1, 64, 64)
    by_hand = Panel([member.network for member in members], (64, 32), (model_temperature("phantom64"), 2.0)).eval()
    with torch.inference_mode():
        assert torch.allclose(model.network(image), by_hand(image), atol=1e-4)


def model_temperature(name: str) -> float:
    return float(json.loads((find(name) / MODEL_JSON).read_text())["calibration"]["temperature"])


def test_the_card_names_the_members_and_how_they_were_trained(bundle: Path) -> None:
    text = (bundle / "card.md").read_text()
    assert '"title": "phantom64' in text
    assert '"title": "smaller' in text
    assert "    chextrain train supermodel --format phantom\n" in text
    assert "chextrain train panel" not in text


def test_it_is_written_in_the_formats_of_others(bundle: Path, tmp_path: Path) -> None:
    assert to_onnx(str(bundle), tmp_path / "onnx") <= 1e-3
    assert to_monai(str(bundle), tmp_path / "monai") <= 1e-3


def test_what_cannot_be_averaged_is_refused(bundle: Path, smaller: Path, tmp_path: Path) -> None:
    for sources, fault in (
        (["phantom64", "cml"], "gives no map of probabilities"),
        (["phantom64", "ddad"], "gives no map of probabilities"),
        (["phantom64", str(bundle)], "is an average already"),
        (["phantom64", "unheard-of"], "no bundle 'unheard-of'"),
    ):
        with pytest.raises(BundleError, match=fault):
            averaged(sources, False, "phantom")
    with pytest.raises(ConfigError, match="--mirror is of runs"):
        averaged(["phantom64", str(smaller)], True, "phantom")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a run: runs and bundles are not averaged together"):
        averaged([str(tmp_path), "phantom64"], False, "phantom")
