"""Metrics on cases small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chextrain.calibrate import CLEAN_NORMALS, SENSITIVITY, fit_calibration, fit_operating_points, image_scores
from chextrain.evaluate import mark
from chextrain.metrics import auroc, average_precision, bootstrap, box_iou, pixel_ap, pointing_game


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


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(0, 1000))
def test_auroc_of_the_opposite_score_is_the_complement(scores: list[int], seed: int) -> None:
    truth = np.random.default_rng(seed).random(len(scores)) < 0.5
    truth[:2] = True, False
    values = np.array(scores, dtype=float)
    assert auroc(values, truth) + auroc(-values, truth) == pytest.approx(1)


def maps() -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((3, 16, 16), dtype=bool)
    truth[0, 2:6, 2:6] = truth[1, 8:12, 4:8] = True
    return truth.astype(np.float32), truth


def test_the_truth_scores_one_and_its_opposite_misses() -> None:
    prob, truth = maps()
    assert pixel_ap(prob, truth) == pointing_game(prob, truth) == 1
    assert pointing_game(1 - prob, truth) == 0
    assert box_iou(truth, truth).tolist() == [1, 1, 1]
    assert box_iou(np.zeros_like(truth), truth).tolist() == [0, 0, 1]


def test_images_without_a_finding_do_not_enter_the_localisation() -> None:
    prob, truth = maps()
    prob[2] = 1
    assert pixel_ap(prob, truth) == 1


def test_box_iou_boxes_the_prediction() -> None:
    _, truth = maps()
    corner = np.zeros_like(truth)
    corner[0, 2:6, 2] = corner[0, 5, 2:6] = True
    assert box_iou(corner, truth)[0] == 1


def test_the_bootstrap_resamples_whole_groups() -> None:
    prob, truth = maps()
    prob[1] = 1 - prob[1]
    together = bootstrap(pointing_game, prob[:2], truth[:2], np.array(["a", "a"]))
    apart = bootstrap(pointing_game, prob[:2], truth[:2], np.array(["a", "b"]))
    assert together == (0.5, 0.5)
    assert apart == (0.0, 1.0)


@pytest.fixture(scope="module")
def validation() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (120, 32, 32), truth and label of a fair detector: images 0 to 59 have a finding, 52 of them are seen."""
    rng = np.random.default_rng(0)
    heat = rng.normal(-4, 1, (120, 32, 32)).astype(np.float32)
    truth = np.zeros(heat.shape, dtype=bool)
    truth[:60, 8:16, 8:16] = True
    heat[:52, 8:16, 8:16] += 6
    heat[55:62, 20:24, 20:24] += 6  # false ones
    return heat, truth, np.arange(120) < 60


def test_calibration_recovers_what_was_done_to_the_logits(validation: tuple[np.ndarray, ...]) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (40, 32, 32))
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    everything = np.ones(40, dtype=bool)
    fitted = fit_calibration((3 * logits).astype(np.float32), truth, everything, np.arange(40) < 20)
    assert fitted.temperature == pytest.approx(3, rel=0.1)


def test_operating_points_keep_their_promises(validation: tuple[np.ndarray, ...]) -> None:
    heat, truth, abnormal = validation
    calibration = fit_calibration(heat, truth, np.ones(120, dtype=bool), abnormal)
    prob = 1 / (1 + np.exp(-heat / calibration.temperature))
    scores = image_scores(prob, calibration)
    assert auroc(scores, abnormal) > 0.9
    points = fit_operating_points(prob, scores, truth, abnormal, ~abnormal)
    reader, triage = points["second_reader"], points["triage"]
    assert reader.clean_normals >= CLEAN_NORMALS
    assert triage.sensitivity >= SENSITIVITY
    assert reader.sensitivity > 0.8
    for point in points.values():
        marked = mark(prob, scores, point).any(axis=(1, 2))
        assert marked[abnormal].mean() == pytest.approx(point.sensitivity)
        assert 1 - marked[~abnormal].mean() == pytest.approx(point.clean_normals)
