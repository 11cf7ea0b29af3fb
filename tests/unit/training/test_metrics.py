"""Metrics on cases small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chextrain.evaluate.bootstrap import (
    Resampling,
    auroc_of,
    average_precision_of,
    calibration_error_of,
    mean_of,
    pixel_ap_of,
)
from chextrain.evaluate.froc import RATES, froc, matches, regions
from chextrain.metrics import auroc, average_precision, box_iou, dice, mask_iou, pixel_ap, pointing_game


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert average_precision(np.zeros(10), np.arange(10) < 3) == pytest.approx(0.3)  # one tie: the prevalence
    assert math.isnan(average_precision(np.zeros(3), np.zeros(3, dtype=bool)))


def test_auroc_by_hand() -> None:
    truth = np.array([True, True, False, False])
    assert auroc(np.array([0.9, 0.4, 0.5, 0.1]), truth) == 0.75
    assert auroc(np.ones(4), truth) == 0.5
    assert math.isnan(auroc(np.ones(2), np.array([True, True])))


def maps() -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((3, 16, 16), dtype=bool)
    truth[0, 2:6, 2:6] = truth[1, 8:12, 4:8] = True
    return truth.astype(np.float32), truth


def test_the_truth_scores_one_and_its_opposite_misses() -> None:
    prob, truth = maps()
    assert pixel_ap(prob, truth) == pointing_game(prob, truth) == 1
    assert pointing_game(1 - prob, truth) == 0
    assert box_iou(truth, truth).tolist() == dice(truth, truth).tolist() == [1, 1, 1]
    assert box_iou(np.zeros_like(truth), truth).tolist() == dice(np.zeros_like(truth), truth).tolist() == [0, 0, 1]


def test_images_without_a_finding_do_not_enter_the_localisation() -> None:
    prob, truth = maps()
    prob[2] = 1
    assert pixel_ap(prob, truth) == 1


def test_box_iou_boxes_the_prediction_and_dice_does_not() -> None:
    _, truth = maps()
    corner = np.zeros_like(truth)
    corner[0, 2:6, 2] = corner[0, 5, 2:6] = True
    assert box_iou(corner, truth)[0] == 1
    assert mask_iou(corner, truth)[0] == 7 / 16
    assert dice(corner, truth)[0] == pytest.approx(2 * 7 / (7 + 16))


def plain(count: int) -> Resampling:
    return Resampling.of(np.array([str(i) for i in range(count)]), rounds=3)


@settings(deadline=None)
@given(st.integers(4, 40), st.integers(0, 1000))
def test_weighted_image_metrics_equal_the_metrics_of_the_drawn_images(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < 0.5
    truth[:2] = True, False
    score = rng.integers(0, 5, count) / 5  # with ties
    resampling = plain(count)
    for statistic, metric in ((auroc_of, auroc), (average_precision_of, average_precision)):
        values = statistic(score, truth)(resampling.weights)
        for weights, value in zip(resampling.weights, values, strict=True):
            drawn = np.repeat(np.arange(count), weights.astype(int))
            expected = metric(score[drawn], truth[drawn])
            assert value == pytest.approx(expected, nan_ok=True)


def test_the_pixel_ap_of_drawn_images_is_that_of_copies_of_them() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((12, 32, 32), dtype=bool)
    truth[:9, 8:20, 8:16] = True
    prob = (rng.normal(size=truth.shape) + truth).astype(np.float32)
    resampling = plain(12)
    for weights, value in zip(resampling.weights, pixel_ap_of(prob, truth)(resampling.weights), strict=True):
        drawn = np.repeat(np.arange(12), weights.astype(int))
        assert value == pytest.approx(pixel_ap(prob[drawn], truth[drawn]), abs=0.002)


def test_whole_patients_are_drawn() -> None:
    hit = mean_of(np.array([True, False]))
    together = Resampling.of(np.array(["a", "a"])).estimate(hit)
    apart = Resampling.of(np.array(["a", "b"])).estimate(hit)
    assert (together.value, together.low, together.high) == (0.5, 0.5, 0.5)
    assert (apart.value, apart.low, apart.high) == (0.5, 0.0, 1.0)


def test_an_interval_covers_as_often_as_it_says() -> None:
    """Of 200 samples of 60 images, the 95 % interval of a share of 0.3 must hold it in about 190."""
    rng = np.random.default_rng(1)
    names = np.array([str(i) for i in range(60)])
    resampling = Resampling.of(names, rounds=400)
    covered = 0
    for _ in range(200):
        found = resampling.estimate(mean_of(rng.random(60) < 0.3))
        covered += found.low <= 0.3 <= found.high
    assert 178 <= covered <= 199


def test_a_subgroup_is_judged_by_its_own_images() -> None:
    values = np.array([1.0, 0.0, 0.0, 0.0])
    keep = np.array([True, True, False, False])
    assert plain(4).estimate(mean_of(values), keep).value == 0.5
    nothing = plain(4).estimate(mean_of(values), np.zeros(4, dtype=bool))
    assert math.isnan(nothing.value)
    assert str(nothing) == "-"


def test_calibration_error_by_hand() -> None:
    said, there = np.array([0.95, 0.95, 0.15, 0.15]), np.array([True, False, False, False])
    assert plain(4).estimate(calibration_error_of(said, there)).value == pytest.approx((0.45 * 2 + 0.15 * 2) / 4)


def bumps(*peaks: tuple[int, int, float], size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    hills = [height * np.exp(-((y - py) ** 2 + (x - px) ** 2) / 18) for py, px, height in peaks]
    return np.sum(hills, axis=0).astype(np.float32)


def test_regions_are_the_peaks_that_stand_apart() -> None:
    boxes, scores = regions(bumps((16, 16, 0.9), (48, 40, 0.4)))
    assert scores == pytest.approx([0.9, 0.4], abs=1e-3)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres == pytest.approx(np.array([[16.5, 16.5], [40.5, 48.5]]))
    merged, _ = regions(bumps((30, 30, 0.9), (30, 34, 0.85)))
    assert len(merged) == 1
    assert len(regions(np.zeros((64, 64), dtype=np.float32))[0]) == 0


def test_a_region_hits_by_overlap_or_by_its_centre() -> None:
    wanted = np.array([[10.0, 10, 30, 30]])
    found = np.array([[18.0, 18, 22, 22], [20, 10, 40, 30], [26, 10, 46, 30], [0, 0, 9, 9]])
    assert matches(found, wanted)[:, 0].tolist() == [True, True, False, False]


def test_froc_counts_hits_everywhere_and_false_regions_only_where_they_count() -> None:
    prob = np.stack(
        [
            bumps((16, 16, 0.9), (48, 48, 0.8)),  # hit, and one false region that does not count
            bumps((16, 16, 0.5)),  # hit, low
            bumps((40, 40, 0.7)),  # false, counts
            np.zeros((64, 64), dtype=np.float32),
        ]
    )
    box = np.array([[10.0, 10, 23, 23]])
    none = np.zeros((0, 4))
    curve = froc(prob, [box, box, none, none], np.array([False, True, True, True]))
    one = np.ones((1, 4))
    assert curve.sensitivity_at(0)(one)[0] == 0.5  # 0.9 alone, above the false 0.7
    assert curve.sensitivity_at(1 / 3)(one)[0] == 1
    assert curve.sensitivity_at(1, np.array([False, True]))(np.array([[1.0, 0, 1, 1]])).tolist() == pytest.approx(
        [np.nan], nan_ok=True
    )
    false, found = curve.points()
    assert false.max() == pytest.approx(1 / 3)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(found) >= 0).all()
    assert RATES == (0.125, 0.25, 0.5, 1, 2, 4)
