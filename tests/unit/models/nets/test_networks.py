"""U-Nets: shapes, the paper's network as the paper has it, and the prior."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chexmodels.nets.attention import AttentionUNet
from chexmodels.nets.unet import PRESETS, UNet


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("build", "preset"),
    [
        *((UNet, preset) for preset in ("fast", "half", "nano", "residual", "early", "residual-half")),
        *((AttentionUNet, preset) for preset in ("fast", "half", "nano")),
    ],
)
def test_one_logit_per_pixel(build: type[nn.Module], preset: str) -> None:
    side = 16 * PRESETS[preset].patch
    logits = build(preset)(torch.rand(2, 1, side, side))
    assert logits.shape == (2, 1, side, side)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("build", "preset", "millions"),
    [
        (UNet, "paper", 31.1),
        (UNet, "paper-half", 7.8),
        (UNet, "base", 7.9),
        (UNet, "small", 2.0),
        (UNet, "fast", 1.6),
        (UNet, "residual", 1.7),
        (UNet, "early", 1.7),
        (UNet, "nano", 0.2),
        (AttentionUNet, "paper", 31.7),
    ],
)
def test_sizes_are_those_documented(build: type[nn.Module], preset: str, millions: float) -> None:
    with torch.device("meta"):
        assert round(parameters(build(preset)) / 1e6, 1) == millions


def test_the_papers_network_is_convolutions_and_relu_alone() -> None:
    network = UNet("paper")
    leaves = [module for module in network.modules() if not list(module.children())]
    kinds = {type(leaf) for leaf in leaves if not (isinstance(leaf, nn.Dropout) and leaf.p == 0)}
    assert kinds == {nn.Conv2d, nn.ConvTranspose2d, nn.ReLU, nn.MaxPool2d, nn.Identity}
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 2 * (5 + 4)
    assert [m.out_channels for m in convolutions[:10:2]] == [64, 128, 256, 512, 1024]
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in network.modules()) == 4
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 4


def test_the_papers_network_starts_as_keras_would() -> None:
    for module in UNet("paper").body.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan = module.kernel_size[0] ** 2 * (module.in_channels + module.out_channels)
            bound = (6 / fan) ** 0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()


def test_half_presets_have_half_widths() -> None:
    for whole, half in (("paper", "paper-half"), ("base", "small"), ("fast", "half"), ("residual", "residual-half")):
        assert PRESETS[half].features == tuple(width // 2 for width in PRESETS[whole].features)
        assert PRESETS[half].patch == PRESETS[whole].patch


@pytest.mark.parametrize("build", [UNet, AttentionUNet])
def test_output_starts_at_the_prior(build: type[nn.Module]) -> None:
    network = build("nano").eval()
    network.set_prior(0.05)
    prob = torch.sigmoid(network(torch.rand(1, 1, 64, 64)))
    assert prob.mean().item() == pytest.approx(0.05, abs=0.01)


def test_a_network_may_read_many_maps_instead_of_an_image() -> None:
    logits = UNet("nano", channels=14)(torch.rand(2, 14, 32, 32))
    assert logits.shape == (2, 1, 32, 32)


@pytest.mark.parametrize("preset", ["nano", "early", "residual-half"])
def test_bottleneck_injection_changes_nothing_else(preset: str) -> None:
    """In two halves, the forward must stay the body's own."""
    plain = UNet(preset).eval()
    network = UNet(preset, extra_channels=3, inject="bottleneck").eval()
    network.start_from(plain)
    image, maps = torch.rand(2, 1, 128, 128), torch.rand(2, 3, 8, 8)
    assert torch.equal(network(image, maps), plain(image))
    nn.init.ones_(network.injection.weight)
    assert not torch.allclose(network(image, maps), plain(image))


def test_unknown_places_of_injection_are_refused() -> None:
    with pytest.raises(ValueError, match="bottleneck"):
        UNet("nano", extra_channels=1, inject="top")  # type: ignore[arg-type]


def test_attention_has_no_residual_blocks_to_offer() -> None:
    with pytest.raises(ValueError, match="residual"):
        AttentionUNet("residual")
