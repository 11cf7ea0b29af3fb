"""Reader of a CSV of one's own: a row for each box, or for each image on which a reader found nothing.

Columns: ``path`` (beside the CSV, or absolute) and, where wanted, ``image_id``, ``group`` (patient), ``class``,
``reader``, ``x_min, y_min, x_max, y_max``, ``split``, ``source``. :mod:`coco` and :mod:`mask_files` read the other two
forms that ``--format generic`` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chextrain.data import coco, mask_files
from chextrain.data.findings import LOCAL, NO_FINDING, UnknownFinding, normalise
from chextrain.data.rows import BadData, ImageFacts, Listing, Row, box, split_of, table

ABNORMAL = "abnormal"
"""A box that nobody named."""
CORNERS = ("x_min", "y_min", "x_max", "y_max")
TABLE, MASKS = "index.csv", "masks"
DESCRIPTION = "A data set of the user's own."
LICENCE = "As the images and annotations it was trained on allow."


def listing(data: Path, sizes: Mapping[str, tuple[int, int]], groups: Mapping[str, str]) -> Listing:
    """Read a CSV or COCO file, or a folder that holds ``index.csv``, COCO files or ``images`` and ``masks``.

    Raises ``BadData`` where it is none of these.
    """
    found = Listing("generic", DESCRIPTION, LICENCE, "image")
    spelling = Spelling()
    if data.suffix.lower() == ".csv" or (data / TABLE).is_file():
        _read_table(found, data if data.is_file() else data / TABLE, spelling, sizes, groups)
    elif files := coco.files(data):
        for file, split in files:
            coco.read(found, file, split, spelling, groups)
    elif (data / MASKS).is_dir():
        mask_files.read(found, data, spelling, groups)
    else:
        raise BadData(f"{data}: no {TABLE}, no COCO file (annotations.json, or train.json ...), no folder {MASKS}")
    if groups or any(row.group != row.image_id for row in found.rows):
        found.grouped_by = "patient"
    return found


class Spelling:
    """One spelling for a finding, whatever its capitals: VinDr's where it has the name, else the first that was met."""

    def __init__(self) -> None:
        self.met: dict[str, str] = {}

    def __call__(self, name: str) -> str | None:
        """The finding, None for "No finding"."""
        wanted = name.strip()
        try:
            wanted = normalise(wanted, (*LOCAL, NO_FINDING))
        except UnknownFinding:
            wanted = self.met.setdefault(wanted.casefold(), wanted)
        return None if wanted == NO_FINDING else wanted


def _read_table(
    found: Listing, file: Path, spelling: Spelling, sizes: Mapping[str, tuple[int, int]], groups: Mapping[str, str]
) -> None:
    for row, cells in table(file, ["path"]):
        image_id = cells.get("image_id") or cells["path"]
        with found.row(file, row, image_id):
            if not cells["path"]:
                raise ValueError("no path")
            where = box(*(cells.get(name) for name in CORNERS))
            name = cells.get("class", "")
            if not name and where is None:
                raise ValueError(f"neither class nor box; write {NO_FINDING!r} where a reader found nothing")
            finding = spelling(name) if name else ABNORMAL
            if finding is None and where is not None:
                raise ValueError(f"{NO_FINDING} with a box")
            found.facts[image_id] = ImageFacts(
                size=sizes.get(image_id), strata={"source": cells["source"]} if cells.get("source") else {}
            )
            found.rows.append(
                Row(
                    image_path=file.parent / cells["path"],
                    image_id=image_id,
                    group=groups.get(image_id) or cells.get("group") or image_id,
                    boxes=(where,) if where else (),
                    finding=finding,
                    reader=cells.get("reader") or "reader",
                    split=split_of(cells.get("split", "")),
                )
            )
