"""COCO detection files: ``images``, ``annotations`` with ``bbox`` [x, y, width, height], ``categories``.

An image without annotations is taken for normal, as COCO's detection sets mean it: leave unread images out of the file.
``group`` (or ``patient_id``) of an image and ``reader`` of an annotation are read where they are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chextrain.data.cases import Split
from chextrain.data.rows import BadData, ImageFacts, Listing, Row, box_of_size

FILES: Mapping[str, Split | None] = {
    "annotations.json": None,
    "train.json": "train",
    "val.json": "val",
    "test.json": "test",
}
"""Names that are looked for in a folder, and the split that they stand for."""
READER = "reader"


def files(data: Path) -> list[tuple[Path, Split | None]]:
    """The COCO files that ``data`` is or holds."""
    if data.suffix.lower() == ".json":
        return [(data, None)]
    return [(data / name, split) for name, split in FILES.items() if (data / name).is_file()]


def read(
    found: Listing,
    file: Path,
    split: Split | None,
    spelling: Callable[[str], str | None],
    groups: Mapping[str, str],
) -> None:
    """Add one file to ``found``; the "row" of a problem is the position in its list, from 1. Raises ``BadData``."""
    try:
        tree = json.loads(file.read_text("utf-8"))
        names = {item["id"]: str(item["name"]) for item in tree["categories"]}
        images, annotations = list(tree["images"]), list(tree["annotations"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{file.name}: not a COCO detection file ({error!r})") from error
    known: dict[Any, Row] = {}
    for number, item in enumerate(images, start=1):
        image_id = str(item.get("file_name", "?"))
        with found.row(file, number, image_id):
            if item["id"] in known:
                raise ValueError(f"two images have the id {item['id']}")
            group = groups.get(image_id) or str(item.get("group") or item.get("patient_id") or image_id)
            known[item["id"]] = Row(_find(file.parent, image_id), image_id, group, (), None, READER, split)
            found.facts[image_id] = ImageFacts(size=(int(item["height"]), int(item["width"])))
    annotated = set()
    for number, item in enumerate(annotations, start=1):
        image = known.get(item.get("image_id"))
        with found.row(file, number, image.image_id if image else "?"):
            if image is None:
                raise ValueError(f"annotation of image {item.get('image_id')}, which is not in images")
            if item["category_id"] not in names:
                raise ValueError(f"category {item['category_id']} is not in categories")
            where = box_of_size(*item["bbox"])
            finding = spelling(names[item["category_id"]])
            if where is None or finding is None:
                raise ValueError("an annotation without a box, or of nothing")
            annotated.add(item["image_id"])
            reader = str(item.get("reader") or READER)
            found.rows.append(Row(image.image_path, image.image_id, image.group, (where,), finding, reader, split))
    found.rows += [row for key, row in known.items() if key not in annotated]


def _find(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_file() or not (folder / "images").is_dir() else folder / "images" / name
