"""Reader of the NIH ChestX-ray14 selection whose ``manifest.csv`` names split, label and boxes of every image.

Columns used: ``image_id, file, split, label, label_tier, boxes, box_coverage, group, width, height``; ``boxes``
is a JSON list of ``{"box": [x0, y0, x1, y1], ...}`` in stored pixels; and ``view``, where it is there. Rows of another
split (``qc_reject``) are left out. ``matched_pairs.json`` beside it, if there, lists pairs [normal, abnormal] of ids.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexmodels.pixels import Geometry, from_picture
from chextrain.data.cases import Case, Collection

DESCRIPTION = """\
A selection of 2,408 frontal chest radiographs of NIH ChestX-ray14 (longer side 640 px, 8 bit), split by patient: 1,541
train, 399 validation, 468 test. Learnt from: 640 training images with expert boxes and 702 that the report calls "No
Finding". "No Finding" is not normal: of 150 such images that radiologists also read, 45 % were. Most boxed images carry
the boxes of one finding only; others may be unboxed. Images on which readers disagree are neither learnt from nor
scored."""
LICENCE = """\
Images: NIH ChestX-ray14, use unrestricted, from the NIH Clinical Center, which is acknowledged
(https://nihcc.app.box.com/v/ChestXray-NIHCC); Wang et al., ChestX-ray8, CVPR 2017, 3462-3471. Boxes: NIH (same
release); RSNA Pneumonia Detection Challenge 2018 (Shih et al., Radiology: Artificial Intelligence 2019;1(1):e180041);
ChestX-Det (Apache-2.0; Lian et al., IEEE TMI 2021). Weights: Apache-2.0, with these attributions."""
EXHAUSTIVE = "exhaustive_13class"


class BadRow(ValueError):
    """A row of a manifest that cannot be used; the message names the row and the reason."""


def read(folder: Path) -> Collection:
    """Read ``folder/manifest.csv``; raises ``BadRow``."""
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] in ("train", "val", "test")]
    files = {row["image_id"]: folder / row["file"] for row in rows}

    def load(case: Case, size: int) -> NDArray[np.float32]:
        return Geometry(case.rows, case.columns, size).forward(from_picture(files[case.image_id]).pixels)

    cases = tuple(_case(number, row) for number, row in enumerate(rows, start=2))
    return Collection("nih", cases, load, DESCRIPTION, LICENCE, _matched(folder / "matched_pairs.json"))


def _matched(path: Path) -> tuple[tuple[str, str], ...]:
    if not path.is_file():
        return ()
    return tuple((str(normal), str(abnormal)) for normal, abnormal in json.loads(path.read_text()))


def _case(number: int, row: dict[str, str]) -> Case:
    try:
        boxes = json.loads(row["boxes"])
        return Case(
            image_id=row["image_id"],
            group=row["group"],
            split=row["split"],  # type: ignore[arg-type]
            label=row["label"],  # type: ignore[arg-type]
            boxes=tuple(tuple(map(float, item["box"])) for item in boxes),  # type: ignore[misc]
            rows=int(row["height"]),
            columns=int(row["width"]),
            expert=row["label_tier"] == "expert",
            findings=frozenset(item["label"] for item in boxes),
            exhaustive=row["box_coverage"] == EXHAUSTIVE,
            strata={"view": row["view"]} if row.get("view") else {},
            box_findings=tuple(frozenset([item["label"]]) for item in boxes),
            votes=(1,) * len(boxes),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise BadRow(f"manifest.csv row {number} ({row.get('image_id', '?')}): {error}") from error
