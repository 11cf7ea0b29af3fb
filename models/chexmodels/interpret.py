"""From a network's raw answer on one image to findings in source pixels: one pure function for all models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from chexmodels.bundle import Manifest, Role
from chexmodels.calibration import calibrated_heat, image_score, raw_score
from chexmodels.finding import Box, Findings, Region
from chexmodels.model import RawItem
from chexmodels.pixels import Geometry
from chexmodels.postprocess import label, mark

OUTPUT_INVALID = "model-output-invalid"
"""Note: the network answered with nothing, or with NaN or infinity; the image counts as not evaluated."""


OUT_OF_DISTRIBUTION = "out-of-distribution"
"""Note: the image is none of the kind that the model learnt from; it never counts as negative."""


MODELS_DISAGREE = "models-disagree"
"""Note: the localiser and the scorer of a stack differ on whether anything is abnormal."""


def is_out_of_scope(raw: RawItem, card: Manifest) -> bool:
    """Whether the model, or any of a stack, says that the image is none of the kind that it learnt from."""
    if raw.members is not None:
        return any(is_out_of_scope(part, card.members[role]) for role, part in raw.members.items())
    return card.scope is not None and raw.distance is not None and raw.distance > card.scope.threshold


def interpret(raw: RawItem, card: Manifest, operating_point: str, geometry: Geometry) -> Findings:
    """From what a model, or a stack of them, said of an image to findings; raises KeyError for an unknown point.

    :data:`OUT_OF_DISTRIBUTION` is among the notes where it :func:`is_out_of_scope`. Of a stack each member is read by
    its own calibration and operating point, in its own grid, and :func:`_joined` to the others.
    """
    if raw.members is not None:
        parts = {
            role: interpret(
                part,
                card.members[role],
                operating_point,
                replace(geometry, size=card.members[role].size, mode=card.members[role].geometry),
            )
            for role, part in raw.members.items()
        }
        return _joined(parts, card)
    found = _interpret(raw, card, operating_point, geometry)
    return replace(found, notes=(*found.notes, OUT_OF_DISTRIBUTION)) if is_out_of_scope(raw, card) else found


def _joined(parts: Mapping[Role, Findings], card: Manifest) -> Findings:
    """One answer of a stack's: everything of the localiser, the classes of the classifier.

    The scorer's verdict is a second opinion: where it differs from the localiser's, :data:`MODELS_DISAGREE` is noted,
    and nothing that was marked is taken back. Without a localiser the scorer's answer stands, and without both the
    classifier's. The notes of all are kept.
    """
    roles: tuple[Role, ...] = ("localiser", "scorer", "classifier")
    first = next(parts[role] for role in roles if role in parts)
    notes = dict.fromkeys(note for role in roles if role in parts for note in parts[role].notes)
    verdicts = {parts[role].abnormal for role in roles[:2] if role in parts} - {None}
    if len(verdicts) > 1:
        notes[MODELS_DISAGREE] = None
    classes = parts["classifier"].classes if "classifier" in parts else first.classes
    return replace(first, model=card.title, classes=classes, notes=tuple(notes))


def _interpret(raw: RawItem, card: Manifest, operating_point: str, geometry: Geometry) -> Findings:
    """Calibrate, threshold, take components, drop small ones, map back to the source.

    With a heat map an image is abnormal exactly if something is marked: its score reaches the operating point's image
    threshold and a component is large enough. Without one the score alone decides. An answer that is absent or not
    finite gives ``abnormal=None`` and a NaN score, never a negative. Raises KeyError for an unknown operating point.
    """
    point = card.operating_points[operating_point]
    if not _is_usable(raw):
        return Findings(None, None, (), math.nan, None, card.title, notes=(OUTPUT_INVALID,))
    classes = {} if raw.classes is None else dict(zip(card.classes, map(float, expit(raw.classes)), strict=True))
    if raw.heat is None:
        score = image_score(raw.score if raw.score is not None else max(classes.values()), card.calibration)
        return Findings(None, None, (), score, score >= point.image_threshold, card.title, classes)
    heat = calibrated_heat(raw.heat, card.calibration)
    content = geometry.content
    inside = slice(content.y0, content.y1), slice(content.x0, content.x1)  # the letterbox border shows nothing
    raw_image = raw.score
    if raw_image is None:
        raw_image = raw_score(raw.heat[inside], heat[inside], card.size, card.calibration)
    score = image_score(raw_image, card.calibration)
    square = np.zeros(heat.shape, dtype=np.bool_)
    square[inside] = mark(heat[inside], score, point)
    regions = _regions(square, heat, geometry)
    return Findings(
        heat=geometry.inverse_heat(heat),
        mask=geometry.inverse_mask(square),
        regions=regions,
        score=score,
        abnormal=bool(regions),
        model=card.title,
        classes=classes,
    )


def _is_usable(raw: RawItem) -> bool:
    parts = [np.asarray(part) for part in raw[:4] if part is not None]
    return bool(parts) and all(np.isfinite(part).all() for part in parts)


def _regions(square: NDArray[np.bool_], calibrated: NDArray[np.float32], geometry: Geometry) -> tuple[Region, ...]:
    """Components of ``geometry.inverse_mask(square)``, measured without making that mask.

    The way back repeats or skips whole rows and columns of the model's grid. Labelling the grid lines that are used,
    and counting how often each is, gives the very components, boxes and areas of the source mask at a fraction of the
    cost.
    """
    rows, columns = geometry.cells()
    row_cells, row_starts, row_counts = np.unique(rows, return_index=True, return_counts=True)
    column_cells, column_starts, column_counts = np.unique(columns, return_index=True, return_counts=True)
    used = np.ix_(row_cells, column_cells)
    labels, _ = label(square[used])
    weights = np.outer(row_counts, column_counts)
    heat = calibrated[used]
    regions = []
    for index, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[y, x] == index
        weight = weights[y, x][inside]
        values = heat[y, x][inside]
        box = Box(
            int(column_starts[x.start]),
            int(row_starts[y.start]),
            int(column_starts[x.stop - 1] + column_counts[x.stop - 1]),
            int(row_starts[y.stop - 1] + row_counts[y.stop - 1]),
        )
        mean = float(np.average(values, weights=weight))
        regions.append(Region(box, int(weight.sum()), float(values.max()), mean))
    return tuple(sorted(regions, key=lambda region: -region.peak))
