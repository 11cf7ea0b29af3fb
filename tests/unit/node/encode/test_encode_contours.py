"""Outlines: exact on the pixels' edges, close to them once simplified, in one piece, where their region is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from chexmodels.finding import Box, Region
from chexmodels.postprocess import label
from chexnode.encode.contours import MOST_POINTS, boundary, component, outline, simplified


def regions(mask: NDArray[np.bool_]) -> list[Region]:
    """Return every component as the models describe it."""
    labels, _count = label(mask)
    found = []
    for number, (y, x) in enumerate(ndimage.find_objects(labels), 1):
        area = int((labels[y, x] == number).sum())
        found.append(Region(Box(x.start, y.start, x.stop, y.stop), area, 0.9, 0.5))
    return found


def filled(polygon: NDArray[np.float32], shape: tuple[int, int], zoom: int = 8) -> NDArray[np.bool_]:
    """Return which pixels' centres a polygon holds, drawn by Pillow on a finer grid."""
    picture = Image.new("1", (shape[1] * zoom, shape[0] * zoom))
    # Pillow's integer coordinates are pixel centres, ours corners: half a fine pixel between them
    ImageDraw.Draw(picture).polygon([tuple(p) for p in (polygon * zoom - 0.5).tolist()], fill=1)
    return np.asarray(picture)[zoom // 2 :: zoom, zoom // 2 :: zoom]


def area(polygon: NDArray[np.float32]) -> float:
    """Return the area inside a polygon, positive if it runs clockwise as seen (rows downwards)."""
    x, y = polygon.astype(np.float64).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:9, 11:27] = True
    (region,) = regions(mask)
    assert outline(mask, region).tolist() == [[11, 5], [27, 5], [27, 9], [11, 9], [11, 5]]


def test_the_whole_image_and_a_single_pixel_have_outlines() -> None:
    whole = np.ones((3, 4), bool)
    assert outline(whole, regions(whole)[0]).tolist() == [[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]
    pixel = np.zeros((3000, 2500), bool)
    pixel[2999, 2499] = True
    corners = [[2499, 2999], [2500, 2999], [2500, 3000], [2499, 3000], [2499, 2999]]
    assert outline(pixel, regions(pixel)[0]).tolist() == corners


def test_pixels_that_touch_at_a_corner_are_one_outline() -> None:
    for mask in (np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1]):
        polygon = boundary(mask)
        assert len(polygon) == 17
        assert area(polygon) == 4
        assert np.array_equal(filled(polygon, mask.shape), mask)


def test_a_hole_is_inside() -> None:
    ring = np.ones((5, 6), bool)
    ring[2, 2:4] = False
    assert boundary(ring).tolist() == [[0, 0], [6, 0], [6, 5], [0, 5], [0, 0]]


def test_a_region_inside_the_box_of_another_is_not_mistaken() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0], mask[:, 0] = True, True
    mask[4:7, 4:7] = True
    corner, square = regions(mask)
    assert corner.box == Box(0, 0, 9, 9)
    assert outline(mask, square).tolist() == [[4, 4], [7, 4], [7, 7], [4, 7], [4, 4]]
    assert np.count_nonzero(component(mask, corner)) == 17


@pytest.mark.parametrize(
    "region",
    [
        Region(Box(1, 1, 4, 4), 8, 0.9, 0.5),
        Region(Box(0, 1, 4, 4), 9, 0.9, 0.5),
        Region(Box(5, 5, 6, 6), 1, 0.9, 0.5),
        Region(Box(0, 0, 0, 0), 0, 0.9, 0.5),
        Region(Box(1, 1, 40, 4), 9, 0.9, 0.5),
    ],
)
def test_a_region_that_the_mask_does_not_have_is_refused(region: Region) -> None:
    mask = np.zeros((8, 8), bool)
    mask[1:4, 1:4] = True
    with pytest.raises(ValueError, match="no region"):
        outline(mask, region)


