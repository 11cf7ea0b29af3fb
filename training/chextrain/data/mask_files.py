"""Masks as PNG: ``images/NAME.ext`` and ``masks/NAME.png``, or ``masks/FINDING/NAME.png`` for each finding.

Anything but 0 belongs to the finding; each 8-connected component becomes its box, since boxes are what is learnt. An
image whose masks are all empty is normal; one without any mask is a problem, not a normal image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from chexmodels.boxes import bounding_boxes
from chextrain.data.cases import Box
from chextrain.data.images import images_in
from chextrain.data.rows import BadData, ImageFacts, Listing, Row

READER = "reader"
UNNAMED = "abnormal"


def read(found: Listing, folder: Path, spelling: Callable[[str], str | None], groups: Mapping[str, str]) -> None:
    """Add the images of ``folder`` to ``found``; the "row" of a problem is the image's position by name, from 1.

    Raises ``BadData`` where there are no images.
    """
    images = images_in(folder / "images")
    if not images:
        raise BadData(f"{folder / 'images'}: no images beside the masks")
    masks = _by_finding(folder / "masks", spelling)
    for number, name in enumerate(sorted(images), start=1):
        with found.row(folder / "images", number, name):
            rows = []
            for finding, files in masks.items():
                if name in files:
                    boxes = _boxes(found, files[name], name)
                    if boxes:
                        rows.append(_row(images[name], name, groups, boxes, finding))
            if not any(name in files for files in masks.values()):
                raise ValueError("no mask; an empty one says that there is nothing")
            found.rows += rows or [_row(images[name], name, groups, (), None)]
    for finding, files in masks.items():
        for name in sorted(files.keys() - images.keys()):
            found.where.setdefault(name, (f"masks/{finding}/{files[name].name}", 0))
            found.problem(name, "a mask without an image")


def _by_finding(folder: Path, spelling: Callable[[str], str | None]) -> dict[str, dict[str, Path]]:
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    if not folders:
        return {UNNAMED: images_in(folder)}
    return {spelling(path.name) or UNNAMED: images_in(path) for path in folders}


def _boxes(found: Listing, file: Path, name: str) -> tuple[Box, ...]:
    with Pillow.open(file, formats=("PNG",)) as picture:
        values = np.asarray(picture)
    mask = np.asarray(values.any(axis=2) if values.ndim == 3 else values > 0, dtype=np.bool_)
    found.facts[name] = ImageFacts(size=(mask.shape[0], mask.shape[1]))
    return tuple((float(b.x0), float(b.y0), float(b.x1), float(b.y1)) for b in bounding_boxes(mask))


def _row(
    path: Path,
    name: str,
    groups: Mapping[str, str],
    boxes: tuple[Box, ...],
    finding: str | None,
) -> Row:
    return Row(path, name, groups.get(name, name), boxes, finding, READER)
