"""DDAD's autoencoders and scores: shapes of the report, hand-computed values, and a straight loop over the networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from chexmodels.nets.autoencoders import BACKBONES, Autoencoder, MemoryAutoencoder
from chexmodels.nets.ddad import DDAD, Maps, discrepancies, reconstruction_error


def trained(backbone: str, **options: int) -> Autoencoder:
    """A network whose normalisation has seen images, in evaluation mode."""
    network = BACKBONES[backbone](**options)
    network(torch.randn(8, 1, 64, 64))
    return network.eval()


def test_the_networks_have_the_reports_size() -> None:
    assert sum(weight.numel() for weight in Autoencoder().parameters()) == 4_487_248  # "4.49 M"
    for backbone, channels in (("ae", 1), ("memae", 1), ("aeu", 2)):
        network = trained(backbone, width=32)
        assert network(torch.zeros(2, 1, 64, 64)).shape == (2, channels, 64, 64)
        assert network.encoder(torch.zeros(2, 1, 64, 64)).shape == (2, 16)


def test_memory_is_addressed_by_a_softmax_that_may_be_shrunk() -> None:
    network = MemoryAutoencoder(latent=2, width=8, memory=3)
    network.memory = nn.Parameter(torch.tensor([[0.0, 0.0], [math.log(2), 0.0], [math.log(5), 0.0]]))
    code = torch.tensor([[1.0, 7.0]])  # exponentials 1, 2, 5
    assert torch.allclose(network.address(code), torch.tensor([[1.0, 2.0, 5.0]]) / 8)
    network.shrink = 0.125  # the first weight is not above it
    assert torch.allclose(network.address(code), torch.tensor([[0.0, 2.0, 5.0]]) / 7)
    assert network.memory.abs().max() > 0
    fresh = MemoryAutoencoder(latent=16, width=8)
    assert fresh.memory.shape == (25, 16)
    assert 0.2 < fresh.memory.abs().max() <= 0.25  # uniform within 1 / sqrt(16)


def test_the_scores_of_one_pixel_by_hand() -> None:
    image = torch.full((1, 1, 1, 1), 1.0)
    a = torch.tensor([4.0, 6.0, 8.0]).reshape(3, 1, 1, 1, 1)  # mean 6
    b = torch.tensor([2.0, 3.0, 4.0]).reshape(3, 1, 1, 1, 1)  # mean 3, deviation 1
    assert [float(map_) for map_ in discrepancies(a, b, image)] == [4.0, 1.0, 3.0]
    assert float(reconstruction_error(b[2], image)) == 9.0


def test_the_scores_of_one_pixel_with_uncertainty_by_hand() -> None:
    """Variances of module B are 2, 4 and 12, in the mean 6; those of module A do not count."""
    image = torch.full((1, 1, 1, 1), 1.0)
    means, variances = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([2.0, 4.0, 12.0])
    b = torch.stack([means, variances.log()], dim=1).reshape(3, 1, 2, 1, 1)
    a = torch.stack([means + 3, torch.full((3,), 99.0)], dim=1).reshape(3, 1, 2, 1, 1)
    rec, intra, inter = (float(map_) for map_ in discrepancies(a, b, image))
    assert rec == pytest.approx(4 / 6)
    assert intra == pytest.approx(1 / math.sqrt(6))
    assert inter == pytest.approx(3 / math.sqrt(6))
    assert float(reconstruction_error(b[2], image)) == pytest.approx(9 / 12)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_the_batched_forward_equals_a_loop_over_the_networks(backbone: str) -> None:
    torch.manual_seed(0)
    a, b = ([trained(backbone, width=24) for _ in range(3)] for _ in "ab")
    network = DDAD(backbone, width=24).eval()
    network.join(a, b)
    image = torch.rand(4, 1, 64, 64)
    with torch.inference_mode():
        maps = network.maps(image)
        for index, one in enumerate(image):
            x = 2 * one[None] - 1
            answers_a, answers_b = [[net(x)[0] for net in module] for module in (a, b)]
            mean_a = sum(answer[0] for answer in answers_a) / 3
            mean_b = sum(answer[0] for answer in answers_b) / 3
            deviation = (sum((answer[0] - mean_b) ** 2 for answer in answers_b) / 2) ** 0.5
            variance = sum(answer[1].exp() for answer in answers_b) / 3 if backbone == "aeu" else torch.tensor(1.0)
            expected = ((x[0, 0] - mean_b) ** 2 / variance, deviation / variance**0.5)
            expected = (*expected, abs(mean_a - mean_b) / variance**0.5)
            for got, want in zip(maps, expected, strict=True):
                assert torch.allclose(got[index, 0], want, rtol=1e-3, atol=1e-5)
        for score, heat in zip(Maps._fields, maps, strict=True):
            network.score = score
            assert torch.equal(network(image), heat)
            assert heat.min() >= 0


def test_what_a_module_of_one_network_or_an_unknown_score_would_be_is_refused() -> None:
    for options in ({"count": 1}, {"score": "outer"}):
        with pytest.raises(ValueError, match="count is at least 2"):
            DDAD("ae", width=8, **options)  # type: ignore[arg-type]
