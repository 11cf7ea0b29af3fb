"""Heat maps: colour where the heat is, honest words and numbers, a series of their own, none where nothing is known."""

from __future__ import annotations

import dataclasses
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from chexmodels.finding import Findings
from chexnode.encode.heat import coloured, encode_heat, has_heat, heat_caption, render_heat, shown
from chexnode.encode.objects import encode
from chexnode.encode.picture import LONGEST, Layout, lay_out
from chexnode.encode.provenance import HeatKind
from chexnode.encode.source import sanitise
from chexnode.vocabulary.variants import FORMS, ResultKind, ScForm, Variant
from support.radiographs import PROVENANCE, hot, lesion, parsed, picture, radiograph

SC = ResultKind.SC
SHAPE = (601, 503)
HEAT_MAPS = [form for form in FORMS if isinstance(form, ScForm) and form.is_heat_map]


def heat_map(
    header: Dataset,
    form: ScForm = HEAT_MAPS[0],
    findings: Findings | None = None,
    kind: HeatKind = "anomaly",
) -> Dataset:
    """Encode a heat map through the worker's one call and read it back."""
    source = sanitise(parsed(header))
    shape = (source.rows, source.columns)
    provenance = dataclasses.replace(PROVENANCE, heat_kind=kind)
    (result,) = encode(source, picture(shape), findings or hot(shape), provenance, [Variant(form)])
    return dcmread(BytesIO(result.data))


def place(shape: tuple[int, int], kind: HeatKind = "anomaly", ratio: tuple[int, int] = (15, 14)) -> Layout:
    provenance = dataclasses.replace(PROVENANCE, heat_kind=kind)
    described = sanitise(parsed(radiograph())).described
    return lay_out(shape, heat_caption(hot(shape), provenance, described), ratio, 3)


def radiograph_part(ds: Dataset, layout: Layout) -> NDArray[np.int64]:
    assert (layout.rows, layout.columns) == (ds.Rows, ds.Columns)
    pixels = ds.pixel_array[layout.y : layout.y + layout.height, layout.x : layout.x + layout.width]
    return np.asarray(pixels, np.int64)


def colour(rgb: NDArray[np.int64]) -> NDArray[np.int64]:
    """How far each pixel is from grey."""
    return np.asarray(np.ptp(rgb, axis=-1))


