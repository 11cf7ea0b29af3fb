"""Reader of VinDr-CXR as Kaggle's VinBigData competition gives it: ``train.csv`` and ``train/*.dicom``.

Boxes are in the pixels of the original images, also beside re-uploads of reduced pictures: those need ``sizes``. The
competition's test images have no labels and are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chextrain.data.cases import Box
from chextrain.data.findings import NO_FINDING, VINDR, normalise
from chextrain.data.images import images_in
from chextrain.data.rows import ImageFacts, Listing, Row, box, table

COLUMNS = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")
CLASSES = (*VINDR, NO_FINDING)
"""In the order of ``class_id``."""
DESCRIPTION = """\
VinBigData Chest X-ray Abnormalities Detection (Kaggle 2020/21): the 15,000 training images of VinDr-CXR, read by three
of 17 radiologists each, boxes of 14 findings. The data name no patients: that no image is in two splits is known, of
patients nothing is."""
LICENCE = """\
Images and annotations: as Kaggle's competition rules and VinDr-CXR's data use agreement allow; Nguyen et al.,
VinDr-CXR, Scientific Data 2022;9:429. Weights: as they allow."""


def listing(folder: Path, sizes: Mapping[str, tuple[int, int]], groups: Mapping[str, str]) -> Listing:
    """Read ``folder``; ``sizes`` are the original (rows, columns), where the pictures were reduced. Raises ``BadData``
    where ``train.csv`` is missing or has other columns.
    """
    found = Listing("vinbigdata", DESCRIPTION, LICENCE, "patient" if groups else "image")
    file, images = folder / "train.csv", folder / "train"
    paths = images_in(images)
    for row, cells in table(file, COLUMNS):
        image_id = cells["image_id"]
        with found.row(file, row, image_id):
            finding, where = _read(cells)
            path = paths.get(image_id, images / f"{image_id}.dicom")
            if path.suffix.lower() not in (".dicom", ".dcm") and image_id not in sizes:
                raise ValueError("boxes are in the original's pixels, and this is no DICOM file: --sizes must name it")
            found.facts[image_id] = ImageFacts(size=sizes.get(image_id))
            found.rows.append(
                Row(
                    path,
                    image_id,
                    groups.get(image_id, image_id),
                    (where,) if where else (),
                    finding if finding != NO_FINDING else None,
                    cells["rad_id"],
                )
            )
    return found


def _read(cells: Mapping[str, str]) -> tuple[str, Box | None]:
    if not cells["image_id"] or not cells["rad_id"]:
        raise ValueError("no image_id or no rad_id")
    finding = normalise(cells["class_name"], CLASSES)
    number = cells["class_id"]
    if not number.isdigit() or int(number) >= len(CLASSES) or CLASSES[int(number)] != finding:
        raise ValueError(f"class_id {number} is not {finding}")
    where = box(*(cells[name] for name in ("x_min", "y_min", "x_max", "y_max")))
    if (where is None) != (finding == NO_FINDING):
        raise ValueError(f"{finding} with{'out' if where is None else ''} a box")
    return finding, where
