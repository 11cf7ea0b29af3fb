"""Display Shutter (PS3.3 C.7.6.11): what lies outside of the exposed field and is not to be looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pydicom.dataset import Dataset

from chexmodels.dicom.overlays import GROUPS, plane
from chexmodels.dicom.values import numbers, texts, unsigned

SHUTTER_APPLIED = "shutter-applied"
_LEAST_LEFT = 0.02
"""Share of the image that a shutter leaves; one that leaves less does not belong to it."""
_EDGES = tuple(f"Shutter{name}Edge" for name in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal"))


def declared(ds: Dataset) -> Dataset:
    """Return the module's elements of the shapes that are complete and valid: rectangle, circle and polygon."""
    shapes, shutter = {shape.upper() for shape in texts(ds, "ShutterShape")}, Dataset()
    edges = [numbers(ds, keyword, 1) for keyword in _EDGES]
    center, radius = numbers(ds, "CenterOfCircularShutter", 2), numbers(ds, "RadiusOfCircularShutter", 1)
    vertices = numbers(ds, "VerticesOfThePolygonalShutter") or ()
    found = []
    if "RECTANGULAR" in shapes and all(edges):
        found.append("RECTANGULAR")
        for keyword, edge in zip(_EDGES, edges, strict=True):
            setattr(shutter, keyword, round(edge[0]) if edge else 0)
    if "CIRCULAR" in shapes and center and radius:
        found.append("CIRCULAR")
        shutter.CenterOfCircularShutter = [round(each) for each in center]
        shutter.RadiusOfCircularShutter = round(radius[0])
    if "POLYGONAL" in shapes and len(vertices) >= 6 and len(vertices) % 2 == 0:
        found.append("POLYGONAL")
        shutter.VerticesOfThePolygonalShutter = [round(each) for each in vertices]
    if found:
        shutter.ShutterShape = found
        shutter.ShutterPresentationValue = unsigned(ds, "ShutterPresentationValue") or 0
    return shutter


def shuttered(ds: Dataset, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Which pixels (rows, columns) the shutters cover; None where there are none, or they would cover the image.

    Rows and columns are counted from 1 (C.7.6.11.1): edges and vertices belong to what is shown. A bitmap (C.7.6.15)
    covers where its overlay plane has bits.
    """
    shutter = declared(ds)
    shapes = texts(shutter, "ShutterShape")
    y, x = np.ogrid[1 : rows + 1, 1 : columns + 1]
    shown = np.ones((rows, columns), np.bool_)
    if "RECTANGULAR" in shapes:
        left, right, upper, lower = (int(shutter[keyword].value) for keyword in _EDGES)
        shown &= (x >= left) & (x <= right) & (y >= upper) & (y <= lower)
    if "CIRCULAR" in shapes:
        row, column = map(int, shutter.CenterOfCircularShutter)
        shown &= (y - row) ** 2 + (x - column) ** 2 <= int(shutter.RadiusOfCircularShutter) ** 2
    if "POLYGONAL" in shapes:
        vertices = [int(each) - 1 for each in shutter.VerticesOfThePolygonalShutter]
        inside = Image.new("1", (columns, rows))
        points = [(column, row) for row, column in zip(vertices[::2], vertices[1::2], strict=True)]
        ImageDraw.Draw(inside).polygon(points, fill=1, outline=1)
        shown &= np.asarray(inside)
    group = unsigned(ds, "ShutterOverlayGroup") or 0
    if group in GROUPS and "BITMAP" in {shape.upper() for shape in texts(ds, "ShutterShape")}:
        covering = plane(ds, group, rows, columns)
        if covering is not None:
            shown &= ~covering
    covered = ~shown
    return covered if covered.any() and shown.mean() >= _LEAST_LEFT else None


def anatomy_covered(covered: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Widen what shutters cover (rows, columns) by the pixel at their edges, which vendors count in or out."""
    grown = Image.fromarray(covered.view(np.uint8)).filter(ImageFilter.MaxFilter(3))
    return np.asarray(grown).astype(np.bool_)
