"""Headers drawn at random over one good chest: the model sees that chest, or the answer is not "no finding"."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from chexmodels import registry
from chexmodels.bundle import find
from chexmodels.dicom.decode import decode
from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import ReadLimits, read
from chexmodels.finding import Findings
from chexmodels.interpret import interpret
from chexmodels.pixels import Geometry, Reading
from chexmodels.stats import measure
from chexnode.settings.gate import GateSettings
from chexnode.triage.gate import settle, triage_pixels
from support.drawn import drawn_chest
from support.radiographs import part10, radiograph

SHAPE = (384, 352)
BORDER = 20
GRID = 64

windows = st.sampled_from(["none", "whole", "of 12 bits", "of a CT", "of nothing", "wrong and right", "one wide"])
headers = st.fixed_dictionaries(
    {
        "bits": st.sampled_from([8, 10, 12, 14, 16]),
        "is_signed": st.booleans(),
        "is_shifted": st.booleans(),
        "is_inverse": st.booleans(),
        "window": windows,
        "shutter": st.sampled_from(["none", "RECTANGULAR", "POLYGONAL", "CIRCULAR"]),
        "padding": st.booleans(),
        "overlay": st.sampled_from(["none", "own", "embedded"]),
        "slope": st.sampled_from([None, ("1", "0"), ("2.5", "-1024"), ("-1", "4095")]),
        "excess": st.sampled_from([0, 2, 4096]),
    }
)


def written(said: dict[str, Any]) -> Dataset:
    """The chest in a data set that says so; polarity is what the stored values are, slopes below 0 included."""
    bits, allocated = said["bits"], 8 if said["bits"] == 8 else 16
    top = 2**bits - 1
    dark_is_high = said["is_inverse"] != (said["slope"] is not None and said["slope"][0] == "-1")
    grey = 1 - drawn_chest(*SHAPE) if dark_is_high else drawn_chest(*SHAPE)
    stored = np.rint(grey * top * 0.96 + top * 0.02).astype(np.int64)
    ds = radiograph("CR", SHAPE, "MONOCHROME1" if said["is_inverse"] else "MONOCHROME2")
    for keyword in ("WindowCenter", "WindowWidth"):
        ds.pop(keyword, None)
    if said["shutter"] != "none":
        outside = covered(said["shutter"])
        stored[outside] = top
        _shutter(ds, said["shutter"])
    if said["padding"] and said["shutter"] == "none":
        stored[:, :BORDER] = 0
        ds.add_new(
            "PixelPaddingValue", "SS" if said["is_signed"] else "US", -(top + 1) // 2 if said["is_signed"] else 0
        )
    middle = (top + 1) / 2
    if said["is_signed"]:
        stored, middle = stored - (top + 1) // 2, -0.5
    cells = stored & top
    high_bit = bits - 1
    if said["overlay"] == "embedded" and bits == 12:
        cells |= marker() << 14
        for element, vr, value in ((0x40, "CS", "G"), (0x50, "SS", [1, 1]), (0x100, "US", 16), (0x102, "US", 14)):
            ds.add_new(0x60000000 | element, vr, value)
    elif said["is_shifted"] and bits < allocated:
        cells, high_bit = cells << (allocated - bits), allocated - 1
    if said["overlay"] == "own":
        data = np.packbits(marker().astype(bool), bitorder="little").tobytes()
        for element, vr, value in (
            (0x10, "US", SHAPE[0]), (0x11, "US", SHAPE[1]), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
            (0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", data),
        ):  # fmt: skip
            ds.add_new(0x60000000 | element, vr, value)
    slope, intercept = (1.0, 0.0)
    if said["slope"] is not None:
        ds.RescaleSlope, ds.RescaleIntercept = said["slope"]
        slope, intercept = map(float, said["slope"])
    _window(ds, said["window"], middle * slope + intercept, (top + 1) * abs(slope))
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, high_bit, said["is_signed"]
    ds.PixelData = cells.astype(f"<u{allocated // 8}").tobytes() + b"\0" * said["excess"]
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return read(part10(ds), ReadLimits()).dataset()


def marker() -> NDArray[np.int64]:
    drawn = np.zeros(SHAPE, np.int64)
    drawn[30:60, 20:26] = drawn[54:60, 20:40] = 1
    return drawn


def covered(shape: str) -> NDArray[np.bool_]:
    y, x = np.mgrid[1 : SHAPE[0] + 1, 1 : SHAPE[1] + 1]
    if shape == "CIRCULAR":
        return (y - 192) ** 2 + (x - 176) ** 2 > 215**2
    inside = (y > BORDER) & (y <= SHAPE[0] - BORDER) & (x > BORDER) & (x <= SHAPE[1] - BORDER)
    return ~inside


def _shutter(ds: Dataset, shape: str) -> None:
    ds.ShutterShape = shape
    low, bottom, right = BORDER + 1, SHAPE[0] - BORDER, SHAPE[1] - BORDER
    if shape == "RECTANGULAR":
        ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge = low, right
        ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge = low, bottom
    elif shape == "POLYGONAL":
        ds.VerticesOfThePolygonalShutter = [low, low, low, right, bottom, right, bottom, low]
    else:
        ds.CenterOfCircularShutter, ds.RadiusOfCircularShutter = [192, 176], 215


def _window(ds: Dataset, kind: str, center: float, width: float) -> None:
    right = f"{center:.6g}", f"{width:.6g}"
    said = {
        "whole": [right], "of 12 bits": [("2047", "4095")], "of a CT": [("-600", "1600")], "of nothing": [("40", "1")],
        "wrong and right": [("40", "400"), right], "one wide": [(f"{center:.6g}", f"{2.5 * width:.6g}")],
    }.get(kind)  # fmt: skip
    if said:
        ds.WindowCenter, ds.WindowWidth = ([each[n] for each in said] for n in (0, 1))


LIKE = 0.85
"""Correlation with the plain picture. A window that is too tight or too wide changes contrast, and the shipped model
reads past that: 0.94 to 0.96 for what correlates by 0.86 to 0.98, against 0.96 for the plain picture."""
MOST_DIFFERENT = 0.05
"""Mean difference to the plain picture above which something is noted."""
PLAIN = {
    "bits": 12, "is_signed": False, "is_shifted": False, "is_inverse": False, "window": "none", "shutter": "none",
    "padding": False, "overlay": "none", "slope": None, "excess": 0,
}  # fmt: skip


@cache
def plain_picture() -> NDArray[np.float32]:
    found = seen(PLAIN)
    assert found is not None
    return found[0]


def seen(said: dict[str, Any], size: int = GRID) -> tuple[NDArray[np.float32], tuple[str, ...]] | None:
    """What the model gets and what is noted; None where the image is refused, with a code."""
    ds = written(said)
    try:
        reading = Reading(ds, decode(ds))
    except DecodeError:
        return None
    image = reading.image()
    reason, notes = triage_pixels(measure(image), GateSettings())
    if reason is not None:
        return None
    return Geometry(*SHAPE, size).forward(image.pixels), (*image.notes, *notes)


@given(headers)
@settings(derandomize=True, max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_model_sees_the_chest_or_the_answer_is_no_negative(said: dict[str, Any]) -> None:
    found = seen(said)
    if found is None:
        return
    picture, notes = found
    shown = np.ones(SHAPE, np.float32)
    if said["shutter"] != "none":
        shown[covered(said["shutter"])] = 0
    elif said["padding"]:
        shown[:, :BORDER] = 0
    inside = Geometry(*SHAPE, GRID).forward(shown) > 0.99
    likeness = np.corrcoef(picture[inside], plain_picture()[inside])[0, 1]
    if not likeness >= LIKE:
        answer = settle(Findings(None, None, (), 0.0, False, "", notes=notes))
        assert answer.abnormal is None, (said, float(likeness), notes)
    if np.abs(picture - plain_picture())[inside].mean() > MOST_DIFFERENT:
        assert notes, said


def test_score_and_boxes_stay_for_every_kind_of_header() -> None:
    """The shipped model itself, on one header of each kind."""
    model = registry.load(find("chexnomaly"), torch.device("cpu"))
    changes: list[dict[str, Any]] = [
        {}, {"bits": 16, "is_signed": True, "window": "of a CT"}, {"bits": 14, "window": "of 12 bits"},
        {"bits": 10, "is_shifted": True, "is_inverse": True}, {"shutter": "RECTANGULAR"}, {"overlay": "own"},
        {"slope": ("-1", "4095"), "window": "wrong and right"}, {"overlay": "embedded", "window": "of nothing"},
    ]  # fmt: skip
    pictures = [seen({**PLAIN, **change}, model.card.size) for change in changes]
    batch = torch.from_numpy(np.stack([picture[0] for picture in pictures if picture is not None])[:, None])
    assert len(batch) == len(changes)
    with torch.inference_mode():
        raws = model(batch).items()
    geometry = Geometry(*SHAPE, model.card.size)
    left = np.ones(SHAPE, np.float32)
    left[covered("RECTANGULAR")] = 0
    with torch.inference_mode():
        (raw,) = model(batch[:1] * torch.from_numpy(geometry.forward(left))).items()
    what_is_left = interpret(raw, model.card, "second_reader", geometry)
    plain, *others = (interpret(raw, model.card, "second_reader", geometry) for raw in raws)
    assert plain.abnormal
    for change, found in zip(changes[1:], others, strict=True):
        assert found.score == pytest.approx(plain.score, abs=0.08), change
        expected = what_is_left if "shutter" in change else plain
        largest, box = (max(each.regions, key=lambda region: region.area).box for each in (expected, found))
        far = max(abs(a - b) for a, b in zip(_corners(box), _corners(largest), strict=True))
        assert far <= SHAPE[0] / 16, change


def _corners(box: Any) -> tuple[int, int, int, int]:
    return box.x0, box.y0, box.x1, box.y1
