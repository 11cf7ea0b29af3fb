"""Networks: shapes, the warm start, and what must not learn."""

from __future__ import annotations

import pytest
import torch

from chexmodels.chexnomaly import CheXNomaly
from chexmodels.siamese import Siamese
from chexmodels.unet import PRESETS, UNet


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("preset", ["fast", "half", "nano"])
def test_unet_gives_one_logit_per_pixel(preset: str) -> None:
    side = 16 * PRESETS[preset].patch
    logits = UNet(preset)(torch.rand(2, 1, side, side))
    assert logits.shape == (2, 1, side, side)
    assert torch.isfinite(logits).all()


def test_output_starts_at_the_prior() -> None:
    network = UNet("nano").eval()
    network.set_prior(0.05)
    prob = torch.sigmoid(network(torch.rand(1, 1, 64, 64)))
    assert prob.mean().item() == pytest.approx(0.05, abs=0.01)


def test_chexnomaly_begins_as_the_supermodel_exactly() -> None:
    supermodel = UNet("nano").eval()
    network = CheXNomaly("nano", "nano").eval()
    image = torch.rand(2, 1, 64, 64)
    assert not torch.equal(network(image), supermodel(image))
    network.start_from(supermodel, Siamese("nano"))
    assert torch.equal(network(image), supermodel(image))


def test_the_maps_are_used_once_learning_has_begun() -> None:
    network = CheXNomaly("nano", "nano").train()
    network.start_from(UNet("nano"), Siamese("nano"))
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    reads_maps = network.unet.first_convolution().weight.grad[:, PRESETS["nano"].patch ** 2 :]
    assert reads_maps.abs().max() > 0


def test_the_extractor_stays_frozen_through_training() -> None:
    network = CheXNomaly("nano", "nano").train()
    assert network.unet.training
    assert not any(module.training for module in network.extractor.modules())
    before = {name: value.clone() for name, value in network.extractor.state_dict().items()}
    head = network.unet.head.weight.detach().clone()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in network.extractor.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.extractor.state_dict().items())
    assert not torch.equal(network.unet.head.weight, head)


def test_twins_are_symmetric_and_at_no_distance_from_themselves() -> None:
    network = Siamese("nano").eval()
    first, second = torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64)
    there, similar = network(first, second)
    back, similar_back = network(second, first)
    assert torch.allclose(there, back, atol=1e-6)
    assert torch.allclose(similar, similar_back, atol=1e-6)
    same, _ = network(first, first)
    assert same.max() < 1e-5
    assert network.maps(first).shape == (3, 16, 32, 32)


def test_equal_twins_give_a_finite_gradient() -> None:
    network = Siamese("nano")
    image = torch.rand(2, 1, 64, 64)
    distance, _ = network(image, image)
    distance.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
