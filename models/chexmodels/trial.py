"""A bundle on trial: it is run on drawn pictures, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from chexmodels.bundle import BundleError, Manifest
from chexmodels.interpret import OUTPUT_INVALID, interpret
from chexmodels.model import RawItem
from chexmodels.pixels import Geometry
from chexmodels.registry import load


def pictures(size: int) -> torch.Tensor:
    """``(5,1,S,S)`` in [0,1]: black, white, noise, a slope, and two dark ovals on grey as lungs are."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    lungs = np.full((size, size), 0.7, dtype=np.float32)
    for centre in (0.3, 0.7):
        lungs[((x - centre) / 0.16) ** 2 + ((y - 0.45) / 0.3) ** 2 < 1] = 0.25
    noise = np.random.default_rng(0).random((size, size), dtype=np.float32)
    drawn = np.stack([np.zeros_like(x), np.ones_like(x), noise, (x + y) / 2, lungs])
    return torch.from_numpy(np.ascontiguousarray(drawn)[:, None])


def faults(folder: Path, operating_point: str | None = None) -> list[str]:
    """What does not fit in the bundle in ``folder``, one sentence each; empty: nothing.

    ``operating_point``: the one that is to be used; None: any. Raises ``BundleError`` where the bundle cannot be read,
    or its network not be run.
    """
    model = load(folder)
    card = model.card
    images = pictures(card.size)
    try:
        items = [item for image in images for item in model(image[None]).items()]
    except (RuntimeError, ValueError, TypeError, IndexError, StopIteration) as error:
        raise BundleError(f"{folder}: the network cannot be run: {error}") from error
    found: list[str] = []
    if operating_point is not None and operating_point not in card.operating_points:
        found.append(f"it has no operating point {operating_point}, only {', '.join(sorted(card.operating_points))}")
    found += [
        f"operating point {name}: on the images it was fitted on it marks nothing, or nobody has measured what it does"
        for name, point in card.operating_points.items()
        if not point.sensitivity
    ]
    parts = [part for item in items for part in _parts(card, item)]
    for own, part in parts:
        if part.heat is not None and part.heat.shape != (own.size, own.size):
            return [*found, f"its heat has the shape {part.heat.shape}, not {(own.size, own.size)}"]
        if len(own.classes) != (0 if part.classes is None else len(part.classes)):
            return [*found, f"it answers with other classes than the {len(own.classes)} that it names"]
    point = next(iter(card.operating_points))
    geometry = Geometry(card.size, card.size, card.size, card.geometry)
    answers = [interpret(item, card, point, geometry) for item in items]
    if any(OUTPUT_INVALID in answer.notes for answer in answers):
        found.append("it answers some pictures with numbers that are not finite, or with nothing")
    heats = [part.heat for own, part in parts if part.heat is not None and own.heat_kind == "anomaly"]
    if any(float(heat.min()) < 0 for heat in heats):
        found.append("its anomaly heat is negative somewhere")
    if len({round(answer.score, 6) for answer in answers}) == 1:
        found.append("it gives five different pictures the same score")
    return found


def _parts(card: Manifest, item: RawItem) -> Iterator[tuple[Manifest, RawItem]]:
    """A model's manifest and what it said of an image; of a stack those of each member."""
    if item.members is None:
        yield card, item
        return
    for role, part in item.members.items():
        yield card.members[role], part
