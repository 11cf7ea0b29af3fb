"""Losses against published values and the properties that make the box transform what it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import FocalLoss

from chextrain.losses import component_boxes, contrastive, focal, soft_dice


def test_focal_gives_the_docstring_values_of_tensorflow_addons() -> None:
    target = torch.tensor([1.0, 1.0, 0.0])
    prob = torch.tensor([0.97, 0.91, 0.03])
    values = focal(torch.logit(prob), target)
    assert values.tolist() == pytest.approx([6.8532745e-06, 1.9097870e-04, 2.0559824e-05], rel=1e-4)


def test_focal_equals_monais() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 16, 16) * 3, (torch.rand(2, 1, 16, 16) > 0.7).float()
    monai = FocalLoss(alpha=0.25, gamma=2.0)(logits, target)
    assert focal(logits, target).mean().item() == pytest.approx(monai.item(), rel=1e-5)


def test_focal_is_finite_far_out() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    focal(logits, torch.tensor([1.0, 0.0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


def as_map(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))[None, None]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_boxes_only_add_and_leave_quiet_maps_alone(seed: int) -> None:
    prob = torch.from_numpy(np.random.default_rng(seed).random((2, 1, 20, 24), dtype=np.float32))
    assert (component_boxes(prob) >= prob).all()
    assert torch.equal(component_boxes(prob / 2), prob / 2)


def test_disjoint_rectangles_are_a_fixed_point() -> None:
    mask = np.zeros((40, 40))
    mask[3:10, 5:20] = mask[20:35, 22:30] = 1
    assert torch.equal(component_boxes(as_map(mask)), as_map(mask))


def test_an_ellipse_becomes_its_tight_box_and_two_make_no_ghost() -> None:
    y, x = np.mgrid[:200, :300]
    first = ((x - 100) / 99.5) ** 2 + ((y - 60) / 59.5) ** 2 <= 1
    boxed = component_boxes(as_map(first))
    assert boxed.sum() == 119 * 199
    second = ((x - 270) / 20) ** 2 + ((y - 170) / 20) ** 2 <= 1
    both = component_boxes(as_map(first | second))
    alone = torch.maximum(boxed, component_boxes(as_map(second)))
    assert torch.equal(both, alone)


def test_small_components_are_not_boxed() -> None:
    mask = np.zeros((20, 20))
    mask[2, 2] = mask[3, 3] = 1
    assert component_boxes(as_map(mask)).sum() == 4
    assert component_boxes(as_map(mask), min_area=3).sum() == 2


def test_empty_corners_inside_the_box_get_no_gradient_of_their_own() -> None:
    y, x = np.mgrid[:40, :40]
    prob = as_map(np.where(((x - 20) / 12) ** 2 + ((y - 20) / 9) ** 2 <= 1, 0.9, 0.1)).requires_grad_()
    component_boxes(prob)[0, 0, 11:30, 8:33].sum().backward()
    assert prob.grad[0, 0, 12, 9] == 0  # a corner of the window, outside the ellipse
    assert prob.grad.sum() > 0


def test_a_false_extension_is_blamed_on_the_pixels_that_cause_it() -> None:
    mask = np.full((30, 30), 0.1)
    mask[5:12, 5:12] = 0.9
    mask[8, 12:20] = 0.8  # an arm that widens the box
    prob = as_map(mask).requires_grad_()
    component_boxes(prob)[0, 0, 5:12, 12:20].sum().backward()
    assert (prob.grad[0, 0, 8, 12:20] > 1).all()


def test_similar_pairs_are_pulled_and_others_pushed_up_to_the_margin() -> None:
    distance = torch.tensor([0.0, 0.5, 2.0])
    assert contrastive(distance, torch.ones(3)).tolist() == pytest.approx([0.0, 0.125, 2.0])
    assert contrastive(distance, torch.zeros(3)).tolist() == pytest.approx([0.5, 0.125, 0.0])


def test_dice_is_zero_for_the_truth_and_ignores_what_has_no_weight() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    weight = torch.ones_like(target)
    assert soft_dice(target, target, weight) == 0
    assert soft_dice(1 - target, target, weight) > 0.9
    weight[..., 4:] = 0
    assert soft_dice(torch.ones_like(target), target, weight) == 0
