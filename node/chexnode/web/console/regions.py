"""The regions that a structured report outlines (PS3.16 TID 1410), as shapes over the picture. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

_MEASUREMENT_GROUP = "125007"  # DCM
_CERTAINTY = "111012"  # DCM, Certainty of Finding
_AREA = "42798000"  # SCT
_MOST_POINTS = 5_000
_MOST_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Outline:
    """One region."""

    number: int
    points: str
    """As an SVG polygon has them, in pixels of the image: (0, 0) is the top left of its first pixel."""
    certainty: float | None
    """In [0, 1]."""
    area: float | None
    """Square millimetres, where the image is calibrated."""


def outlines(report: Dataset) -> list[Outline]:
    """The outlined regions of a TID 1500 report, in its order; whatever else it holds is passed over."""
    found: list[Outline] = []
    for group in _groups(report, 0):
        items = list(group.get("ContentSequence") or ())
        shape = next((item for item in items if item.get("ValueType") == "SCOORD"), None)
        data = [float(value) for value in (shape.get("GraphicData") or ())] if shape is not None else []
        if len(data) < 6 or len(data) > 2 * _MOST_POINTS:
            continue
        points = " ".join(f"{x:g},{y:g}" for x, y in zip(data[::2], data[1::2], strict=False))
        certainty = _number(items, _CERTAINTY)
        found.append(
            Outline(len(found) + 1, points, None if certainty is None else certainty / 100, _number(items, _AREA))
        )
    return found


def _groups(item: Dataset, depth: int) -> Iterator[Dataset]:
    if depth > _MOST_DEPTH:
        return
    for child in item.get("ContentSequence") or ():
        if _code(child) == _MEASUREMENT_GROUP:
            yield child
        else:
            yield from _groups(child, depth + 1)


def _code(item: Dataset) -> str:
    names = list(item.get("ConceptNameCodeSequence") or [])
    return str(names[0].get("CodeValue", "")) if names else ""


def _number(items: list[Dataset], code: str) -> float | None:
    for item in items:
        values = list(item.get("MeasuredValueSequence") or [])
        if item.get("ValueType") == "NUM" and _code(item) == code and values:
            return float(values[0].NumericValue)
    return None
