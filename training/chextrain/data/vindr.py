"""Reader of VinDr-CXR as PhysioNet gives it (1.0.0): three readers of each training image, five who agree in test.

``annotations/annotations_{train,test}.csv`` hold the boxes of 22 local findings, ``image_labels_{train,test}.csv``, if
there, what each reader says of the whole image, six diagnoses without boxes among it. Nguyen et al., Scientific Data
2022;9:429. The data name no patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from chextrain.data.cases import Box, Split
from chextrain.data.findings import LOCAL, NO_FINDING, normalise
from chextrain.data.images import images_in
from chextrain.data.rows import BadData, ImageFacts, Listing, Row, box, number, table

GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease")
"""What is said of the image as a whole and never boxed."""
SPELLINGS = {"other diseases": "Other disease"}
"""``image_labels_train.csv`` and ``image_labels_test.csv`` do not agree on this one."""
KNOWN = (*LOCAL, *GLOBAL, NO_FINDING)
CONSENSUS = "consensus"
"""Who reads the test images: five radiologists, of whom the files give the result only."""
TRAINING: Mapping[Split, int] = {"train": 90, "val": 10}
"""The test images are given; the training images are hashed into these."""
DESCRIPTION = """\
VinDr-CXR 1.0.0 (PhysioNet): 18,000 PA chest radiographs of two hospitals in Hanoi, 15,000 read by three radiologists
each, 3,000 by five who agreed. The data name no patients: that no image is in two splits is known, of patients nothing
is."""
LICENCE = """\
Images and annotations: PhysioNet Credentialed Health Data License 1.5.0; Nguyen et al., VinDr-CXR, Scientific Data
2022;9:429 (doi:10.13026/3akn-b287). Weights: as that licence allows."""


def listing(folder: Path, sizes: Mapping[str, tuple[int, int]], groups: Mapping[str, str]) -> Listing:
    """Read ``folder``; raises ``BadData`` where there are no annotations at all."""
    found = Listing("vindr", DESCRIPTION, LICENCE, "patient" if groups else "image", hashed=TRAINING)
    annotations = folder / "annotations" if (folder / "annotations").is_dir() else folder
    parts: tuple[tuple[str, Split | None], ...] = (("train", None), ("test", "test"))
    there = [part for part in parts if (annotations / f"annotations_{part[0]}.csv").is_file()]
    if not there:
        raise BadData(f"{annotations}: neither annotations_train.csv nor annotations_test.csv")
    for name, split in there:
        _Part(found, folder / name, split, groups).read(annotations, name)
    found.facts.update({row.image_id: ImageFacts(size=sizes.get(row.image_id)) for row in found.rows})
    return found


class _Part:
    """The training or the test images."""

    def __init__(self, found: Listing, folder: Path, split: Split | None, groups: Mapping[str, str]) -> None:
        self.found = found
        self.folder = folder
        self.split = split
        self.groups = groups
        self.paths = images_in(folder)
        self.stated: dict[tuple[str, str], set[str]] = {}
        """What (image, reader) said so far; empty: looked and named nothing yet."""

    def read(self, annotations: Path, name: str) -> None:
        """Boxes first, then what the readers say of whole images; a reader who names nothing found nothing."""
        boxes, labels = annotations / f"annotations_{name}.csv", annotations / f"image_labels_{name}.csv"
        for row, cells in table(boxes, ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]):
            with self.found.row(boxes, row, cells["image_id"]):
                self._annotation(cells)
        for row, cells in table(labels, ["image_id", NO_FINDING]) if labels.is_file() else ():
            with self.found.row(labels, row, cells["image_id"]):
                self._label(cells)
        for (image_id, reader), findings in self.stated.items():
            if not findings:
                self._add(image_id, reader, None, None)

    def _annotation(self, cells: Mapping[str, str]) -> None:
        finding = known(cells["class_name"])
        where = box(*(cells[name] for name in ("x_min", "y_min", "x_max", "y_max")))
        check(finding, where)
        said = self._said(cells)
        if finding != NO_FINDING:
            said.add(finding)
            self._add(cells["image_id"], cells.get("rad_id", CONSENSUS), finding, where)

    def _label(self, cells: Mapping[str, str]) -> None:
        named = set(_named(cells))
        said = self._said(cells)
        if said and NO_FINDING in named:
            self.found.notes["'No finding' of a reader who drew boxes, passed over"] += 1
        for finding in sorted(named - said - {NO_FINDING}):
            said.add(finding)
            self._add(cells["image_id"], cells.get("rad_id", CONSENSUS), finding, None)

    def _said(self, cells: Mapping[str, str]) -> set[str]:
        reader = cells.get("rad_id", CONSENSUS)
        if not cells["image_id"] or not reader:
            raise ValueError("no image_id or no rad_id")
        return self.stated.setdefault((cells["image_id"], reader), set())

    def _add(self, image_id: str, reader: str, finding: str | None, where: Box | None) -> None:
        path = self.paths.get(image_id, self.folder / f"{image_id}.dicom")
        group = self.groups.get(image_id, image_id)
        self.found.rows.append(Row(path, image_id, group, (where,) if where else (), finding, reader, self.split))


def known(name: str) -> str:
    """The spelling of a finding of this data set; raises ``UnknownFinding``."""
    return normalise(SPELLINGS.get(name.strip().casefold(), name), KNOWN)


def check(finding: str, where: Box | None) -> None:
    """Raise ValueError where a local finding has no box, or "no finding" or a diagnosis has one."""
    if where is None and finding in LOCAL:
        raise ValueError(f"{finding} without a box")
    if where is not None and finding not in LOCAL:
        raise ValueError(f"{finding} with a box")


def _named(cells: Mapping[str, str]) -> Iterator[str]:
    """The findings whose cell is 1; an empty cell says nothing."""
    for column, cell in cells.items():
        if column not in ("image_id", "rad_id") and (number(cell) or 0) > 0:
            yield known(column)
