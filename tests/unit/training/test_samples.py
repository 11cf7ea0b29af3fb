"""What a training image weighs, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from chextrain.data import phantom
from chextrain.data.arrays import Arrays, Samples
from chextrain.data.cases import box_mask

SIDE = 64


def arrays(*boxes: tuple[float, float, float, float]) -> Arrays:
    """One exhaustively read image of 64 x 64 pixels."""
    case = replace(phantom.collection(1, 1, 1).cases[0], rows=SIDE, columns=SIDE, boxes=boxes, exhaustive=True)
    return Arrays((case,), np.zeros((1, SIDE, SIDE), dtype=np.uint8), box_mask(case, SIDE)[None])


def test_balanced_boxes_count_alike() -> None:
    large, small = (0.0, 0.0, 32.0, 32.0), (40.0, 40.0, 48.0, 48.0)  # a quarter and a sixty-fourth of the frame
    _, target, weight, _ = Samples(arrays(large, small), balance=1.0)[0]
    assert torch.equal(weight[target == 0].unique(), torch.ones(1))
    assert weight[0, 10, 10] == 1.0  # large ones are not weighed down
    assert torch.isclose(weight[0, 44, 44], torch.tensor(Samples.TYPICAL * 64))


def test_nothing_weighs_more_than_the_heaviest_and_without_balance_all_is_one() -> None:
    tiny = (10.0, 10.0, 11.0, 11.0)
    assert Samples(arrays(tiny), balance=1.0)[0][2].max() == Samples.HEAVIEST
    assert torch.equal(Samples(arrays(tiny))[0][2], torch.ones(1, SIDE, SIDE))


def test_bits_say_which_finding_is_where() -> None:
    left, right = (4.0, 4.0, 20.0, 20.0), (16.0, 4.0, 40.0, 20.0)  # they overlap
    both = arrays(left, right)
    names = (frozenset({"Mass"}), frozenset({"Effusion", "Edema"}))
    both = replace(both, cases=(replace(both.cases[0], box_findings=names),))
    named = Samples(both, findings=("Effusion", "Mass", "Nodule"))[0][3][0]
    assert [int(named[10, x]) for x in (2, 10, 18, 30)] == [0, 2, 3, 1]
    assert not Samples(both)[0][3].any()
