"""What an export fits on validation: temperatures, image calibration, operating points."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from chexmodels.bundle import Calibration
from chexmodels.calibration import image_probability
from chextrain.cli import export
from chextrain.data import phantom
from chextrain.data.arrays import load
from chextrain.evaluate.calibrate import (
    CLEAN_NORMALS,
    ISOTONIC_FROM,
    SENSITIVITY,
    NothingToFit,
    candidates,
    choose,
    decide,
    fit_calibration,
    tradeoff,
)
from chextrain.evaluate.evaluation import mark
from chextrain.evaluate.predict import image_scores
from chextrain.metrics import auroc, box_iou


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


def fitted(
    validation: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    heat, truth, abnormal = validation
    calibration = fit_calibration(heat, truth, np.ones(120, dtype=bool), abnormal)
    prob = (1 / (1 + np.exp(-heat / calibration.temperature))).astype(np.float32)
    return prob, image_scores(prob, calibration), truth, abnormal


def test_calibration_recovers_what_was_done_to_the_logits() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (40, 32, 32))
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    everything = np.ones(40, dtype=bool)
    found = fit_calibration((3 * logits).astype(np.float32), truth, everything, np.arange(40) < 20)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.knots == ()


def test_from_a_thousand_images_on_the_image_score_is_isotonic() -> None:
    """Scores whose true curve Platt's two numbers cannot draw: a step from 0.1 to 0.6."""
    rng = np.random.default_rng(2)
    level = rng.uniform(-3, 3, ISOTONIC_FROM)
    abnormal = rng.random(len(level)) < np.where(level < 0, 0.1, 0.6)
    heat = np.broadcast_to(level[:, None, None], (len(level), 8, 8)).astype(np.float32)
    truth = np.broadcast_to(abnormal[:, None, None], heat.shape)
    few = fit_calibration(heat[:-1], truth[:-1], np.ones(len(level) - 1, dtype=bool), abnormal[:-1])
    many = fit_calibration(heat, truth, np.ones(len(level), dtype=bool), abnormal)
    assert few.knots == ()
    low, high = (image_probability(1 / (1 + np.exp(-z / many.temperature)), many) for z in (-1.5, 1.5))
    assert (low, high) == pytest.approx((0.1, 0.6), abs=0.07)
    assert Calibration.model_validate_json(many.model_dump_json()) == many


def test_operating_points_keep_their_promises(validation: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    prob, scores, truth, abnormal = fitted(validation)
    assert auroc(scores, abnormal) > 0.9
    found = candidates(prob, scores, truth, abnormal, ~abnormal)
    points = choose(found)
    reader, triage = points["second_reader"], points["triage"]
    assert reader.clean_normals >= CLEAN_NORMALS
    assert triage.sensitivity >= SENSITIVITY
    assert reader.sensitivity > 0.8
    by_point = {one.point: one.box_iou for one in found}
    for point in points.values():
        masks = mark(prob, scores, point)
        marked = masks.any(axis=(1, 2))
        assert marked[abnormal].mean() == pytest.approx(point.sensitivity)
        assert 1 - marked[~abnormal].mean() == pytest.approx(point.clean_normals)
        assert box_iou(masks[abnormal], truth[abnormal]).mean() == pytest.approx(by_point[point])


def test_every_candidate_is_what_the_node_would_mark(validation: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    prob, scores, truth, abnormal = fitted(validation)
    found = candidates(prob, scores, truth, abnormal, ~abnormal)
    assert {bool(one.point.relative_threshold) for one in found} == {True, False}
    for one in found[:: len(found) // 40]:
        masks = mark(prob, scores, one.point)
        assert masks.any(axis=(1, 2))[abnormal].mean() == pytest.approx(one.point.sensitivity)
        assert box_iou(masks[abnormal], truth[abnormal]).mean() == pytest.approx(one.box_iou)


def test_clean_normals_are_paid_for_with_overlap(validation: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    prob, scores, truth, abnormal = fitted(validation)
    found = tradeoff(candidates(prob, scores, truth, abnormal, ~abnormal))
    assert [share for share, *_ in found] == sorted((share for share, *_ in found), reverse=True)
    for column in (1, 2):
        paid = [line[column].box_iou for line in found]
        assert paid == sorted(paid)
        assert all(line[column].point.clean_normals >= line[0] - 1e-9 for line in found)


def test_where_findings_differ_in_height_a_share_of_the_peak_fits_better() -> None:
    """The same hill at four heights: one level cuts a high one too wide and a low one too narrow."""
    y, x = np.mgrid[:32, :32]
    hill = np.exp(-((y - 15.5) ** 2 + (x - 15.5) ** 2) / 72)
    prob = np.stack([hill * height for height in (0.95, 0.6, 0.35, 0.2)] * 5 + [hill * 0.01] * 10).astype(np.float32)
    truth = np.zeros(prob.shape, dtype=bool)
    truth[:20, 9:23, 9:23] = True
    abnormal = np.arange(30) < 20
    (_, fixed, following), *_ = tradeoff(candidates(prob, prob.max(axis=(1, 2)), truth, abnormal, ~abnormal))
    assert following.box_iou > 0.9 > fixed.box_iou + 0.1
    assert following.point.threshold <= 0.2 * following.point.relative_threshold + 1e-6
    assert following.point.threshold > 0.01


def test_the_command_promises_what_the_function_does() -> None:
    assert inspect.signature(export).parameters["clean_normals"].default == CLEAN_NORMALS


def test_a_validation_split_without_normals_or_boxes_is_refused() -> None:
    collection = phantom.collection(train=1, val=12, test=1)
    arrays = load(collection, "val", 32, cache=None)
    heat = np.zeros(arrays.images.shape, dtype=np.float32)
    for label, missing in (("abnormal", "read as normal"), ("normal", "with a box")):
        keep = np.array([case.label == label for case in arrays.cases])
        with pytest.raises(NothingToFit, match=missing):
            decide(heat[keep], arrays.where(keep.tolist()))
