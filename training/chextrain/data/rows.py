"""What every reader of a layout yields: rows as their readers wrote them, and what is wrong with them, by name."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chextrain.data.cases import Box, Label, Split

HASHED: Mapping[Split, int] = {"train": 80, "val": 10, "test": 10}
"""Per cent of the groups in each split, where the data set names none."""
EMPTY = frozenset({"", "nan", "none", "null"})
"""How files write that there is no number."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one reader says of one image: a finding with its boxes, or that there is none."""

    image_path: Path
    image_id: str
    group: str
    """Patient where known, else the image itself: what must not be in two splits."""
    boxes: tuple[Box, ...]
    """In the pixels of the image, or of its declared size; empty where the finding is named only."""
    finding: str | None
    """None: this reader found nothing; empty: something that is not named."""
    reader: str
    split: Split | None = None
    """None: the split is hashed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be used."""

    file: str
    row: int
    """The header is row 1."""
    image_id: str
    reason: str

    def __str__(self) -> str:
        """Where and why, in a line."""
        return f"{self.file} row {self.row} ({self.image_id or '?'}): {self.reason}"


class BadData(ValueError):
    """A data set that cannot be used as it is; the message names the first bad rows and their reasons."""

    @classmethod
    def of(cls, problems: Iterable[Problem | str], shown: int = 10) -> BadData:
        """The error for ``problems``, at most ``shown`` of them spelt out."""
        lines = [str(problem) for problem in problems]
        more = [f"... and {len(lines) - shown} more; chextrain index lists them"] if len(lines) > shown else []
        return cls("\n".join([*lines[:shown], *more]))


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What some layouts say of an image beside its rows; None: nothing."""

    size: tuple[int, int] | None = None
    """(rows, columns) of the pixels that boxes are given in, where that may not be the file's own size."""
    label: Label | None = None
    expert: bool = True
    """A radiologist read this image; otherwise its label is mined from its report."""
    exhaustive: bool = True
    """What is outside the boxes was found normal; otherwise it may hold findings without a box."""
    strata: Mapping[str, str] = field(default_factory=dict)
    fold: str = ""
    """Of a cross-validation, where the data set names folds."""
    reported: frozenset[str] | None = None
    """What the report of the image names, mined from its text; None: there is no report."""


@dataclass
class Listing:
    """A data set as its files tell it, before any image is opened."""

    name: str
    description: str
    licence: str
    grouped_by: Literal["patient", "image"]
    """``image`` where the data name no patients: then only images, not patients, are known to be in one split."""
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, ImageFacts] = field(default_factory=dict)
    """By image id; an image that only has facts is one that nobody made a statement about."""
    where: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Image id -> file and row that named it first."""
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """What was left out or passed over by rule, and how often."""
    hashed: Mapping[Split, int] = field(default_factory=lambda: HASHED)
    known_panel: bool = True
    """Whether every reader who looked at an image says something of it, "no finding" included."""
    matched: tuple[tuple[str, str], ...] = ()

    @contextmanager
    def row(self, file: Path, number: int, image_id: str) -> Iterator[None]:
        """What is wrong inside (ValueError, KeyError, TypeError) is a problem of this row; the next one goes on."""
        try:
            yield
            self.where.setdefault(image_id, (file.name, number))
        except KeyError as error:
            self.problems.append(Problem(file.name, number, image_id, f"no {error}"))
        except (ValueError, TypeError) as error:
            self.problems.append(Problem(file.name, number, image_id, str(error)))

    def problem(self, image_id: str, reason: str) -> None:
        """A problem of an image, at the row that named it first."""
        file, number = self.where.get(image_id, (self.name, 0))
        self.problems.append(Problem(file, number, image_id, reason))


def table(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells of every row of a CSV file, outer blanks gone; the header is row 1.

    Raises ``BadData`` where there is no such file or one of ``columns`` is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream, restval="", restkey="")
            header = [name.strip() for name in rows.fieldnames or ()]
            rows.fieldnames = header
            if missing := [name for name in columns if name not in header]:
                raise BadData(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(header)}")
            for number, cells in enumerate(rows, start=2):
                yield number, {name: value.strip() for name, value in cells.items() if name}
    except OSError as error:
        raise BadData(f"{path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadData(f"{path.name}: {error}") from error


def box(*cells: object) -> Box | None:
    """x0, y0, x1, y1 from four cells, None where all are empty or NaN; raises ValueError for any other half."""
    values = [number(cell) for cell in cells]
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        raise ValueError(f"half a box: {', '.join(map(str, cells))}")
    x0, y0, x1, y1 = (value for value in values if value is not None)
    if x1 < x0 or y1 < y0:
        raise ValueError(f"the box {x0:g}, {y0:g}, {x1:g}, {y1:g} ends before it begins")
    return x0, y0, x1, y1


def box_of_size(x: object, y: object, width: object, height: object) -> Box | None:
    """x, y, width, height -> :func:`box`."""
    values = [number(cell) for cell in (x, y, width, height)]
    if any(value is None for value in values):
        return box(x, y, width, height)
    left, top, across, down = (value for value in values if value is not None)
    return box(left, top, left + across, top + down)


def number(cell: object) -> float | None:
    """The number in a cell, None where it is empty or NaN; raises ValueError."""
    if cell is None or str(cell).strip().casefold() in EMPTY:
        return None
    value = float(str(cell))
    if math.isinf(value):
        raise ValueError(f"{cell} is no coordinate")
    return None if math.isnan(value) else value


def split_of(cell: str) -> Split | None:
    """A split's name, None where the cell is empty; raises ValueError."""
    name = cell.casefold()
    if name in EMPTY:
        return None
    for split in HASHED:
        if name == split or (name, split) in {("validation", "val"), ("valid", "val")}:
            return split
    raise ValueError(f"{cell!r} is no split; write train, val or test")


def sizes(path: Path | None) -> dict[str, tuple[int, int]]:
    """Image id -> (rows, columns) that boxes are given in, from a CSV of ``image_id`` and either ``rows, columns``,
    ``height, width`` or, as the re-uploads of the Kaggle images write it, ``dim0, dim1``. Raises ``BadData``.
    """
    found: dict[str, tuple[int, int]] = {}
    for row, cells in table(path, ["image_id"]) if path else ():
        names = next((n for n in (("rows", "columns"), ("height", "width"), ("dim0", "dim1")) if n[0] in cells), None)
        try:
            rows, columns = (int(float(cells[name])) for name in names or ())
            if rows < 1 or columns < 1:
                raise ValueError(f"{rows} x {columns} pixels")
        except (ValueError, KeyError) as error:
            raise BadData(f"{path and path.name} row {row} ({cells['image_id']}): no size ({error})") from error
        found[cells["image_id"]] = rows, columns
    return found


def groups(path: Path | None) -> dict[str, str]:
    """Image id -> group, from a CSV of ``image_id, group`` or from the JSON list by which RSNA tells which NIH image
    each of its own is (``subset_img_id``, ``img_id`` = patient_number.png). Raises ``BadData``.
    """
    if path is None:
        return {}
    if path.suffix.lower() != ".json":
        return {cells["image_id"]: cells["group"] for _, cells in table(path, ["image_id", "group"]) if cells["group"]}
    try:
        return {item["subset_img_id"]: str(item["img_id"]).split("_")[0] for item in json.loads(path.read_text())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path.name}: not a list of subset_img_id and img_id ({error})") from error
