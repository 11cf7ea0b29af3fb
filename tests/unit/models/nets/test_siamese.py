"""Twins: what they compare, in which units, and what is transferred."""

from __future__ import annotations

import pytest
import torch

from chexmodels.nets.siamese import VARIANTS, CnnSiamese, MapSiamese, Siamese, siamese


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 64, 64)


@pytest.fixture(params=VARIANTS)
def twins(request: pytest.FixtureRequest) -> Siamese:
    return siamese(request.param, preset="nano").eval()


def test_twins_are_symmetric_and_at_no_distance_from_themselves(twins: Siamese) -> None:
    first, second = images(3), images(3)
    there, similar = twins(first, second)
    back, similar_back = twins(second, first)
    assert there.shape == similar.shape == (3,)
    assert torch.allclose(there, back, atol=1e-6)
    assert torch.allclose(similar, similar_back, atol=1e-6)
    same, _ = twins(first, first)
    assert same.max() < 1e-5
    assert (there > same).all()


def test_equal_twins_give_a_finite_gradient(twins: Siamese) -> None:
    image = images(2)
    distance, logits = twins(image, image)
    (distance.sum() + logits.sum()).backward()
    gradients = [p.grad for p in twins.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_pair_is_compared_as_in_a_batch_of_its_own(twins: Siamese) -> None:
    first, second = images(3), images(3)
    together, _ = twins(first, second)
    alone, _ = twins(first[1:2], second[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "shape"), [("pooled", (2, 16, 32, 32)), ("map", (2, 1, 32, 32)), ("cnn", (2, 8, 4, 4))]
)
def test_what_is_transferred(variant: str, shape: tuple[int, ...]) -> None:
    twins = siamese(variant, preset="nano")
    assert twins.maps(images(2)).shape == shape
    assert twins.map_channels == shape[1]


def test_the_cnn_is_the_papers() -> None:
    network = CnnSiamese()
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16, 32, 64, 128, 128]
    assert all(c.kernel_size == (3, 3) and c.stride == (1, 1) for c in convolutions)
    embedding = network.embed(images(3))
    assert embedding.shape == (3, 128)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(3))


def test_maps_are_compared_by_their_root_mean_square() -> None:
    """Between random maps, the paper's plain length is 209 at 512 px; a margin of 1 has a meaning only for RMS."""
    first, second = torch.rand(2, 1, 512, 512), torch.rand(2, 1, 512, 512)
    raw = (first - second).flatten(1).norm(dim=1)
    assert raw.tolist() == pytest.approx([209, 209], abs=1)
    network = MapSiamese("nano")
    distance, _ = network.compare(first, second)
    assert distance.tolist() == pytest.approx([0.408, 0.408], abs=0.003)
    quarter, _ = network.compare(first[..., :256, :256], second[..., :256, :256])
    assert quarter.tolist() == pytest.approx([0.408, 0.408], abs=0.003)


def test_maps_are_probabilities() -> None:
    maps = siamese("map", preset="nano").maps(images(2))
    assert maps.min() > 0
    assert maps.max() < 1


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="pooled, map, cnn"):
        siamese("triplet")
