"""The properties that make each transform into boxes what it is."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from chextrain.config import LossConfig
from chextrain.fit.box_transform import TRANSFORMS, component_boxes

ADDING = ("none", "components", "global", "target")


def as_map(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))[None, None]


def ellipse(x: float, y: float, rx: float, ry: float, rows: int, columns: int) -> np.ndarray:
    v, u = np.mgrid[:rows, :columns]
    return ((u - x) / rx) ** 2 + ((v - y) / ry) ** 2 <= 1


def two_rectangles() -> tuple[np.ndarray, np.ndarray]:
    """Apart in rows and in columns; 13,000 pixels together."""
    first, second = np.zeros((300, 300), bool), np.zeros((300, 300), bool)
    first[20:70, 10:130] = True
    second[100:240, 200:250] = True
    return first, second


def test_the_configuration_knows_every_transform() -> None:
    assert set(get_args(get_type_hints(LossConfig)["transform"])) == set(TRANSFORMS)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(ADDING))
def test_boxes_only_add(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    prob = torch.from_numpy(rng.random((2, 1, 20, 24), dtype=np.float32))
    target = torch.from_numpy((rng.random((2, 1, 20, 24)) > 0.8).astype(np.float32))
    assert (TRANSFORMS[name](prob, target) >= prob).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_quiet_maps_are_left_alone(seed: int) -> None:
    quiet = torch.from_numpy(np.random.default_rng(seed).random((2, 1, 20, 24), dtype=np.float32)) / 2
    assert torch.equal(component_boxes(quiet), quiet)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_of_a_mask_every_component_becomes_its_tight_box(seed: int) -> None:
    """Against SciPy's bounding boxes, whatever the mask."""
    mask = np.random.default_rng(seed).random((24, 24)) > 0.93
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    expected = np.zeros_like(mask)
    for window in ndimage.find_objects(labels):
        expected[window] = True
    assert np.array_equal(component_boxes(as_map(mask))[0, 0].numpy() > 0, expected)


def test_disjoint_rectangles_are_a_fixed_point() -> None:
    first, second = two_rectangles()
    both = as_map(first | second)
    assert torch.equal(component_boxes(both), both)


def test_an_ellipse_becomes_its_tight_box() -> None:
    boxed = component_boxes(as_map(ellipse(100, 60, 99.5, 59.5, 200, 300)))
    assert boxed.sum() == 119 * 199 == 23_681


def test_two_findings_make_ghosts_only_when_boxed_together() -> None:
    first, second = two_rectangles()
    both = as_map(first | second)
    assert both.sum() == 13_000
    ghosts = TRANSFORMS["global"](both, both) - both
    assert ghosts.sum() == 19_300
    assert torch.equal(TRANSFORMS["global"](as_map(first), both), as_map(first))


def test_small_components_are_not_boxed() -> None:
    mask = np.zeros((20, 20))
    mask[2, 2] = mask[3, 3] = 1
    assert component_boxes(as_map(mask)).sum() == 4
    assert component_boxes(as_map(mask), min_area=3).sum() == 2


def test_empty_corners_inside_the_box_get_no_gradient() -> None:
    """Inside box and truth, where the network left a corner of the shape empty, nothing asks it to be filled."""
    shape = ellipse(20, 20, 12, 9, 40, 40)
    prob = as_map(np.where(shape, 0.9, 0.1)).requires_grad_()
    boxed = component_boxes(prob)
    window = (0, 0, slice(11, 30), slice(8, 33))
    assert (boxed[window] == 0.9).all()
    torch.nn.functional.binary_cross_entropy(boxed[window], torch.ones_like(boxed[window])).backward()
    corners = ~shape[window[2:]]
    gradient = prob.grad[window].numpy()
    assert corners.sum() > 50
    assert not gradient[corners].any()
    assert gradient[~corners].any()


def test_a_false_extension_is_blamed_on_the_pixels_that_cause_it() -> None:
    mask = np.full((30, 30), 0.1)
    mask[5:12, 5:12] = 0.9
    mask[8, 12:20] = 0.8  # an arm that widens the box
    truth = torch.zeros(1, 1, 30, 30)
    truth[..., 5:12, 5:12] = 1
    prob = as_map(mask).requires_grad_()
    boxed = component_boxes(prob)
    torch.nn.functional.binary_cross_entropy(boxed, truth, reduction="sum").backward()
    gradient = prob.grad[0, 0]
    one_false_pixel = 1 / (1 - 0.8)
    assert (gradient[8, 12:20] > 5 * one_false_pixel).all()  # each answers for a whole column
    assert gradient[5, 12:20].max() == 0  # and the empty pixels of the column for nothing


def test_inside_the_truth_only_is_filled_by_target() -> None:
    first, second = two_rectangles()
    shape = ellipse(70, 45, 50, 20, 300, 300) * 0.4  # too faint for a component, inside the first box
    outside = ellipse(225, 30, 10, 10, 300, 300) * 0.9
    prob, target = as_map(shape + outside), as_map(first | second)
    boxed = TRANSFORMS["target"](prob, target)
    window = (0, 0, slice(26, 65), slice(21, 120))
    assert (boxed[window] == 0.4).all()
    changed = (boxed != prob)[0, 0].numpy()
    assert not changed[~first].any()
    assert torch.equal(component_boxes(prob)[0, 0, :90, :150], prob[0, 0, :90, :150])


def test_hard_boxes_are_binary_and_pass_the_gradient_straight_through() -> None:
    prob = as_map(np.where(ellipse(20, 20, 12, 9, 40, 40), 0.6, 0.4)).requires_grad_()
    boxed = TRANSFORMS["hard"](prob, prob.detach())
    assert torch.allclose(boxed, (boxed > 0.5).float(), atol=0.0011)
    assert torch.equal(boxed > 0.5, component_boxes((prob.detach() > 0.5).float()) > 0)
    weight = torch.rand(1, 1, 40, 40)
    (boxed * weight).sum().backward()
    assert torch.equal(prob.grad, weight)
