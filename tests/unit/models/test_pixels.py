"""The greyscale pipeline, step by step, against plain NumPy; and whatever vendors put into headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from chexmodels.dicom.errors import DecodeError
from chexmodels.pixels import Radiograph, from_picture, to_display, to_image
from chexmodels.stats import measure

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def header(**attributes: Any) -> Dataset:
    ds = Dataset()
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation = 16, 12, 0
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def lut(descriptor: list[int], data: Any) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return [item]


def expected(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, [0.5, 99.5])
    return np.clip((values - low) / (high - low), 0, 1)


@given(
    arrays(np.uint16, (17, 23), elements=st.integers(0, 65535)),
    st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, ">u2", ">i2"]),
)
@settings(deadline=None)
def test_clips_at_the_percentiles_that_numpy_gives(noise: np.ndarray, dtype: Any) -> None:
    pixels = noise.astype(dtype)
    image = to_image(header(), pixels)
    assert image.pixels.dtype == np.float32
    assert image.pixels.shape == pixels.shape
    exact = pixels.astype(np.float64)  # between int16 values far apart numpy's interpolation would overflow
    low, high = np.percentile(exact, [0.5, 99.5])
    if high > low:
        np.testing.assert_allclose(image.pixels, expected(exact), atol=1e-6)
    else:
        assert not image.pixels.any()


def test_a_constant_image_is_black_and_says_so() -> None:
    image = to_image(header(), np.full((70, 70), 77, np.uint16))
    assert not image.pixels.any()
    assert image.levels == 1


@pytest.mark.parametrize(
    ("attributes", "inverted", "notes"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, True, ()),
        ({"PhotometricInterpretation": " monochrome1 "}, True, ()),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True, ()),
        ({"PresentationLUTShape": "IDENTITY"}, False, ()),
        ({"PresentationLUTShape": "INVERSE"}, True, ("polarity-contradictory",)),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
            True,
            ("polarity-contradictory",),
        ),
    ],
)
def test_inverts_exactly_once(attributes: dict[str, str], inverted: bool, notes: tuple[str, ...]) -> None:
    image = to_image(header(**attributes), RAMP)
    plain = expected(RAMP.astype(float))
    np.testing.assert_allclose(image.pixels, 1 - plain if inverted else plain, atol=1e-6)
    assert image.notes == notes


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 3000), (1500.5, 3000.25), (1500, 4000)])
def test_windows_as_pydicom_does(function: str, center: float, width: float) -> None:
    ds = header(VOILUTFunction=function, WindowCenter=center, WindowWidth=width)
    np.testing.assert_allclose(to_image(ds, RAMP).pixels, expected(apply_windowing(RAMP, ds)), atol=1e-5)


def test_takes_the_first_of_several_windows() -> None:
    several = header(WindowCenter=[2000, 50], WindowWidth=[3000, 10])
    one = header(WindowCenter=2000, WindowWidth=3000)
    np.testing.assert_array_equal(to_image(several, RAMP).pixels, to_image(one, RAMP).pixels)


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": "NaN", "WindowWidth": "400"},
        {"WindowCenter": "2000", "WindowWidth": "NaN"},
        {"WindowCenter": "inf", "WindowWidth": "400"},
        {"WindowCenter": "2000", "WindowWidth": "0"},
        {"WindowCenter": "2000", "WindowWidth": "-5"},
        {"WindowCenter": "2000", "WindowWidth": "0.5"},
        {"WindowCenter": "2000"},
        {"WindowCenter": "2000", "WindowWidth": "400", "VOILUTFunction": "GAMMA"},
        {"WindowCenter": "1e9", "WindowWidth": "1"},  # valid, and would leave a black image
        {"VOILUTSequence": lut([256, 0, 16], list(range(10)))},
        {"VOILUTSequence": lut([4096, 0, 16], [7] * 4096)},
        {"VOILUTSequence": lut([4096, 0, 3], list(range(4096)))},
        {"VOILUTSequence": lut([4096, 0], list(range(4096)))},
        {"VOILUTSequence": lut([4096, 0, 16], b"\0")},
        {"VOILUTSequence": [Dataset()]},
    ],
)
def test_an_invalid_window_is_ignored_with_a_note(attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydicom.config.settings.reading_validation_mode", 0)
    image = to_image(header(**attributes), RAMP)
    np.testing.assert_allclose(image.pixels, expected(RAMP.astype(float)), atol=1e-6)
    assert image.notes == ("window-ignored",)


def test_a_voi_lut_goes_before_a_window() -> None:
    curve = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(np.uint16)
    ds = header(VOILUTSequence=lut([4096, 0, 16], curve.tobytes()), WindowCenter=100, WindowWidth=10)
    image = to_image(ds, RAMP)
    np.testing.assert_allclose(image.pixels, expected(curve[RAMP].astype(float)), atol=1e-6)
    assert image.notes == ()


def test_a_lut_declared_16_bit_that_holds_12_bit_values_makes_the_same_image() -> None:
    curve = (np.linspace(0, 1, 4096) ** 2 * 4095).astype(np.uint16).tobytes()
    honest = to_image(header(VOILUTSequence=lut([4096, 0, 12], curve)), RAMP)
    faulty = to_image(header(VOILUTSequence=lut([4096, 0, 16], curve)), RAMP)
    np.testing.assert_array_equal(honest.pixels, faulty.pixels)
    assert faulty.levels > 1000


def test_lut_entries_beyond_its_ends_repeat_and_bytes_may_be_packed() -> None:
    table = (np.arange(3000) // 12).astype(np.uint8)
    image = to_image(header(VOILUTSequence=lut([3000, 500, 8], table.tobytes())), RAMP)
    values = (np.clip(RAMP.astype(int) - 500, 0, 2999) // 12).astype(float)
    np.testing.assert_allclose(image.pixels, expected(values), atol=1e-6)


def test_the_modality_lut_comes_first_and_a_broken_one_is_noted() -> None:
    swapped = (4095 - np.arange(4096)).astype(np.uint16).tobytes()
    ds = header(ModalityLUTSequence=lut([4096, 0, 16], swapped), WindowCenter=2500, WindowWidth=2500)
    plain = header(WindowCenter=2500, WindowWidth=2500)
    np.testing.assert_allclose(to_image(ds, RAMP).pixels, to_image(plain, 4095 - RAMP).pixels, atol=1e-6)
    broken = to_image(header(ModalityLUTSequence=lut([4096, 0, 16], b"\0\0")), RAMP)
    assert broken.notes == ("modality-lut-ignored",)
    np.testing.assert_allclose(broken.pixels, expected(RAMP.astype(float)), atol=1e-6)


def test_rescale_shifts_the_window() -> None:
    ds = header(RescaleSlope=-2, RescaleIntercept=100, WindowCenter=-4000, WindowWidth=3000)
    window = np.clip((RAMP * -2.0 + 100 + 4000.5) / 2999 + 0.5, 0, 1)  # PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(to_image(ds, RAMP).pixels, expected(window), atol=1e-5)
    for slope in ("0", "NaN", "1e308"):
        assert to_image(header(RescaleSlope=slope, RescaleIntercept="0"), RAMP).notes == ("modality-lut-ignored",)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(photometric: str) -> None:
    pixels = RAMP.copy()
    pixels[:, :40] = 4000
    ds = header(PixelPaddingValue=4000, PhotometricInterpretation=photometric)
    image = to_image(ds, pixels)
    rest = expected(pixels[:, 40:].astype(float))
    assert not image.pixels[:, :40].any()
    inside = pixels[:, 40:] != 4000
    wanted = 1 - rest if photometric == "MONOCHROME1" else rest
    np.testing.assert_allclose(image.pixels[:, 40:][inside], wanted[inside], atol=2e-3)


def test_a_padding_range_counts_from_either_end() -> None:
    for value, limit in ((3000, 3500), (3500, 3000)):
        image = to_image(header(PixelPaddingValue=value, PixelPaddingRangeLimit=limit), RAMP)
        assert not image.pixels[(RAMP >= 3000) & (RAMP <= 3500)].any()
    everything = to_image(header(PixelPaddingValue=0, PixelPaddingRangeLimit=5000), RAMP)
    np.testing.assert_allclose(everything.pixels, expected(RAMP.astype(float)), atol=1e-6)


def test_pictures_come_on_the_same_scale(tmp_path: Path) -> None:
    grey = (np.mgrid[:80, :90][1] + 50).astype(np.uint8)
    Pillow.fromarray(grey).save(tmp_path / "grey.png")
    Pillow.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "colour.png")
    Pillow.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    wanted = expected(grey.astype(float))
    for name in ("grey.png", "colour.png", "deep.png"):
        np.testing.assert_allclose(from_picture(tmp_path / name).pixels, wanted, atol=1e-6)
    np.testing.assert_allclose(from_picture(grey).pixels, wanted, atol=1e-6)


def test_broken_and_oversized_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with pytest.raises(DecodeError) as broken:
        from_picture(tmp_path / "a.png")
    assert broken.value.failure == "undecodable"
    Pillow.new("L", (100, 100)).save(tmp_path / "b.png")
    with pytest.raises(DecodeError) as large:
        from_picture(tmp_path / "b.png", max_pixels=9999)
    assert large.value.failure == "decode-limit"


def test_display_is_reduced_never_enlarged() -> None:
    small = to_display(np.full((3, 5), 0.5, np.float32))
    assert (small.shape, small.dtype, int(small[0, 0])) == ((3, 5), np.dtype(np.uint8), 128)
    assert to_display(np.ones((300, 100), np.float32), longest=60).shape == (60, 20)


def test_statistics_tell_noise_from_a_picture() -> None:
    smooth = np.linspace(0, 1, 96, dtype=np.float32)[None] * np.ones((96, 1), np.float32)
    noise = np.random.default_rng(5).random((700, 600), np.float32)
    assert measure(Radiograph(smooth, (), 96)).autocorrelation > 0.9
    assert abs(measure(Radiograph(noise, (), 9999)).autocorrelation) < 0.3
    thin = measure(Radiograph(np.ones((1, 1), np.float32), (), 1))
    assert (thin.autocorrelation, thin.upright) == (0, 0)