@settings(max_examples=150, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_every_boundary_is_the_component_without_its_holes(mask: NDArray[np.bool_]) -> None:
    for region in regions(mask):
        inside = component(mask, region)
        polygon = boundary(inside)
        solid = ndimage.binary_fill_holes(inside)
        assert np.array_equal(polygon[0], polygon[-1])
        assert area(polygon) == np.count_nonzero(solid)
        steps = np.diff(polygon, axis=0)
        assert ((steps != 0).sum(axis=1) == 1).all()
        horizontal = steps[:, 0] != 0
        assert (horizontal[1:] != horizontal[:-1]).all(), "a point that is no corner"


@settings(max_examples=60, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(2, 10), st.integers(2, 10))), st.integers(2, 7))
def test_simplifying_moves_no_boundary_further_than_it_may(coarse: NDArray[np.bool_], block: int) -> None:
    """Masks come from a coarse grid, so they have steps of many pixels."""
    mask = np.kron(coarse, np.ones((block, block), bool))
    for region in regions(mask):
        exact = boundary(component(mask, region))
        for tolerance in (0.5, 2.0):
            polygon = simplified(exact, tolerance)
            assert np.array_equal(polygon[0], polygon[-1])
            assert len(polygon) <= len(exact)
            assert {tuple(p) for p in polygon.tolist()} <= {tuple(p) for p in exact.tolist()}
            assert max(distance(point, polygon) for point in exact) <= tolerance + 1e-4


def distance(point: NDArray[np.float32], polygon: NDArray[np.float32]) -> float:
    """Return how far ``point`` is from a polygon's line."""
    a, b = polygon[:-1].astype(float), polygon[1:].astype(float)
    along = b - a
    share = (((point - a) * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-12)).clip(0, 1)
    return float(np.linalg.norm(point - a - share[:, np.newaxis] * along, axis=1).min())


@pytest.mark.parametrize("shape", [(512, 512), (3000, 2500), (501, 777)])
def test_a_round_lesion_keeps_its_shape_in_few_points(shape: tuple[int, int]) -> None:
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns]
    mask = ((y - rows * 0.3) / (rows * 0.1)) ** 2 + ((x - columns * 0.7) / (columns * 0.15)) ** 2 < 1
    (region,) = regions(mask)
    polygon = outline(mask, region)
    assert 12 <= len(polygon) <= 80
    assert abs(area(polygon) / np.count_nonzero(mask) - 1) < 0.03
    assert polygon.min() >= 0
    assert (polygon <= (columns, rows)).all()
    assert np.abs(polygon[:-1].mean(axis=0) - (columns * 0.7, rows * 0.3)).max() < 0.02 * max(shape)


@pytest.mark.parametrize("teeth", [40, 256])
def test_however_ragged_it_fits_into_an_element(teeth: int) -> None:
    """A comb on a grid of ten pixels, with teeth of every length."""
    comb = np.zeros((512, 2 * teeth), bool)
    for tooth in range(teeth):
        comb[: 20 + 97 * tooth % 480, 2 * tooth] = True
    comb[0] = True
    mask = np.kron(comb, np.ones((10, 10), bool))
    (region,) = regions(mask)
    exact, polygon = boundary(mask), outline(mask, region)
    assert len(exact) == 4 * teeth + 3
    assert 4 * min(teeth, 100) < len(polygon) <= MOST_POINTS
    assert np.array_equal(polygon[0], polygon[-1])


def test_a_cloud_of_thousands_of_corners_fits_too() -> None:
    cloud = np.random.default_rng(1).random((600, 600)) < 0.42
    mask = np.kron(cloud, np.ones((4, 4), bool))
    region = max(regions(mask), key=lambda each: each.area)
    assert len(boundary(component(mask, region))) > 8191
    assert 100 < len(outline(mask, region)) <= MOST_POINTS
