"""The paper's measures: every reading by hand, and the numbers that its headline implies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chextrain.evaluate import chexnomaly_metrics as paper
from chextrain.evaluate.chexnomaly_metrics import Confusion

SIZE = 512


def square(*sides: tuple[int, int, int, int], size: int = SIZE) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    for y0, y1, x0, x1 in sides:
        mask[y0:y1, x0:x1] = True
    return mask


EMPTY = square()
BOX = square((100, 200, 100, 200))


def test_mae_on_probabilities_and_on_masks() -> None:
    truth = np.stack([square((0, 2, 0, 2), size=4), square(size=4)])
    prob = np.where(truth, 0.75, 0.25)
    assert paper.paper_mae(prob, truth) == pytest.approx(0.25)
    assert paper.paper_mae_masks(prob > 0.5, truth) == 0
    assert paper.paper_mae_masks(np.zeros_like(truth), truth) == pytest.approx(4 / 32)


def test_saying_nothing_scores_the_share_of_normal_images_under_reading_ii() -> None:
    """10,606 of VinDr-CXR's 15,000 images are normal: 0.707, more than the 0.6118 printed for the supermodel."""
    truth = np.zeros((15_000, 2, 2), dtype=bool)
    truth[10_606:, 0, 0] = True
    nothing = np.zeros_like(truth)
    assert paper.iou_image_empty1(nothing, truth) == pytest.approx(0.707, abs=5e-4)
    assert paper.iou_positive(nothing, truth) == 0
    partly = 0.7487 - 10_606 / 15_000  # what 0.7487 leaves to the 4,394 others
    assert partly / (4_394 / 15_000) == pytest.approx(0.14, abs=0.005)


@pytest.mark.parametrize(("mae", "foreground", "printed"), [(0.0109, 0.51, 0.7487), (0.009, 0.23, 0.6118)])
def test_the_headline_under_reading_i_means_this_overlap_of_findings(
    mae: float, foreground: float, printed: float
) -> None:
    """A mask with the printed share of wrong pixels and this IoU of findings scores the printed mean IoU."""
    pixels = 1_000_000
    wrong = round(mae * pixels)
    right = round(foreground / (1 - foreground) * wrong)
    truth, mask = np.zeros((2, 1, 1000, 1000), dtype=bool)
    truth.ravel()[: right + wrong // 2] = True
    mask.ravel()[:right] = True
    mask.ravel()[right + wrong // 2 : right + wrong] = True
    assert paper.iou_positive(mask, truth) == pytest.approx(foreground, abs=1e-3)
    assert paper.iou_classmean(mask, truth) == pytest.approx(printed, abs=2e-3)


def test_reading_i_is_the_mean_of_background_and_findings_over_all_pixels() -> None:
    truth, mask = np.stack([BOX, EMPTY]), np.stack([square((100, 200, 100, 150)), square((0, 10, 0, 100))])
    both, either, pixels = 5_000, 10_000 + 1_000, 2 * SIZE**2
    assert paper.iou_classmean(mask, truth) == pytest.approx(((pixels - either) / (pixels - both) + both / either) / 2)
    assert paper.iou_classmean(truth, truth) == 1
    assert paper.iou_image_empty1(mask, truth) == pytest.approx((0.5 + 0) / 2)
    assert paper.iou_positive(mask, truth) == 0.5


CASES = {
    # mask, truth, strict, lenient
    "nothing there, nothing said": (EMPTY, EMPTY, "tn", "tn"),
    "scattered dots": (square((5, 10, 5, 10)), EMPTY, "fp", "tn"),
    "a false finding": (BOX, EMPTY, "fp", "fp"),
    "missed": (EMPTY, BOX, "fn", "fn"),
    "99 pixels differ": (square((100, 199, 100, 200), (199, 200, 100, 101)), BOX, "tp", "tp"),
    "100 pixels differ": (square((100, 199, 100, 200)), BOX, "fn", "tp"),
    "a low overlap touches": (square((100, 120, 100, 120)), BOX, "fn", "tp"),
    "elsewhere": (square((300, 400, 300, 400)), BOX, "fn", "fn"),
    "one of two": (BOX, BOX | square((300, 500, 300, 500)), "fn", "tp"),
    "one of three": (BOX, BOX | square((300, 400, 300, 500), (420, 500, 300, 500)), "fn", "fn"),
}


@pytest.mark.parametrize("name", CASES)
def test_strict_and_lenient_categories(name: str) -> None:
    mask, truth, strict, lenient = CASES[name]
    for found, expected in (
        (paper.strict_confusion(mask[None], truth[None]), strict),
        (paper.lenient_confusion(mask[None], truth[None]), lenient),
    ):
        assert {key: getattr(found, key) for key in ("tn", "fp", "fn", "tp")} == {
            key: int(key == expected) for key in ("tn", "fp", "fn", "tp")
        }


@pytest.mark.parametrize(
    ("size", "differ", "right"), [(256, 24, True), (256, 25, False), (64, 1, True), (64, 2, False)]
)
def test_the_tolerance_is_scaled_with_the_image(size: int, differ: int, right: bool) -> None:
    truth = square((10, 40, 10, 40), size=size)
    mask = truth.copy()
    mask[10, 10 : 10 + differ] = False
    assert paper.strict_confusion(mask[None], truth[None]).tp == int(right)


def test_f1_of_the_strict_counts_and_of_any_pixel() -> None:
    mask = np.stack([BOX, square((0, 1, 0, 1)), EMPTY, EMPTY])
    truth = np.stack([BOX, BOX, BOX, EMPTY])
    assert paper.strict_confusion(mask, truth) == Confusion(tn=1, fp=0, fn=2, tp=1)
    assert paper.paper_f1_all(mask, truth) == pytest.approx(0.5)
    assert paper.paper_f1_pos(mask, truth) == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    one_pixel = np.broadcast_to(square((0, 1, 0, 1)), truth.shape)
    assert paper.paper_f1_pos(one_pixel, truth) == 1
    assert math.isnan(paper.paper_f1_pos(mask[3:], truth[3:]))


def test_the_error_histogram_has_quarter_per_cent_bins_and_outliers_over_four() -> None:
    truth = np.zeros((5, 100, 100), dtype=bool)
    mask = truth.copy()
    for index, wrong in enumerate((0, 24, 25, 400, 401)):  # of 10,000 pixels: 0, 0.24, 0.25, 4 and 4.01 %
        mask[index].ravel()[:wrong] = True
    counts, outliers = paper.error_histogram(mask, truth)
    assert len(counts) == 16
    assert (counts[0], counts[1], counts[15], outliers) == (2, 1, 1, 1)
    assert counts.sum() + outliers == 5
