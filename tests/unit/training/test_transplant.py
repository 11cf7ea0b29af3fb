"""Transplants between the images of a batch: pixels, truth and weight move together, and nothing else does."""

from __future__ import annotations

import torch

from chextrain.data.arrays import Batch
from chextrain.fit.augmentation import transplant

SIDE = 64


def batch() -> Batch:
    """Eight flat images, each of its own grey; every second one has a finding with a bit and a place of its own."""
    image = torch.arange(8.0).div(10).view(8, 1, 1, 1).expand(8, 1, SIDE, SIDE).clone()
    target, weight = torch.zeros_like(image), image + 0.1
    for index in range(0, 8, 2):
        target[index, 0, 6 * index + 4 : 6 * index + 16, 20:36] = 1
    return image, target, weight, target * 2 ** torch.arange(8.0).view(8, 1, 1, 1)


def test_a_share_of_none_changes_nothing() -> None:
    for before, after in zip(batch(), transplant(*batch(), share=0.0), strict=True):
        assert torch.equal(before, after)


def test_what_is_transplanted_brings_its_truth_and_weight() -> None:
    torch.manual_seed(0)
    image, target, weight, named = batch()
    greys = image[:, 0, 0, 0]
    changed = removed = 0
    for _ in range(20):
        moved, truth, known, bits = transplant(image, target, weight, named, share=1.0)
        for index in range(len(image)):
            foreign = (known[index] != weight[index]) & (truth[index] == 1)
            if foreign.any():
                changed += 1
                donor = int((greys + 0.1 - known[index][foreign][0]).abs().argmin())
                assert torch.equal(truth[index][target[donor] > 0], torch.ones_like(truth[index][target[donor] > 0]))
                assert torch.equal(bits[index][foreign], named[donor][foreign])
                middle = moved[index][:, 6 * donor + 10, 28]
                assert torch.allclose(middle, greys[donor].expand(1))
            removed += bool((truth[index] < target[index]).any())
    assert changed > 20  # findings reach other images
    assert removed > 0  # and normal tissue replaces findings


def test_edges_are_soft_and_far_pixels_stay() -> None:
    torch.manual_seed(1)
    image, *others = batch()
    moved, truth, *_ = transplant(image, *others, share=1.0)
    for index in range(len(image)):
        steps = (moved[index, 0].diff(dim=0).abs()).max()
        assert steps < 0.7 / 2  # greys differ by up to 0.7
        assert torch.equal(moved[index, 0, :, :12], image[index, 0, :, :12])
        assert not truth[index, 0, :, :12].any()


def test_large_parts_stay_where_they_are() -> None:
    image, target, *others = batch()
    target[:] = 1
    moved, *_ = transplant(image, target, *others, share=1.0)
    assert torch.equal(moved, image)
