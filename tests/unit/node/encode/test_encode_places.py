"""One lesion, one place: from the stored pixels of a file to every object that tells of it.

The phantom's lesion has the shape of an L and lies off both axes, so that nothing flipped, turned or transposed would
fit. A network that sees brightness marks it; everything else is the worker's own code.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from highdicom.sr import GraphicTypeValues, srread
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset

from chexmodels.bundle import Calibration, ModelCard, OperatingPoint, find, read_card
from chexmodels.dicom.part10 import ReadLimits, read
from chexmodels.finding import Findings
from chexmodels.interpret import interpret
from chexmodels.model import RawItem
from chexnode.encode.caption import COLOUR, caption
from chexnode.encode.heat import heat_caption
from chexnode.encode.objects import encode
from chexnode.encode.picture import Layout, lay_out
from chexnode.encode.source import Source, sanitise
from chexnode.vocabulary.variants import GspsForm, ResultKind, Variant
from chexnode.work.prepared import Prepared, prepare_file
from support.radiographs import GEOMETRY, PROVENANCE, part10, radiograph

SEG, SC, SR, GSPS = ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.GSPS
GRID = 512

#: Shape, polarity and attributes; the pixels are square where nothing else is said.
CASES: dict[str, tuple[tuple[int, int], str, dict[str, Any]]] = {
    "MONOCHROME2": ((512, 512), "MONOCHROME2", {}),
    "MONOCHROME1": ((512, 512), "MONOCHROME1", {}),
    "odd sizes": ((601, 503), "MONOCHROME2", {}),
    "odd sizes, MONOCHROME1": ((333, 1001), "MONOCHROME1", {}),
    "large": ((3000, 2500), "MONOCHROME2", {}),
    "large, MONOCHROME1": ((3000, 2500), "MONOCHROME1", {}),
    "tall pixels": ((400, 800), "MONOCHROME2", {"ImagerPixelSpacing": [0.2, 0.1]}),
    "wide pixels, MONOCHROME1": ((901, 700), "MONOCHROME1", {"ImagerPixelSpacing": [0.1, 0.15]}),
    "aspect ratio only": ((400, 600), "MONOCHROME2", {"ImagerPixelSpacing": None, "PixelAspectRatio": [3, 2]}),
    "no spacing": ((512, 400), "MONOCHROME1", {"ImagerPixelSpacing": None}),
    "placed in the patient": ((512, 400), "MONOCHROME2", {"ImagerPixelSpacing": None, **GEOMETRY}),
}


def lesion_of(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the L: upper half, right of the middle; its foot points to the right."""
    rows, columns = shape
    mask = np.zeros(shape, bool)
    mask[rows * 10 // 100 : rows * 40 // 100, columns * 60 // 100 : columns * 70 // 100] = True
    mask[rows * 32 // 100 : rows * 40 // 100, columns * 60 // 100 : columns * 90 // 100] = True
    return mask


@dataclass(frozen=True)
class Case:
    """One phantom on its way through the node."""

    truth: NDArray[np.bool_]
    source: Source
    prepared: Prepared
    findings: Findings
    results: dict[Variant, bytes]

    def dataset(self, kind: ResultKind, form: str) -> Dataset:
        return dcmread(BytesIO(self.results[Variant.parse(kind, form)]))


@cache
def case(name: str) -> Case:
    shape, photometric, attributes = CASES[name]
    header = radiograph("CR", shape, photometric, **{"ImagerPixelSpacing": [0.14, 0.14], **attributes})
    truth = lesion_of(shape)
    y, x = np.mgrid[: shape[0], : shape[1]]
    grey = (8000 + 6000 * y / shape[0] + 6000 * x / shape[1] + 30000 * truth).astype("<u2")
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelData = (65535 - grey if photometric == "MONOCHROME1" else grey).tobytes()
    header["PixelData"].VR = "OW"
    prepared = prepare_file(read(part10(header), ReadLimits()), GRID, "letterbox", ReadLimits())
    findings = interpret(RawItem((prepared.image - 0.65) * 40), card(), "only", prepared.geometry)
    source = sanitise(prepared.header)
    wanted = [
        *(Variant.parse(SEG, profile) for profile in ("planar", "full", "none")),
        *(Variant.parse(SC, form) for form in ("rgb", "jpeg", "heat")),
        *(Variant.parse(SR, form) for form in ("comprehensive3d-box-planar", "comprehensive-contour-noseg")),
        Variant(GspsForm()),
    ]
    provenance = replace(PROVENANCE, heat_kind="probability")
    results = encode(source, prepared.display, findings, provenance, wanted)
    return Case(truth, source, prepared, findings, {each.variant: each.data for each in results})


def card() -> ModelCard:
    point = OperatingPoint(threshold=0.5, min_area=4, image_threshold=0.0, sensitivity=1.0, clean_normals=1.0)
    plain = Calibration(temperature=1.0, slope=1.0, intercept=0.0)
    changed = {"operating_points": MappingProxyType({"only": point}), "calibration": plain}
    return read_card(find("phantom64")).model_copy(update=changed)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


def filled(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels inside a polygon of (column, row) points, (0, 0) the image's top left corner."""
    picture = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in (points - 0.5).tolist()], fill=1)
    return np.asarray(picture)


every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_the_mask_is_on_the_lesion(name: str) -> None:
    found = case(name)
    assert found.findings.mask is not None
    assert len(found.findings.regions) == 1
    assert overlap(found.findings.mask, found.truth) > 0.93
    for turned in (found.truth[::-1], found.truth[:, ::-1], found.truth[::-1, ::-1]):
        assert overlap(found.findings.mask, turned) < 0.3


@every_case
@pytest.mark.parametrize("profile", ["planar", "full", "none"])
def test_the_segmentation_is_the_mask(name: str, profile: str) -> None:
    found = case(name)
    ds = found.dataset(SEG, profile)
    assert (ds.Rows, ds.Columns) == found.truth.shape
    assert np.array_equal(ds.pixel_array.astype(bool), found.findings.mask)


@every_case
def test_the_presentation_states_outline_is_around_the_lesion(name: str) -> None:
    found = case(name)
    annotation = next(
        a for a in found.dataset(GSPS, "outline").GraphicAnnotationSequence if "GraphicObjectSequence" in a
    )
    (graphic,) = annotation.GraphicObjectSequence
    points = np.array(graphic.GraphicData).reshape(-1, 2)
    assert overlap(filled(points, found.truth.shape), found.truth) > 0.93


@every_case
def test_the_reports_outlines_are_around_the_lesion(name: str) -> None:
    found = case(name)
    rows, columns = np.flatnonzero(found.truth.any(axis=1)), np.flatnonzero(found.truth.any(axis=0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    cell = max(found.truth.shape) / GRID  # what the model's grid can tell
    for form, is_box in (("comprehensive3d-box-planar", True), ("comprehensive-contour-noseg", False)):
        report = srread(BytesIO(found.results[Variant.parse(SR, form)]))
        regions = report.content.get_planar_roi_measurement_groups(graphic_type=GraphicTypeValues.POLYLINE)
        (points,) = [group.roi.value for group in regions]
        around = (*points.min(axis=0), *points.max(axis=0))
        assert np.abs(np.subtract(around, box)).max() <= 2 * cell + 2
        if not is_box:
            assert overlap(filled(points, found.truth.shape), found.truth) > 0.93


def radiograph_part(ds: Dataset, layout: Layout) -> NDArray[np.int64]:
    assert (ds.Rows, ds.Columns) == (layout.rows, layout.columns)
    part = ds.pixel_array[layout.y : layout.y + layout.height, layout.x : layout.x + layout.width]
    return np.asarray(part, np.int64)


def scaled(mask: NDArray[np.bool_], layout: Layout) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize((layout.width, layout.height), Image.Resampling.NEAREST))


@every_case
@pytest.mark.parametrize("encoding", ["rgb", "jpeg"])
def test_the_captures_outline_is_around_what_is_bright_on_it(name: str, encoding: str) -> None:
    """Colour pixels counted: a ring all around the lesion, and none of it anywhere else."""
    found = case(name)
    texts = caption(found.findings, PROVENANCE, found.source.described)
    layout = lay_out(found.prepared.display.shape, texts, found.source.pixel_aspect_ratio)
    rgb = radiograph_part(found.dataset(SC, encoding), layout)
    truth = scaled(found.truth, layout)
    red = np.abs(rgb - COLOUR).max(axis=-1) < 60
    rows, columns = np.nonzero(truth)
    ring = np.argwhere(red)
    cell = 2 * max(truth.shape) / GRID + 8
    assert np.abs(ring.min(axis=0) - (rows.min(), columns.min())).max() <= cell
    assert np.abs(ring.max(axis=0) - (rows.max(), columns.max())).max() <= cell
    inside, outside = _shrunk(truth, round(cell)), ~_grown(truth, round(cell))
    assert not red[inside].any()
    assert not red[outside].any()
    assert np.count_nonzero(red) > 2 * (np.ptp(rows) + np.ptp(columns))
    grey = rgb[..., 1]
    assert grey[inside].min() > 150, "the lesion is not bright on the picture"
    assert np.median(grey[outside]) < 120, "the picture is a negative"


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    padded = np.pad(mask, by)
    rows = np.lib.stride_tricks.sliding_window_view(padded, 2 * by + 1, axis=0).any(axis=-1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(rows, 2 * by + 1, axis=1).any(axis=-1))


def _shrunk(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    return ~_grown(~mask, by)


@every_case
def test_the_heat_is_on_the_lesion(name: str) -> None:
    found = case(name)
    provenance = replace(PROVENANCE, heat_kind="probability")
    layout = lay_out(
        found.prepared.display.shape,
        heat_caption(found.findings, provenance, found.source.described),
        found.source.pixel_aspect_ratio,
        3,
    )
    rgb = radiograph_part(found.dataset(SC, "heat"), layout)
    assert overlap(np.ptp(rgb, axis=-1) > 60, scaled(found.truth, layout)) > 0.9


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("tall pixels", 2.0 * 400 / 800), ("wide pixels, MONOCHROME1", 901 / 700 / 1.5), ("aspect ratio only", 1.0),
     ("odd sizes", 601 / 503), ("no spacing", 512 / 400)],
)  # fmt: skip
def test_the_captures_pixels_are_square(name: str, ratio: float) -> None:
    """The lesion is as wide and high on the picture as it was on the detector."""
    found = case(name)
    truth_rows, truth_columns = (np.flatnonzero(found.truth.any(axis=axis)) for axis in (1, 0))
    ds = found.dataset(SC, "rgb")
    assert not {"PixelSpacing", "PixelAspectRatio", "ImagerPixelSpacing"} & set(ds.dir())
    red = np.argwhere(np.abs(ds.pixel_array.astype(int) - COLOUR).max(axis=-1) < 60)
    red = red[red[:, 0] < ds.Rows * 0.6]  # not the words
    height, width = np.ptp(red, axis=0) + 1
    expected = ratio * (np.ptp(truth_rows) / found.truth.shape[0]) / (np.ptp(truth_columns) / found.truth.shape[1])
    assert height / width == pytest.approx(expected, rel=0.08)


def nrrd(path: Path) -> tuple[dict[str, str], NDArray[np.int16]]:
    """Return the fields and the (rows, columns) of a single slice, as dcmqi writes it."""
    header, _, data = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    assert (fields["type"], fields["encoding"], fields["endian"]) == ("short", "gzip", "little")
    columns, rows, slices = map(int, fields["sizes"].split())
    assert slices == 1
    return fields, np.frombuffer(gzip.decompress(data), "<i2").reshape(rows, columns)


@every_case
def test_dcmqi_reads_the_full_profile_into_the_right_pixels(name: str, tmp_path: Path) -> None:
    """The engine of 3D Slicer's QuantitativeReporting: first element fastest along the row, first row first."""
    found = case(name)
    (tmp_path / "seg.dcm").write_bytes(found.results[Variant.parse(SEG, "full")])
    tool = Path(sys.executable).with_name("segimage2itkimage")  # of dcmqi, installed beside us
    arguments = ["--inputDICOM", "seg.dcm", "--outputDirectory", ".", "-t", "nrrd", "-p", "out"]
    subprocess.run([tool, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    fields, labels = nrrd(tmp_path / "out-1.nrrd")
    assert np.array_equal(labels == 1, found.findings.mask)
    assert set(np.unique(labels)) == {0, 1}
    directions = np.array([part.split(",") for part in fields["space directions"].strip("()").split(") (")], float)
    row_spacing, column_spacing = found.source.spacing or (1.0, 1.0)
    if name == "placed in the patient":
        assert np.allclose(directions[:2], [[0.2, 0, 0], [0, 0, -0.2]])
        assert np.allclose(np.array(fields["space origin"].strip("()").split(","), float), [-150, -200, -180])
    else:
        assert np.allclose(directions[:2], [[column_spacing, 0, 0], [0, row_spacing, 0]])
        assert fields["space origin"] == "(0,0,0)"
