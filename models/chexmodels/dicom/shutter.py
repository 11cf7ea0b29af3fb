"""Display Shutter (PS3.3 C.7.6.11): what lies outside of the exposed field and is not to be looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from chexmodels.dicom.values import numbers, upper

_LEAST_LEFT = 0.02
"""Share of the image that a shutter leaves; one that leaves less does not belong to it."""


def shuttered(ds: Dataset, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Which pixels (rows, columns) the shutters cover; None where there are none, or they would cover the image.

    Rows and columns are counted from 1 (C.7.6.11.1): edges and vertices belong to what is shown.
    """
    shapes = upper(ds, "ShutterShape").split("\\")
    y, x = np.ogrid[1 : rows + 1, 1 : columns + 1]
    shown = np.ones((rows, columns), np.bool_)
    if "RECTANGULAR" in shapes:
        names = ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
        edges = [numbers(ds, f"Shutter{name}Edge", 1) for name in names]
        if all(edges):
            left, right, upper_edge, lower = (edge[0] for edge in edges if edge)
            shown &= (x >= left) & (x <= right) & (y >= upper_edge) & (y <= lower)
    if "CIRCULAR" in shapes:
        center, radius = numbers(ds, "CenterOfCircularShutter", 2), numbers(ds, "RadiusOfCircularShutter", 1)
        if center and radius:
            shown &= (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius[0] ** 2
    if "POLYGONAL" in shapes:
        vertices = numbers(ds, "VerticesOfThePolygonalShutter") or ()
        if len(vertices) >= 6 and len(vertices) % 2 == 0:
            inside = Image.new("1", (columns, rows))
            points = [(column - 1, row - 1) for row, column in zip(vertices[::2], vertices[1::2], strict=True)]
            ImageDraw.Draw(inside).polygon(points, fill=1, outline=1)
            shown &= np.asarray(inside)
    covered = ~shown
    return covered if covered.any() and shown.mean() >= _LEAST_LEFT else None
