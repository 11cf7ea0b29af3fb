"""The place of the lesion in the objects themselves: the Segmentation's mask, the report's and the presentation state's
coordinates, the Secondary Capture's picture. What OHIF makes of them is tested next door."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from highdicom.seg import Segmentation
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from chexnode.encode.caption import COLOUR
from chexnode.vocabulary.variants import ResultKind
from viewers import screen
from viewers.cases import CASES, Case
from viewers.screen import Mask


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_lesion_keeps_its_place_in_every_object(case: Case) -> None:
    for turned in (case.mask[::-1], case.mask[:, ::-1], case.mask[::-1, ::-1]):
        assert not (case.mask & turned).any(), "the case would not show that it was turned"
    results = {each.variant.kind: dcmread(BytesIO(each.data)) for each in case.results(case.findings)}
    assert np.array_equal(segmented(results[ResultKind.SEG], case), case.mask)

    simplified = 1 + -(-max(case.shape) // 1000)  # contours leave out what is nearer than a thousandth of the image
    (scoord,) = [item for item in content(results[ResultKind.SR]) if item.ValueType == "SCOORD"]
    reported = inside(scoord.GraphicData, case.shape)
    if case.outline == "box":
        assert np.array_equal(reported, case.box_mask)
    else:
        screen.assert_covers(reported, case.mask, simplified)

    (outline,) = outlines(results[ResultKind.GSPS])
    screen.assert_covers(inside(outline.GraphicData, case.shape), case.mask, simplified)

    picture = results[ResultKind.SC].pixel_array
    image = screen.find_frame(picture)
    assert image is not None
    assert image.aspect == pytest.approx(case.aspect, rel=0.01)
    drawn = screen.coloured(picture, COLOUR) & image.place(np.ones(case.shape, bool), picture)
    screen.assert_surrounds(drawn, image.place(case.mask, picture), gap=12)


def segmented(ds: Dataset, case: Case) -> Mask:
    """The mask as highdicom reads it for the source image."""
    seg = Segmentation.from_dataset(ds)
    frames = seg.get_pixels_by_source_instance([case.dataset.SOPInstanceUID], ignore_spatial_locations=True)
    return np.asarray(frames[0, :, :, 0], bool)


def content(item: Dataset) -> Iterator[Dataset]:
    """All content items of a report below ``item``."""
    for child in item.get("ContentSequence", ()):
        yield child
        yield from content(child)


def outlines(ds: Dataset) -> list[Dataset]:
    """The closed polylines of a presentation state, which are in pixels of the image."""
    found = [each for item in ds.GraphicAnnotationSequence for each in item.get("GraphicObjectSequence", ())]
    assert {each.GraphicAnnotationUnits for each in found} == {"PIXEL"}
    return [each for each in found if each.GraphicType == "POLYLINE"]


def inside(graphic_data: list[float], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels' centres a polyline of (column, row) encloses, where 0, 0 is the corner of the first one."""
    points = np.asarray(graphic_data, float).reshape(-1, 2)
    assert np.array_equal(points[0], points[-1])
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int) - 2, 0)
    x1, y1 = np.ceil(points.max(axis=0)).astype(int) + 2
    y, x = np.mgrid[y0 : min(y1, shape[0]), x0 : min(x1, shape[1])]
    mask = np.zeros(shape, bool)
    enclosed = Polygon(points).contains_points(np.column_stack((x.ravel() + 0.5, y.ravel() + 0.5)))
    mask[y0 : min(y1, shape[0]), x0 : min(x1, shape[1])] = enclosed.reshape(x.shape)
    return mask
