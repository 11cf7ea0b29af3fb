"""Ensembles of specialists, and that every architecture comes back from a bundle as it went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chexmodels import registry
from chexmodels.bundle import Manifest, find, write_bundle
from chexmodels.nets.ensembles import MaxEnsemble, ModelEnsemble, reduced
from chextrain.data.findings import VINDR


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_the_max_ensemble_says_what_its_boldest_specialist_says() -> None:
    network = MaxEnsemble(VINDR, "nano").eval()
    image = torch.rand(2, 1, 64, 64)
    maps = network.maps(image)
    assert maps.shape == (2, 14, 64, 64)
    assert torch.equal(network(image), maps.amax(dim=1, keepdim=True))
    assert torch.equal(torch.sigmoid(network(image)), torch.sigmoid(maps).amax(dim=1, keepdim=True))


@pytest.mark.parametrize("scale", [1, 2])
def test_the_model_ensemble_combines_14_maps(scale: int) -> None:
    network = ModelEnsemble(VINDR, "nano", scale).eval()
    assert network.combiner.unet.channels == 14
    image = torch.rand(2, 1, 64, 64)
    maps = reduced(network.specialists.maps(image), scale)
    assert maps.shape == (2, 14, 64 // scale, 64 // scale)
    assert network(image).shape == (2, 1, 64, 64)
    assert torch.equal(network(image), network.combiner(maps))


def test_every_specialist_is_heard() -> None:
    network = ModelEnsemble(VINDR, "nano").eval()
    image = torch.rand(1, 1, 64, 64)
    before = network(image)
    for member in network.specialists.members:
        member.head.bias.data += 3.0
        after = network(image)
        assert not torch.equal(after, before)
        before = after


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("unet", {"preset": "nano", "dropout": 0.1}),
        ("attention", {"preset": "nano"}),
        ("chexnomaly", {"preset": "nano", "extractor_preset": "nano", "variant": "cnn"}),
        ("chexnomaly", {"preset": "nano", "extractor_preset": "nano", "variant": "map", "inject": "bottleneck"}),
        ("chexnomaly", {"preset": "nano", "extractor_preset": "nano", "features_only": True, "frozen": False}),
        ("max_ensemble", {"findings": VINDR, "preset": "nano"}),
        ("model_ensemble", {"findings": VINDR, "preset": "nano", "scale": 2}),
    ],
)
def test_every_architecture_passes_through_a_bundle(
    architecture: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    network = registry.BUILDERS[architecture](**parameters).eval()
    like = Manifest.model_validate_json((find("phantom64") / "model.json").read_bytes())
    manifest = like.model_copy(update={"architecture": architecture, "parameters": parameters})
    card = write_bundle(tmp_path, manifest, registry.serialise(network), "{digest}")
    assert card.parameters == parameters
    model = registry.load(tmp_path)
    image = torch.rand(1, 1, 64, 64)
    expected = network.half().float()(image)
    assert torch.allclose(model(image).heat, expected, atol=1e-5)
    assert (tmp_path / "model.safetensors").stat().st_size < 6e6
