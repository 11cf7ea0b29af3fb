"""Reader of the RSNA Pneumonia Detection Challenge 2018: boxes of opacities that may be pneumonia, and nothing else.

``stage_2_train_labels.csv`` (``x, y, width, height``), ``stage_2_train_images/*.dcm`` and, if there,
``stage_2_detailed_class_info.csv``. "Without pneumonia" is not normal: without that last file only the positives are
read. The images are some of NIH ChestX-ray14, several of one patient; ``groups`` tells which.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chextrain.data.cases import Box
from chextrain.data.findings import normalise
from chextrain.data.images import images_in
from chextrain.data.rows import ImageFacts, Listing, Row, box_of_size, table

OPACITY = normalise("Lung Opacity")
NORMAL, OTHER = "Normal", "No Lung Opacity / Not Normal"
READER = "RSNA"
"""The files give the result of several readers, not who drew what."""
DESCRIPTION = """\
RSNA Pneumonia Detection Challenge 2018: chest radiographs of NIH ChestX-ray14, 1024 x 1024, with boxes of lung
opacities suspicious of pneumonia; other findings are not boxed."""
LICENCE = """\
Images: NIH ChestX-ray14, use unrestricted, from the NIH Clinical Center, which is acknowledged
(https://nihcc.app.box.com/v/ChestXray-NIHCC); Wang et al., ChestX-ray8, CVPR 2017, 3462-3471. Boxes: RSNA, use with
attribution; Shih et al., Radiology: Artificial Intelligence 2019;1(1):e180041. Weights: Apache-2.0, with these
attributions."""


def listing(folder: Path, sizes: Mapping[str, tuple[int, int]], groups: Mapping[str, str]) -> Listing:
    """Read ``folder``; raises ``BadData`` where the labels are missing or have other columns."""
    found = Listing("rsna", DESCRIPTION, LICENCE, "patient" if groups else "image")
    labels, info = folder / "stage_2_train_labels.csv", folder / "stage_2_detailed_class_info.csv"
    paths = images_in(folder / "stage_2_train_images")
    classes: dict[str, str] = {}
    for row, cells in table(info, ["patientId", "class"]) if info.is_file() else ():
        with found.row(info, row, cells["patientId"]):
            classes[cells["patientId"]] = normalise(cells["class"], (NORMAL, OTHER, OPACITY))
    for row, cells in table(labels, ["patientId", "x", "y", "width", "height", "Target"]):
        image_id = cells["patientId"]
        with found.row(labels, row, image_id):
            finding, boxes = _read(cells, classes.get(image_id))
            if finding == OTHER and image_id not in classes:
                found.notes["Target 0 and no stage_2_detailed_class_info.csv: may be abnormal, left out"] += 1
                continue
            path = paths.get(image_id, folder / "stage_2_train_images" / f"{image_id}.dcm")
            found.facts[image_id] = ImageFacts(size=sizes.get(image_id), exhaustive=finding == NORMAL)
            group = groups.get(image_id, image_id)
            found.rows.append(Row(path, image_id, group, boxes, finding if finding != NORMAL else None, READER))
    return found


def _read(cells: Mapping[str, str], class_name: str | None) -> tuple[str, tuple[Box, ...]]:
    """What a row shows; ``class_name`` is that of its image."""
    if not cells["patientId"]:
        raise ValueError("no patientId")
    where = box_of_size(cells["x"], cells["y"], cells["width"], cells["height"])
    if cells["Target"] not in ("0", "1") or (where is None) != (cells["Target"] == "0"):
        raise ValueError(f"Target {cells['Target']!r} with{'out' if where is None else ''} a box")
    if class_name is not None and (class_name == OPACITY) != (where is not None):
        raise ValueError(f"Target {cells['Target']}, but its class is {class_name!r}")
    return (OPACITY, (where,)) if where else (class_name or OTHER, ())
