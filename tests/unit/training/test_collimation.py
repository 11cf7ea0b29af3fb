"""Images behind random collimators: black outside one opening, whole within it."""

from __future__ import annotations

import torch

from chextrain.fit.augmentation import collimate


def test_a_share_of_nothing_changes_nothing() -> None:
    image = torch.rand(8, 1, 64, 64)
    assert torch.equal(collimate(image, 0.0), image)


def test_outside_an_opening_is_black_and_inside_is_unchanged() -> None:
    torch.manual_seed(0)
    image = torch.ones(200, 1, 64, 64)
    opened = collimate(image, 1.0)
    assert set(opened.unique().tolist()) <= {0.0, 1.0}
    assert (opened[:, 0, 20:44, 20:44] == 1).all(), "the middle is always in sight"
    left = opened.mean(dim=(1, 2, 3))
    assert 0.4 < left.min() < 0.6
    assert left.median() < 0.95
    corners = opened[:, 0, 0, 0]
    assert (corners == 0).float().mean() > 0.5


def test_about_the_share_asked_for_is_changed() -> None:
    torch.manual_seed(1)
    changed = (collimate(torch.ones(400, 1, 32, 32), 0.3) < 1).flatten(1).any(dim=1)
    assert 0.2 < changed.float().mean() < 0.4
