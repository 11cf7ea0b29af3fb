"""CheX-Nomaly: the warm start, what must not learn, and the ablations."""

from __future__ import annotations

import pytest
import torch

from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.encoder_unet import EncoderUNet, build_unet
from chexmodels.nets.siamese import VARIANTS, siamese
from chexmodels.nets.unet import PRESETS, UNet


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def learn(network: CheXNomaly) -> None:
    """One step far enough to be seen."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    optimizer.step()


def extractor_of(network: CheXNomaly) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.extractor.state_dict().items()}


@pytest.mark.parametrize("inject", ["input", "bottleneck"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_0_is_the_supermodel_exactly_and_step_1_is_not(variant: str, inject: str) -> None:
    supermodel = UNet("nano").eval()
    network = CheXNomaly("nano", "nano", variant=variant, inject=inject).eval()  # type: ignore[arg-type]
    image = torch.rand(2, 1, 64, 64)
    assert not torch.equal(network(image), supermodel(image))
    network.start_from(supermodel, siamese(variant, preset="nano"))
    assert torch.equal(network(image), supermodel(image))
    before = extractor_of(network)
    learn(network)
    assert isinstance(network.unet, UNet)
    reads = network.unet.injection if inject == "bottleneck" else network.unet.first_convolution()
    first = 0 if inject == "bottleneck" else PRESETS["nano"].patch ** 2
    assert reads.weight[:, first:].abs().max() > 0  # the maps are used once learning has begun
    assert all(torch.equal(value, before[name]) for name, value in network.extractor.state_dict().items())


@pytest.mark.parametrize("inject", ["input", "bottleneck"])
@pytest.mark.parametrize(
    ("preset", "half"),
    [
        ("paper-half", "half"),
        ("fast", "half"),
        ("residual", "residual-half"),
        ("early", "residual-half"),
        ("efficientnet-lite0", "efficientnet-lite0"),
    ],
)
def test_the_warm_start_is_exact_whatever_the_body(preset: str, half: str, inject: str) -> None:
    supermodel = build_unet(preset).eval()
    network = CheXNomaly(preset, half, inject=inject).eval()  # type: ignore[arg-type]
    network.start_from(supermodel, siamese(preset=half))
    network.double(), supermodel.double()  # a sum with zeros more may be taken in another order: not in float32
    image = torch.rand(1, 1, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(network(image), supermodel(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize("inject", ["input", "bottleneck"])
def test_a_network_on_an_encoder_learns_to_read_the_maps(inject: str) -> None:
    network = CheXNomaly("efficientnet-lite0", "efficientnet-lite0", inject=inject)  # type: ignore[arg-type]
    supermodel = build_unet("efficientnet-lite0")
    network.start_from(supermodel, None)
    assert isinstance(network.unet, EncoderUNet)
    reads = network.unet.injection if inject == "bottleneck" else network.unet.encoder.stem
    first = 0 if inject == "bottleneck" else 1
    assert not reads.weight[:, first:].any()
    before = extractor_of(network)
    network.train()
    learn(network)
    assert reads.weight[:, first:].any()
    assert all(torch.equal(value, before[name]) for name, value in network.extractor.state_dict().items())


def test_an_encoder_reads_an_image_and_maps_enter_by_one_of_two_ways() -> None:
    with pytest.raises(ValueError, match="reads an image"):
        CheXNomaly("efficientnet-lite0", "nano", features_only=True)
    with pytest.raises(ValueError, match="input or bottleneck"):
        EncoderUNet("efficientnet-lite0", extra_channels=1, inject="stem")  # type: ignore[arg-type]


def test_the_extractor_stays_frozen_through_training() -> None:
    network = CheXNomaly("nano", "nano").train()
    assert network.unet.training
    assert not any(module.training for module in network.extractor.modules())
    before, head = extractor_of(network), network.unet.head.weight.detach().clone()
    learn(network)
    assert all(parameter.grad is None for parameter in network.extractor.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.extractor.state_dict().items())
    assert not torch.equal(network.unet.head.weight, head)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_extractor_that_is_not_frozen_learns_all_that_its_maps_use(variant: str) -> None:
    network = CheXNomaly("nano", "nano", variant=variant, frozen=False).train()
    assert all(module.training for module in network.extractor.modules())
    before = extractor_of(network)
    learn(network)
    learning = {name for name, parameter in network.extractor.named_parameters() if parameter.requires_grad}
    assert all(network.extractor.get_parameter(name).grad is not None for name in learning)
    assert {"similarity.weight", "similarity.bias"} <= before.keys() - learning
    assert any(not torch.equal(network.extractor.state_dict()[name], before[name]) for name in learning)


def test_the_extractor_is_taken_over_or_left_random() -> None:
    twins = siamese(preset="nano")
    network = CheXNomaly("nano", "nano")
    before = extractor_of(network)
    network.start_from(UNet("nano"), None)  # the control: a random extractor
    assert all(torch.equal(value, before[name]) for name, value in network.extractor.state_dict().items())
    network.start_from(None, twins)
    assert all(torch.equal(value, twins.state_dict()[name]) for name, value in network.extractor.state_dict().items())


def test_without_warm_start_the_output_begins_at_the_prior() -> None:
    network = CheXNomaly("nano", "nano").eval()
    network.set_prior(0.05)
    assert torch.sigmoid(network(torch.rand(1, 1, 64, 64))).mean().item() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("preset", ["nano", "early"])
def test_features_only_sees_the_image_through_the_extractor_alone(preset: str) -> None:
    network = CheXNomaly(preset, "nano", features_only=True).eval()
    supermodel = UNet(preset)
    assert isinstance(network.unet, UNet)
    before = network.unet.first_convolution().weight.clone()
    network.start_from(supermodel, None)
    assert torch.equal(network.unet.first_convolution().weight, before)
    assert torch.equal(network.unet.head.weight, supermodel.head.weight)
    for parameter in network.extractor.parameters():
        parameter.zero_()
    one, other = network(torch.rand(2, 1, 128, 128))
    assert torch.equal(one, other)


def test_features_only_leaves_no_other_way_in() -> None:
    with pytest.raises(ValueError, match="features_only"):
        CheXNomaly("nano", "nano", features_only=True, inject="bottleneck")


def test_the_1x1_convolution_of_the_cnns_maps_commutes_with_their_enlargement() -> None:
    """The paper enlarges (B,8,4,4) first; convolving first is the same and costs a thousandth."""
    network = CheXNomaly("nano", "nano", variant="cnn")
    maps = network.extractor.maps(torch.rand(2, 1, 64, 64))
    enlarge = torch.nn.Upsample(size=(32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(enlarge(network.adapt(maps)), network.adapt(enlarge(maps)), atol=1e-6)
