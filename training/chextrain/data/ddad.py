"""Reader of the exact splits of DDAD (Cai et al., MICCAI 2022): their ``data.json`` beside the images.

``train.0`` are normal images to learn from, ``train.unlabeled.0`` and ``.1`` the pool that unlabelled images are drawn
from (the first ones of each list, by the anomaly rate), ``test.0`` and ``.1`` what is scored. There are no boxes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from chextrain.data.cases import Split
from chextrain.data.images import images_in
from chextrain.data.rows import BadData, ImageFacts, Listing, Row

FOLDERS = ("train_png_512", "images", "train", "stage_2_train_images")
"""Where the images are looked for: as DDAD's preparation leaves them, or as RSNA and Kaggle give them."""
LISTS: tuple[tuple[tuple[str, ...], Split, str], ...] = (
    (("train", "0"), "train", "normal"),
    (("train", "unlabeled", "0"), "train", "unlabelled"),
    (("train", "unlabeled", "1"), "train", "unlabelled"),
    (("test", "0"), "test", "test"),
    (("test", "1"), "test", "test"),
)
"""Path in the file, split, and what ``Case.strata["source"]`` says."""
ABNORMAL = "abnormal"
READER = "data.json"
DESCRIPTION = "The partition of RSNA or VinBigData images that DDAD was published with; labels of whole images only."
LICENCE = "As the images it names allow. Partition: Cai et al., Dual-Distribution Discrepancy, MICCAI 2022 (MIT)."


def listing(folder: Path, sizes: Mapping[str, tuple[int, int]], groups: Mapping[str, str]) -> Listing:
    """Read ``folder/data.json``; raises ``BadData``. The "row" of a problem is the position in its list, from 1."""
    found = Listing("ddad", DESCRIPTION, LICENCE, "patient" if groups else "image")
    file = folder / "data.json"
    try:
        tree = json.loads(file.read_text("utf-8"))
        lists = [(keys, split, source, _at(tree, keys)) for keys, split, source in LISTS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{file}: not DDAD's partition ({error!r})") from error
    home = next((folder / name for name in FOLDERS if (folder / name).is_dir()), folder / FOLDERS[0])
    paths = images_in(home)
    listed: dict[str, str] = {}
    for keys, split, source, names in lists:
        place = ".".join(keys)
        for number, name in enumerate(names, start=1):
            image_id = Path(name).stem
            with found.row(file.with_name(f"data.json {place}"), number, image_id):
                if image_id in listed:
                    raise ValueError(f"also in {listed[image_id]}")
                listed[image_id] = place
                finding = ABNORMAL if keys[-1] == "1" else None
                found.facts[image_id] = ImageFacts(exhaustive=finding is None, strata={"source": source})
                group = groups.get(image_id, image_id)
                found.rows.append(Row(paths.get(image_id, home / name), image_id, group, (), finding, READER, split))
    return found


def _at(tree: Mapping[str, object], keys: tuple[str, ...]) -> list[str]:
    node: object = tree
    for key in keys:
        node = node[key]  # type: ignore[index]
    if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
        raise TypeError(f"{'.'.join(keys)} is no list of names")
    return node
