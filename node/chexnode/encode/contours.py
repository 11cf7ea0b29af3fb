"""The outline of a region as a closed polygon, for reports (SCOORD) and presentation states (POLYLINE) alike.

Coordinates are those that both share (PS3.3 C.18.6.1.2 and C.10.5.1.2): column, row, with sub-pixel resolution;
``(0.0, 0.0)`` is the top left corner of the top left pixel, ``(columns, rows)`` the bottom right one of the last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chexmodels.finding import Region
from chexmodels.postprocess import label

#: Points of an outline. Graphic Data (FL) has a length of 16 bits in Explicit VR (PS3.5 7.1.2): 8191 would fit.
MOST_POINTS = 2048

#: Twice the pixels of a model's longer side: half a step of its grid in the source's pixels is cut off each corner.
_HALF_STEPS = 768

#: Column and row steps to the right, down, left and up: each is a right turn from the one before.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outline(mask: NDArray[np.bool_], region: Region) -> NDArray[np.float32]:
    """Return the outer boundary of ``region`` in ``mask`` (H, W), clockwise as seen: (N + 1, 2) float32, closed.

    It is simplified: no point of the pixels' own boundary is farther from it than a thousandth of the image's longest
    side (but a pixel at least), nor than a tenth of the region's shorter side; if that leaves too many points for a
    DICOM element, twice as far, and so on. On large images the steps of the model's own coarser pixels are smoothed
    before, which moves the outline as little again. Holes are not told. Raises ValueError if the mask has no such
    region.
    """
    tolerance = min(max(1.0, max(mask.shape) / 1000), min(_sides(region)) / 10)
    steps = boundary(component(mask, region))
    cut = min(max(mask.shape) / _HALF_STEPS, min(_sides(region)) / 10)
    polygon = simplified(without_corners(steps, cut) if cut >= 1 else steps, tolerance)
    while len(polygon) > MOST_POINTS:
        tolerance *= 2
        polygon = simplified(polygon, tolerance)
    return np.asarray(polygon + np.array([region.box.x0, region.box.y0], np.float32), np.float32)


def topmost(mask: NDArray[np.bool_], region: Region) -> int:
    """Return the column in the middle of the highest row of ``region``, where a label stands at the outline."""
    columns = np.flatnonzero(mask[region.box.y0, region.box.x0 : region.box.x1])
    return region.box.x0 + (int(columns[len(columns) // 2]) if len(columns) else 0)


def component(mask: NDArray[np.bool_], region: Region) -> NDArray[np.bool_]:
    """Return the pixels of ``region`` alone, cut out of ``mask`` by its box: (height, width) bool.

    Of all 8-connected components only one can touch all four sides of a box. Raises ValueError if none does.
    """
    box = region.box
    labels, _count = label(mask[box.y0 : box.y1, box.x0 : box.x1])
    if labels.size and labels.shape == _sides(region):
        sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        touching = set.intersection(*(set(np.unique(side).tolist()) for side in sides)) - {0}
        for number in touching:
            inside = np.asarray(labels == number, np.bool_)
            if np.count_nonzero(inside) == region.area:
                return inside
    raise ValueError(f"the mask has no region of {region.area} pixels in {box}")


def boundary(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Follow the pixel edges around the outside of one 8-connected component; (N + 1, 2) float32 corners, closed.

    Starts at the top left corner of the first pixel and runs clockwise. Where two pixels meet at a corner only, the
    way leads on to the other one, so that the outline stays in one piece.
    """
    columns = inside.shape[1]
    padded = np.pad(inside, 1)
    above, below = padded[:-1], padded[1:]
    # An edge that starts at a vertex has the component on its right hand; (rows + 1, columns + 1) vertices.
    starts = tuple(
        edges.tobytes()
        for edges in (
            below[:, 1:] & ~above[:, 1:],  # right: along the top of the pixel below and right of the vertex
            below[:, :-1] & ~below[:, 1:],  # down: along the right of the pixel below and left
            above[:, :-1] & ~below[:, :-1],  # left: along the bottom of the pixel above and left
            above[:, 1:] & ~above[:, :-1],  # up: along the left of the pixel above and right
        )
    )
    ahead = tuple(x + y * (columns + 1) for x, y in _STEPS)
    first = starts[0].find(1)
    if first < 0:
        raise ValueError("there is no boundary of nothing")
    corners, at, direction = [first], first + ahead[0], 0
    while at != first or direction != 3:
        left, right = (direction - 1) % 4, (direction + 1) % 4
        if starts[left][at]:
            corners.append(at)
            direction = left
        elif not starts[direction][at]:
            corners.append(at)
            direction = right
        at += ahead[direction]
    corners.append(first)
    y, x = np.divmod(np.array(corners), columns + 1)
    return np.stack((x, y), axis=1).astype(np.float32)


def without_corners(polygon: NDArray[np.float32], cut: float) -> NDArray[np.float32]:
    """Cut each corner of a closed polygon (N + 1, 2) off, ``cut`` pixels or half the side's length around it.

    Stairs become straight (Chaikin, Computer Graphics and Image Processing 3(4), 1974, 346-349, with a bound).
    """
    start, end = polygon[:-1], polygon[1:]
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    share = np.minimum(cut / np.maximum(length, 1e-6), 0.5)
    pairs = np.stack((start + (end - start) * share, end - (end - start) * share), axis=1).reshape(-1, 2)
    return np.asarray(np.concatenate((pairs, pairs[:1])), np.float32)


def simplified(polygon: NDArray[np.float32], tolerance: float) -> NDArray[np.float32]:
    """Leave out points of a closed polygon (N + 1, 2) that lie within ``tolerance`` of what remains.

    Douglas and Peucker, Cartographica 10(2), 1973, 112-122, on the two halves between the first point and the one
    farthest from it.
    """
    last = len(polygon) - 1
    far = int(np.argmax(np.linalg.norm(polygon - polygon[0], axis=1)))
    kept = np.zeros(len(polygon), np.bool_)
    kept[[0, far, last]] = True
    todo = [(0, far), (far, last)]
    while todo:
        low, high = todo.pop()
        if high - low < 2:
            continue
        distances = _distances(polygon[low + 1 : high], polygon[low], polygon[high])
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance:
            middle = low + 1 + worst
            kept[middle] = True
            todo += [(low, middle), (middle, high)]
    return np.asarray(polygon[kept], np.float32)


def _distances(points: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of each of ``points`` (N, 2) from the segment between ``a`` and ``b``."""
    along = b - a
    length = float(along @ along)
    share = np.clip((points - a) @ along / length, 0, 1) if length else np.zeros(len(points), np.float32)
    return np.asarray(np.linalg.norm(points - a - share[:, np.newaxis] * along, axis=1), np.float32)


def _sides(region: Region) -> tuple[int, int]:
    return region.box.y1 - region.box.y0, region.box.x1 - region.box.x0
