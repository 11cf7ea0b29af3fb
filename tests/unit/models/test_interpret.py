"""From logits to findings in source pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexmodels.bundle import Calibration, ModelCard, OperatingPoint, find, read_card
from chexmodels.calibration import heat_score, image_probability, pixel_probability
from chexmodels.finding import Findings
from chexmodels.interpret import OUTPUT_INVALID, interpret
from chexmodels.model import RawItem
from chexmodels.pixels import Geometry
from chexmodels.postprocess import drop_small, label

SIZE = 64


def card(
    threshold: float = 0.5, min_area: int = 0, image_threshold: float = 0.0, relative_threshold: float = 0.0
) -> ModelCard:
    """The small bundle's card with plain calibration and one operating point."""
    point = OperatingPoint(
        threshold=threshold,
        relative_threshold=relative_threshold,
        min_area=min_area,
        image_threshold=image_threshold,
        sensitivity=1.0,
        clean_normals=1.0,
    )
    plain = Calibration(temperature=1.0, slope=1.0, intercept=0.0)
    return read_card(find("phantom64")).model_copy(update={"operating_points": {"only": point}, "calibration": plain})


def blobs(*boxes: tuple[int, int, int, int], inside: float = 4.0) -> np.ndarray:
    """Logits (S, S): ``inside`` within the boxes (x0, y0, x1, y1) of the model's grid, -6 elsewhere."""
    heat = np.full((SIZE, SIZE), -6.0, dtype=np.float32)
    for x0, y0, x1, y1 in boxes:
        heat[y0:y1, x0:x1] = inside
    return heat


def read(heat: np.ndarray, geometry: Geometry, **point: float) -> Findings:
    return interpret(RawItem(heat), card(**point), "only", geometry)  # type: ignore[arg-type]


def test_findings_are_in_source_pixels() -> None:
    findings = read(blobs((16, 8, 24, 20)), Geometry(640, 640, SIZE))
    (region,) = findings.regions
    assert (region.box.x0, region.box.y0, region.box.x1, region.box.y1) == (160, 80, 240, 200)
    assert region.area == 80 * 120
    assert region.peak == region.mean == pytest.approx(1 / (1 + math.exp(-4)))
    assert findings.abnormal is True
    assert findings.mask is not None
    assert findings.mask.shape == (640, 640)
    assert findings.mask[80:200, 160:240].all()