@pytest.mark.parametrize("form", HEAT_MAPS, ids=str)
@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [(601, 503), (480, 1001), (3000, 2500), (333, 2500)])
def test_the_colour_is_where_the_heat_is(form: ScForm, photometric_interpretation: str, shape: tuple[int, int]) -> None:
    """The heat's centre is in the upper right; the picture below it stays the radiograph."""
    ds = heat_map(radiograph("CR", shape, photometric_interpretation), form)
    assert max(ds.Rows, ds.Columns) <= LONGEST
    found = colour(radiograph_part(ds, place(shape)))
    hottest = np.argwhere(found > 0.9 * found.max()).mean(axis=0) / found.shape
    assert np.abs(hottest - (0.1875, 0.75)).max() < 0.02
    assert found.max() > 100
    below = found[found.shape[0] // 2 :]
    assert below.max() <= (12 if form.encoding == "jpeg" else 3)


def test_without_heat_the_radiograph_is_as_it_was() -> None:
    cold = dataclasses.replace(hot(SHAPE), heat=np.zeros(SHAPE, np.float32))
    ds = heat_map(radiograph("CR", SHAPE, ImagerPixelSpacing=[0.1, 0.1]), findings=cold)
    part = radiograph_part(ds, place(SHAPE, ratio=(1, 1)))
    assert np.array_equal(part, np.repeat(picture(SHAPE)[..., np.newaxis], 3, axis=2))


@pytest.mark.parametrize("form", HEAT_MAPS, ids=str)
def test_it_is_a_second_secondary_capture(form: ScForm) -> None:
    header = radiograph("DX", SHAPE)
    ds = heat_map(header, form)
    assert (ds.SeriesNumber, ds.Modality) == (9202, "DX")
    assert ds.SeriesDescription == "AI Heat Map - NOT FOR DIAGNOSTIC USE"
    assert ds.file_meta.TransferSyntaxUID == (JPEGBaseline8Bit if form.encoding == "jpeg" else ExplicitVRLittleEndian)
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert ds.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
    assert "PixelSpacing" not in ds
    source, findings = sanitise(parsed(header)), hot(SHAPE)
    everything = [Variant(form) for form in FORMS if form.kind is SC]
    results = encode(source, picture(SHAPE), findings, PROVENANCE, everything)
    assert (
        len({each.uid for each in results}) == len({dcmread(BytesIO(r.data)).SeriesInstanceUID for r in results}) == 4
    )
    assert [r.data for r in encode(source, picture(SHAPE), findings, PROVENANCE, everything)] == [
        r.data for r in results
    ]


@pytest.mark.parametrize(
    ("kind", "says", "never"),
    [("probability", "calibrated probability", "anomaly"), ("anomaly", "not a probability", "calibrated")],
)
def test_it_is_called_what_the_card_calls_it(kind: HeatKind, says: str, never: str) -> None:
    caption = heat_caption(hot(SHAPE), dataclasses.replace(PROVENANCE, heat_kind=kind))
    words = " | ".join(line.text for line in (*caption.above, *caption.below))
    ds = heat_map(radiograph("CR", SHAPE), kind=kind)
    for text in (words, ds.DerivationDescription):
        assert says in text
        assert never not in text
    assert words.startswith("Research use only - not for diagnosis | ")
    assert "CheX-Nomaly 1.2.3" in words
    assert "Image score 87%" in words


def test_a_provenance_that_says_nothing_makes_it_no_probability() -> None:
    assert PROVENANCE.heat_kind == "anomaly"


def test_the_legend_has_every_colour_and_its_numbers() -> None:
    layout = place(SHAPE)
    rgb = render_heat(picture(SHAPE), np.zeros(SHAPE, np.float32), layout, "anomaly")
    strip = rgb[layout.y + layout.height : layout.y + layout.height + layout.legend].astype(int)
    found = colour(strip)
    columns = np.flatnonzero(found.max(axis=0) > 20)
    assert columns[0] < layout.columns / 2 < columns[-1]
    hue = found[:, columns[0] : columns[-1]].max(axis=0)
    assert (np.diff(np.convolve(hue, np.ones(9) / 9, "valid")) > -1e-9).all(), "heat does not rise to the right"
    white = (strip.min(axis=-1) > 200).any(axis=0)
    assert np.flatnonzero(np.diff(white[: layout.columns // 4].astype(int))).size, "no number at the left end"
    percent = render_heat(picture(SHAPE), np.zeros(SHAPE, np.float32), layout, "probability")
    assert not np.array_equal(rgb, percent), "a probability has other numbers than an anomaly's heat"


def test_what_a_normal_image_has_hardly_shows_and_what_is_rare_does() -> None:
    """Anomaly heat is a share of normal pixels: a normal image has all shares alike, and must not glow."""
    rare = shown(np.array([0.0, 0.5, 0.9, 0.99, 0.999, 1.0], np.float32), "anomaly")
    np.testing.assert_allclose(rare, [0, 0.1, 1 / 3, 2 / 3, 1, 1], atol=1e-3)
    normal = np.random.default_rng(0).uniform(size=SHAPE).astype(np.float32)
    assert np.mean(shown(normal, "anomaly") > 1 / 3) == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(shown(normal, "probability"), normal)


def lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB to CIELAB (D65)."""
    c = rgb / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.array(to_xyz).T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


@pytest.mark.parametrize("grey", [0, 32, 64, 96, 128, 160, 192, 224, 255])
def test_more_heat_is_further_from_grey_in_even_steps(grey: int) -> None:
    """Ten equal steps of heat are steps of CIELAB distance that differ by no more than a factor of four."""
    level = np.linspace(0, 255, 11).astype(np.uint8)
    colours = lab(coloured(level, np.full(11, grey, np.uint8)))
    from_grey = np.linalg.norm(colours - colours[0], axis=1)
    assert (np.diff(from_grey) > 1).all()
    assert from_grey[-1] > 60
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() / steps.min() < 4


@pytest.mark.parametrize(
    "findings",
    [
        lesion(SHAPE),
        dataclasses.replace(hot(SHAPE), abnormal=None),
        Findings(None, None, (), 0.9, True, "m", classes={"Mass": 0.9}),
    ],
)
def test_there_is_none_without_heat_and_of_nothing_evaluated(findings: Findings) -> None:
    assert not has_heat(findings)
    source = sanitise(parsed(radiograph("CR", SHAPE)))
    assert encode(source, picture(SHAPE), findings, PROVENANCE, [Variant(form) for form in HEAT_MAPS]) == []
    with pytest.raises(ValueError, match="no heat map"):
        encode_heat(source, picture(SHAPE), findings, PROVENANCE, "rgb")


def test_a_negative_image_has_its_heat_shown() -> None:
    assert heat_map(radiograph("CR", SHAPE), findings=dataclasses.replace(hot(SHAPE), abnormal=False, regions=()))


def test_heat_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="source image"):
        encode_heat(sanitise(radiograph("CR", SHAPE)), picture(SHAPE), hot((503, 601)), PROVENANCE, "rgb")
