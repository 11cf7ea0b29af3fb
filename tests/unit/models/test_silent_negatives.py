"""Headers that hide an image from the model when taken at their word: windows of other pixels, shutters, High Bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from chexmodels.dicom.decode import decode
from chexmodels.pixels import to_image
from support.radiographs import radiograph

SHAPE = (96, 80)


def sixteen_bits(values: np.ndarray, bits: int, **attributes: Any) -> Dataset:
    ds = radiograph("CR", SHAPE, **attributes)
    ds.BitsAllocated, ds.BitsStored = 16, bits
    ds.HighBit = attributes.get("HighBit", bits - 1)
    ds.PixelData = values.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def drawn(top: int) -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.rint(top * (0.1 + 0.8 * (np.sin(x / 25) ** 2 + y / SHAPE[0]) / 2))


def seen(ds: Dataset) -> np.ndarray:
    return to_image(ds, decode(ds)).pixels


@pytest.mark.parametrize(("center", "width"), [("2047", "4095"), ("-600", "1600"), ("40", "400"), ("40", "2")])
def test_a_window_of_other_pixels_is_ignored_and_noted(center: str, width: str) -> None:
    values = drawn(16383)
    ds = sixteen_bits(values, 14, WindowCenter=center, WindowWidth=width)
    image = to_image(ds, decode(ds))
    np.testing.assert_allclose(image.pixels, seen(sixteen_bits(values, 14)), atol=1e-6)
    assert image.notes == ("window-ignored",)


def test_the_next_window_stands_in_for_one_of_other_pixels() -> None:
    values = drawn(16383)
    ds = sixteen_bits(values, 14, WindowCenter=["40", "8000"], WindowWidth=["400", "15000"])
    image = to_image(ds, decode(ds))
    assert (image.choice.voi, image.notes) == (1, ("window-ignored",))


@pytest.mark.parametrize(
    "shutter",
    [
        {"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 11, "ShutterRightVerticalEdge": 70,
         "ShutterUpperHorizontalEdge": 11, "ShutterLowerHorizontalEdge": 86},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [11, 11, 11, 70, 86, 70, 86, 11]},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [48, 40], "RadiusOfCircularShutter": 30},
    ],
)  # fmt: skip
def test_what_a_shutter_covers_is_black_and_counts_nowhere(shutter: dict[str, Any]) -> None:
    values = drawn(3000)
    ds = sixteen_bits(values, 14, **shutter)
    covered = seen(ds) == 0
    assert covered[[0, -1, 0], [0, -1, -1]].mean() > 0.2
    bright = values.copy()
    bright[:8] = 16383
    np.testing.assert_array_equal(seen(sixteen_bits(bright, 14, **shutter)), seen(ds))


def test_a_shutter_that_leaves_nothing_is_none() -> None:
    edges = {
        f"Shutter{name}Edge": 1 for name in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
    }
    values = drawn(3000)
    ds = sixteen_bits(values, 14, ShutterShape="RECTANGULAR", **edges)
    np.testing.assert_array_equal(seen(ds), seen(sixteen_bits(values, 14)))


def test_samples_in_the_upper_bits_are_shifted_down() -> None:
    values = drawn(4095)
    ds = sixteen_bits(values * 16 + 7, 12, HighBit=15)
    np.testing.assert_array_equal(decode(ds), values)
