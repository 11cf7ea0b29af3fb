"""On which side of the patient a region lies, as far as the image says so: absent rather than guessed."""

from __future__ import annotations

from typing import Literal

from chexmodels.finding import Box
from chexnode.encode.source import Source

Side = Literal["left", "right"]

#: Share of the image's width on either side of its middle where the patient's midline may well be. A region that
#: reaches into it has no side: patients stand off centre, and the heart and the mediastinum are of neither lung.
MIDLINE = 0.05


def side(source: Source, box: Box) -> Side | None:
    """Return the patient's side that ``box`` is wholly on, by Patient Orientation (PS3.3 C.7.6.1.1.1).

    Of a frontal radiograph, flipped or turned by a right angle or not: one direction must run mainly to the patient's
    left or right and the other mainly to head or feet. None for any other view, without an orientation, and near the
    middle of the image.
    """
    directions = [str(direction) for direction in source.ds.get("PatientOrientation") or ()]
    if len(directions) != 2:
        return None
    row, column = (direction[0] for direction in directions)
    if row in "LR" and column in "HF":
        towards, low, high = row, box.x0 / source.columns, box.x1 / source.columns
    elif column in "LR" and row in "HF":
        towards, low, high = column, box.y0 / source.rows, box.y1 / source.rows
    else:
        return None
    if low >= 0.5 + MIDLINE:
        return "left" if towards == "L" else "right"
    if high <= 0.5 - MIDLINE:
        return "right" if towards == "L" else "left"
    return None
