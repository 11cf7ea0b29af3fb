"""What eyes are shown is what viewers show: windows, shutters, overlays; DCMTK judges."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from chexmodels.dicom.decode import decode
from chexmodels.dicom.overlays import drawn_groups
from chexmodels.pixels import Reading, to_image, to_screen
from support.radiographs import part10, radiograph
from support.servers import find_tool

SHAPE = (96, 80)
RECTANGLE = {"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 11, "ShutterRightVerticalEdge": 70,
             "ShutterUpperHorizontalEdge": 11, "ShutterLowerHorizontalEdge": 86}  # fmt: skip


def twelve_bits(**attributes: Any) -> Dataset:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    values = np.rint(4000 * (0.1 + 0.8 * (np.sin(x / 25) ** 2 + y / SHAPE[0]) / 2)).astype("<u2")
    ds = radiograph("CR", SHAPE, BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=values.tobytes(), **attributes)
    ds["PixelData"].VR = "OW"
    return ds


def with_overlay(ds: Dataset, group: int = 0x6000, origin: tuple[int, int] = (1, 1)) -> NDArray[np.bool_]:
    """Add an overlay plane and return the pixels that it covers."""
    bits = np.zeros(SHAPE, np.bool_)
    bits[20:50, 12:16] = bits[46:50, 12:30] = True
    for element, vr, value in (
        (0x10, "US", SHAPE[0]), (0x11, "US", SHAPE[1]), (0x40, "CS", "G"), (0x50, "SS", list(origin)),
        (0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", np.packbits(bits, bitorder="little").tobytes()),
    ):  # fmt: skip
        ds.add_new(group << 16 | element, vr, value)
    return np.roll(bits, (origin[0] - 1, origin[1] - 1), (0, 1))


def seen_by_dcmtk(ds: Dataset, folder: Path, tool: str, *options: str) -> NDArray[np.int64]:
    source, out = folder / "image.dcm", folder / "out.pgm"
    source.write_bytes(part10(ds))
    subprocess.run([find_tool(tool, "dcmtk"), "-q", *options, source, out], check=True, capture_output=True, timeout=60)
    return np.asarray(Image.open(out).convert("L"), np.int64)


@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": "4096", "WindowWidth": "16384"},
        {"WindowCenter": "1500", "WindowWidth": "2000"},
        {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "4000", "WindowWidth": "7000"},
    ],
)
def test_grey_levels_are_within_two_of_a_viewers(
    window: dict[str, Any], photometric_interpretation: str, tmp_path: Path
) -> None:
    ds = twelve_bits(PhotometricInterpretation=photometric_interpretation, **window)
    theirs = seen_by_dcmtk(ds, tmp_path, "dcmp2pgm")
    ours = to_screen(ds, decode(ds)).astype(int)
    assert np.ptp(theirs) > 40
    assert np.abs(ours - theirs).max() <= 2


def test_without_a_window_a_picture_of_few_levels_is_not_left_dark() -> None:
    ds = twelve_bits()
    ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") // 8).tobytes()
    assert np.ptp(to_screen(ds, decode(ds))) == 255


@pytest.mark.parametrize("origin", [(1, 1), (11, -4)])
def test_overlays_are_drawn_where_a_viewer_draws_them(origin: tuple[int, int], tmp_path: Path) -> None:
    ds = twelve_bits()
    covered = with_overlay(ds, origin=origin)
    theirs = seen_by_dcmtk(ds, tmp_path, "dcmj2pnm", "--write-raw-pnm")
    ours = to_screen(ds, decode(ds)).astype(int)
    covered &= theirs == 255
    assert covered.sum() > 100
    assert (ours[covered] == 255).all()
    assert np.abs(ours - theirs).max() <= 2
    plain = twelve_bits()
    np.testing.assert_array_equal(to_image(ds, decode(ds)).pixels, to_image(plain, decode(plain)).pixels)


def test_an_overlay_in_the_upper_bits_is_drawn_and_no_part_of_the_samples() -> None:
    plain, ds = twelve_bits(), twelve_bits()
    values = np.frombuffer(ds.PixelData, "<u2").reshape(SHAPE).copy()
    values[10:40, 20:25] |= 1 << 13
    ds.PixelData = values.tobytes()
    for element, vr, value in ((0x40, "CS", "G"), (0x50, "SS", [1, 1]), (0x100, "US", 16), (0x102, "US", 13)):
        ds.add_new(0x60020000 | element, vr, value)
    assert drawn_groups(ds, *SHAPE) == (0x6002,)
    screen = to_screen(ds, decode(ds))
    assert (screen[10:40, 20:25] == 255).all()
    np.testing.assert_array_equal(screen[50:], to_screen(plain, decode(plain))[50:])
    np.testing.assert_array_equal(to_image(ds, decode(ds)).pixels, to_image(plain, decode(plain)).pixels)


@pytest.mark.parametrize(
    "damage",
    [{0x10: 0}, {0x3000: b"\1\0"}, {0x50: [500, 500]}, {0x3000: b"\xff" * 960}, {0x3000: bytes(960)}],
)
def test_an_overlay_that_shows_nothing_is_none(damage: dict[int, Any]) -> None:
    ds = twelve_bits()
    with_overlay(ds)
    for element, value in damage.items():
        ds[0x60000000 | element].value = value
    assert drawn_groups(ds, *SHAPE) == ()
    assert (to_screen(ds, decode(ds)) < 255).any()


def test_a_shutter_covers_the_picture_and_is_noted() -> None:
    ds = twelve_bits(**RECTANGLE)
    values = np.frombuffer(ds.PixelData, "<u2").reshape(SHAPE).copy()
    values[:10] = values[86:] = values[:, :10] = values[:, 70:] = 4095
    ds.PixelData = values.tobytes()
    reading = Reading(ds, decode(ds))
    screen = reading.screen()
    assert not screen[:10].any()
    assert not screen[:, 70:].any()
    inner = np.frombuffer(twelve_bits().PixelData, "<u2").reshape(SHAPE)[11:85, 11:69]
    expected = np.rint(inner / 4095 * 255)
    assert np.abs(screen[11:85, 11:69] - expected).max() <= 1
    assert reading.notes == ("shutter-applied",)
    ds.ShutterPresentationValue = 0x8000
    assert to_screen(ds, decode(ds))[0, 0] == 0x80


def test_edges_counted_in_or_out_make_no_difference_to_the_model() -> None:
    """Some vendors count the edge as covered: one line of raw values must not take the grey scale."""
    ds = twelve_bits(**RECTANGLE)
    values = np.frombuffer(ds.PixelData, "<u2").reshape(SHAPE).copy()
    plain = to_image(ds, decode(ds)).pixels
    values[:11] = values[85:] = values[:, :11] = values[:, 69:] = 4095
    ds.PixelData = values.tobytes()
    np.testing.assert_array_equal(to_image(ds, decode(ds)).pixels, plain)


def test_a_bitmap_shutter_covers_and_is_not_drawn() -> None:
    ds = twelve_bits(ShutterShape="BITMAP", ShutterOverlayGroup=0x6000)
    covered = with_overlay(ds)
    assert not to_screen(ds, decode(ds))[covered].any()
    assert not to_image(ds, decode(ds)).pixels[covered].any()
    assert drawn_groups(ds, *SHAPE) == ()