def test_the_border_of_the_letterbox_shows_nothing() -> None:
    geometry = Geometry(1000, 500, SIZE)
    findings = read(blobs((0, 0, 12, 64)), geometry)  # the picture lies in columns 16 to 48
    assert findings.regions == ()
    assert findings.abnormal is False
    assert findings.score < 0.01


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(20, 700),
    columns=st.integers(20, 700),
    mode=st.sampled_from(["letterbox", "squash"]),
    seed=st.integers(0, 10_000),
    min_area=st.sampled_from([0, 3, 12]),
)
def test_regions_are_the_components_of_the_mask(rows: int, columns: int, mode: str, seed: int, min_area: int) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.normal(size=(SIZE // 4, SIZE // 4)).repeat(4, 0).repeat(4, 1) + rng.normal(size=(SIZE, SIZE))
    geometry = Geometry(rows, columns, SIZE, mode)  # type: ignore[arg-type]
    findings = read(heat.astype(np.float32), geometry, min_area=min_area)
    assert findings.mask is not None
    assert findings.mask.shape == (rows, columns)
    assert findings.heat is not None
    assert findings.heat.shape == (rows, columns)
    assert findings.heat.min() >= 0
    assert findings.heat.max() <= 1
    labels, count = label(findings.mask)
    assert count == len(findings.regions)
    assert sorted(r.area for r in findings.regions) == sorted(np.bincount(labels.ravel())[1:].tolist())
    for region in findings.regions:
        box = region.box
        inside = labels[box.y0 : box.y1, box.x0 : box.x1]
        own = [k for k in np.unique(inside) if k and np.count_nonzero(labels == k) == region.area]
        assert any(_is_tight(inside == k) and np.count_nonzero(inside == k) == region.area for k in own)
        assert 0.5 <= region.mean <= region.peak <= 1
    assert [r.peak for r in findings.regions] == sorted((r.peak for r in findings.regions), reverse=True)
    assert findings.abnormal is bool(findings.regions)


def _is_tight(mask: np.ndarray) -> bool:
    return bool(mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any())


def test_small_components_are_dropped_by_the_area_on_the_models_grid() -> None:
    heat = blobs((4, 4, 7, 7), (30, 30, 40, 40))
    assert len(read(heat, Geometry(64, 64, SIZE), min_area=9).regions) == 2
    assert len(read(heat, Geometry(2000, 1900, SIZE), min_area=10).regions) == 1


def test_diagonal_neighbours_are_one_component() -> None:
    assert len(read(blobs((4, 4, 8, 8), (8, 8, 12, 12)), Geometry(300, 300, SIZE)).regions) == 1


def test_an_image_below_the_image_threshold_has_no_finding() -> None:
    heat = blobs((30, 30, 40, 40), inside=1.0)
    assert read(heat, Geometry(64, 64, SIZE), image_threshold=0.7).abnormal is True
    below = read(heat, Geometry(64, 64, SIZE), image_threshold=0.8)
    assert below.abnormal is False
    assert below.regions == ()
    assert below.mask is not None
    assert not below.mask.any()
    assert below.score == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_not_a_negative(bad: float) -> None:
    heat = blobs()
    heat[5, 5] = bad
    findings = read(heat, Geometry(100, 100, SIZE))
    assert findings.abnormal is None
    assert math.isnan(findings.score)
    assert findings.mask is None
    assert findings.notes == (OUTPUT_INVALID,)


def test_no_answer_is_not_a_negative() -> None:
    assert interpret(RawItem(None), card(), "only", Geometry(100, 100, SIZE)).abnormal is None
    nan_score = RawItem(blobs(), score=math.nan)
    assert interpret(nan_score, card(), "only", Geometry(100, 100, SIZE)).abnormal is None


@pytest.mark.parametrize(("score", "abnormal"), [(0.9, True), (0.1, False)])
def test_without_a_map_the_score_decides(score: float, abnormal: bool) -> None:
    findings = interpret(RawItem(None, score=score), card(image_threshold=0.5), "only", Geometry(100, 100, SIZE))
    assert findings.abnormal is abnormal
    assert findings.mask is None
    assert findings.score == pytest.approx(score)


def test_an_unknown_operating_point_is_an_error() -> None:
    with pytest.raises(KeyError):
        interpret(RawItem(blobs()), card(), "screening", Geometry(100, 100, SIZE))


def test_the_score_is_the_mean_of_the_hottest_pixels() -> None:
    prob = np.zeros((512, 512), dtype=np.float32)
    prob[0, :50] = 1.0
    assert heat_score(prob, 512) == pytest.approx(0.5)
    assert heat_score(prob[:256, :256], 256) == pytest.approx(1.0)  # 25 pixels count there


def test_calibration_moves_probabilities_the_right_way() -> None:
    logits = np.array([2.0], dtype=np.float32)
    assert pixel_probability(logits, 2.0)[0] == pytest.approx(1 / (1 + math.exp(-1)))
    platt = [Calibration(temperature=1, slope=a, intercept=b) for a, b in ((3.0, 0.0), (1.0, 0.0), (1.0, 1.0))]
    assert image_probability(0.5, platt[0]) == pytest.approx(0.5)
    assert image_probability(0.0, platt[1]) < 1e-5
    assert image_probability(0.3, platt[2]) > 0.3


def test_knots_replace_platt_scaling() -> None:
    isotonic = Calibration(temperature=1.0, slope=1.0, intercept=9.0, knots=((0.2, 0.1), (0.4, 0.5), (0.6, 0.5)))
    assert [image_probability(raw, isotonic) for raw in (0.0, 0.2, 0.3, 0.5, 0.9)] == pytest.approx(
        [0.1, 0.1, 0.3, 0.5, 0.5]
    )


@pytest.mark.parametrize("knots", [((0.4, 0.1), (0.2, 0.5)), ((0.2, 0.5), (0.4, 0.1)), ((0.2, 0.1), (0.2, 0.3))])
def test_knots_that_do_not_ascend_are_refused(knots: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        Calibration(temperature=1.0, slope=1.0, intercept=0.0, knots=knots)


@pytest.mark.parametrize("peak", [1.0, 4.0])
def test_a_relative_threshold_follows_the_peak_of_the_image(peak: float) -> None:
    heat = blobs((10, 10, 30, 30), inside=peak - 3)
    heat[16:24, 16:24] = peak
    geometry = Geometry(64, 64, SIZE)
    (wide,) = read(heat, geometry, threshold=0.05).regions
    (narrow,) = read(heat, geometry, threshold=0.05, relative_threshold=0.8).regions
    assert (wide.area, narrow.area) == (400, 64)
    assert read(heat, geometry, threshold=0.99, relative_threshold=0.5).regions == ()


@given(st.integers(0, 10_000), st.integers(0, 30))
def test_dropping_small_components_keeps_the_others_whole(seed: int, min_area: int) -> None:
    mask = np.random.default_rng(seed).random((24, 31)) < 0.35
    kept = drop_small(mask, min_area)
    before, count = label(mask)
    for index in range(1, count + 1):
        component = before == index
        assert kept[component].all() if component.sum() >= min_area else not kept[component].any()
    assert not (kept & ~mask).any()
