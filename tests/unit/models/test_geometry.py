"""A model square and back: every size and aspect ratio, to within one model pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexmodels.finding import Box
from chexmodels.pixels import Geometry, Mode

sides = st.integers(1, 200) | st.sampled_from([1, 2, 3, 501])
geometries = st.builds(Geometry, sides, sides, st.sampled_from([16, 33, 64]), st.sampled_from(["letterbox", "squash"]))


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int) -> Box:
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Box(x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))


def filled(shape: tuple[int, int], box: Box) -> np.ndarray:
    mask = np.zeros(shape, np.bool_)
    mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return mask


@given(geometries)
def test_content_lies_in_the_square_and_keeps_the_aspect(geometry: Geometry) -> None:
    box = geometry.content
    assert 0 <= box.x0 < box.x1 <= geometry.size
    assert 0 <= box.y0 < box.y1 <= geometry.size
    height, width = box.y1 - box.y0, box.x1 - box.x0
    if geometry.mode == "squash":
        assert (height, width) == (geometry.size, geometry.size)
    else:
        assert max(height, width) == geometry.size
        scale = geometry.size / max(geometry.rows, geometry.columns)
        assert abs(height - geometry.rows * scale) <= 0.5 or height == 1
        assert abs(width - geometry.columns * scale) <= 0.5 or width == 1


@given(geometries, st.data())
@settings(deadline=None)
def test_a_mask_comes_back_to_within_one_model_pixel(geometry: Geometry, data: st.DataObject) -> None:
    box = data.draw(boxes(geometry.rows, geometry.columns))
    source = filled((geometry.rows, geometry.columns), box)
    back = geometry.inverse_mask(geometry.forward(source.astype(np.float32)) >= 0.5)
    content = geometry.content
    # one model pixel in source pixels, rounded up
    down, across = -(-geometry.rows // (content.y1 - content.y0)), -(-geometry.columns // (content.x1 - content.x0))
    around = Box(max(0, box.x0 - across), max(0, box.y0 - down), box.x1 + across, box.y1 + down)
    within = Box(box.x0 + across, box.y0 + down, max(0, box.x1 - across), max(0, box.y1 - down))
    assert not (back & ~filled(back.shape, around)).any()
    assert back[within.y0 : within.y1, within.x0 : within.x1].all()


@given(geometries)
def test_a_full_mask_covers_the_image_and_an_empty_one_nothing(geometry: Geometry) -> None:
    square = np.ones((geometry.size, geometry.size), np.bool_)
    assert geometry.inverse_mask(square).all()
    assert not geometry.inverse_mask(~square).any()
    assert geometry.inverse_mask(square).shape == (geometry.rows, geometry.columns)


@given(geometries)
def test_what_lies_in_the_border_is_outside_the_image(geometry: Geometry) -> None:
    border = ~filled((geometry.size, geometry.size), geometry.content)
    assert not geometry.inverse_mask(border).any()
    assert not geometry.inverse_heat(border.astype(np.float32)).any()
    forward = geometry.forward(np.ones((geometry.rows, geometry.columns), np.float32))
    assert not forward[border].any()
    np.testing.assert_allclose(forward[~border], 1, rtol=1e-5)


def test_heat_comes_back_where_it_was() -> None:
    geometry = Geometry(300, 100, 64)
    y, x = np.mgrid[:300, :100].astype(np.float32)
    image = np.exp(-((y - 200) ** 2 + (x - 30) ** 2) / 800).astype(np.float32)
    back = geometry.inverse_heat(geometry.forward(image))
    assert np.unravel_index(back.argmax(), back.shape) == pytest.approx((200, 30), abs=3)
    np.testing.assert_allclose(back, image, atol=0.08)


def test_reducing_averages_and_does_not_skip_pixels() -> None:
    image = np.zeros((640, 640), np.float32)
    image[::2] = 1  # taking every tenth row would see nothing, or only ones
    np.testing.assert_allclose(Geometry(640, 640, 64).forward(image)[2:-2], 0.5, atol=0.01)


@pytest.mark.parametrize("mode", ["letterbox", "squash"])
def test_arrays_of_another_shape_are_refused(mode: Mode) -> None:
    geometry = Geometry(10, 20, 16, mode)
    for call, shape in (
        (geometry.forward, (20, 10)),
        (geometry.inverse_heat, (10, 20)),
        (geometry.inverse_mask, (1, 1)),
    ):
        with pytest.raises(ValueError, match="shape"):
            call(np.zeros(shape, np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [(0, 1, 1, "squash"), (1, 0, 1, "squash"), (1, 1, 0, "squash"), (1, 1, 1, "crop")])
def test_impossible_geometries_are_refused(bad: tuple[int, int, int, Mode]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        Geometry(*bad)
