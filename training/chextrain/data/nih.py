"""Reader of the NIH ChestX-ray14 selection whose ``manifest.csv`` names split, label and boxes of every image.

Columns used: ``image_id, file, split, label, label_tier, boxes, box_coverage, group, width, height``; ``boxes``
is a JSON list of ``{"box": [x0, y0, x1, y1], ...}`` in stored pixels; and ``view``, ``fold`` and ``report_findings``, a
JSON list of what was mined from the report, where they are there.
Rows of another split (``qc_reject``) are left out. ``matched_pairs.json`` beside it, if there, lists pairs [normal,
abnormal] of ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from chextrain.data.rows import BadData, ImageFacts, Listing, Row, box, split_of, table

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
COLUMNS = ("image_id", "file", "split", "label", "label_tier", "boxes", "box_coverage", "group", "width", "height")
LABELS = ("normal", "abnormal", "conflict")
NO_FINDING = "No Finding"
REPORT = "report"
"""The "reader" of an image whose label was mined from its report."""


def listing(folder: Path) -> Listing:
    """Read ``folder/manifest.csv``; raises ``BadData`` where it is missing or has other columns."""
    found = Listing("nih", DESCRIPTION, LICENCE, "patient", known_panel=False)
    found.matched = _matched(folder / "matched_pairs.json")
    manifest = folder / "manifest.csv"
    for number, cells in table(manifest, COLUMNS):
        if cells["split"] not in ("train", "val", "test"):
            found.notes[f"split {cells['split']}, left out"] += 1
            continue
        with found.row(manifest, number, cells["image_id"]):
            rows, facts = _read(folder, cells)
            if cells["image_id"] in found.facts:
                raise ValueError("an image_id that is there already")
            found.facts[cells["image_id"]] = facts
            found.rows += rows
    return found


def _reported(cell: str) -> frozenset[str] | None:
    """Names in the order of no list; what the data set calls "No Finding" is none."""
    if not cell:
        return None
    return frozenset(str(name).replace("_", " ") for name in json.loads(cell)) - {NO_FINDING}


def _matched(path: Path) -> tuple[tuple[str, str], ...]:
    if not path.is_file():
        return ()
    try:
        return tuple((str(normal), str(abnormal)) for normal, abnormal in json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise BadData(f"{path.name}: not a list of pairs ({error})") from error


def _read(folder: Path, cells: Mapping[str, str]) -> tuple[list[Row], ImageFacts]:
    """A row for each box, and one for an image without any."""
    if cells["label"] not in LABELS:
        raise ValueError(f"{cells['label']!r} is no label; write {', '.join(LABELS)}")
    path, image_id, group, split = folder / cells["file"], cells["image_id"], cells["group"], split_of(cells["split"])
    size = int(cells["height"]), int(cells["width"])
    expert = cells["label_tier"] == "expert"
    rows = []
    for item in json.loads(cells["boxes"]):
        where = box(*item["box"])
        if where is None:
            raise ValueError("a box without numbers")
        reader = str(item.get("source", "expert"))
        rows.append(Row(path, image_id, group, (where,), str(item["label"]), reader, split))
    if not rows:
        finding = None if cells["label"] == "normal" else ""
        rows.append(Row(path, image_id, group, (), finding, "expert" if expert else REPORT, split))
    facts = ImageFacts(
        size=size,
        label=cells["label"],  # type: ignore[arg-type]
        expert=expert,
        exhaustive=cells["box_coverage"] == EXHAUSTIVE,
        strata={"view": cells["view"]} if cells.get("view") else {},
        fold=cells.get("fold", ""),
        reported=_reported(cells.get("report_findings", "")),
    )
    return rows, facts
