"""What every reader returns: cases (who, which split, what is where) and how to get their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chexmodels.pixels import Geometry
from chextrain.data.findings import normalise

Split = Literal["train", "val", "test"]
Label = Literal["normal", "abnormal", "conflict"]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 half-open in source pixels; where a reader put it, not rounded."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One box as one reader drew it."""

    box: Box
    finding: str
    reader: str


@dataclass(frozen=True, slots=True)
class Case:
    """One image of a data set."""

    image_id: str
    group: str
    """Patient, or whatever must not be in two splits."""
    split: Split
    label: Label
    boxes: tuple[Box, ...]
    """What the readers agree on, by the consensus that was asked for."""
    rows: int
    columns: int
    expert: bool
    """A radiologist read this image; otherwise the label is mined from its report."""
    findings: frozenset[str]
    """Names of what is on the image, as far as known."""
    exhaustive: bool
    """What is outside the boxes was looked at and found normal; otherwise it may hold unboxed findings."""
    strata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What numbers are also reported by, as far as known: ``view``, ``spacing``, ``manufacturer``, ``readers`` who
    agree ("2 of 3") -> its value on this image. Never shown to a network."""
    box_findings: tuple[frozenset[str], ...] = ()
    """What each of ``boxes`` shows; several names where readers differ."""
    votes: tuple[int, ...] = ()
    """How many readers drew each of ``boxes``."""
    marks: tuple[Mark, ...] = ()
    """Every box of every reader, before any consensus."""
    panel: tuple[str, ...] = ()
    """The readers of this image, those included who found nothing; empty where it is not known who looked."""
    path: Path | None = None
    """The file, where there is one."""
    fold: str = ""
    """Of a cross-validation, where the data set names folds."""
    reported: frozenset[str] | None = None
    """What the report of this image names, mined from its text; empty: it names nothing. None: there is no report."""

    @property
    def classes(self) -> frozenset[str]:
        """What a classifier is to say of the image: what its report names or, where there is none, its readers."""
        return self.findings if self.reported is None else self.reported

    @property
    def localised(self) -> bool:
        """The pixels of this image can be learnt from: it has boxes, or is normal as far as anybody knows.

        Where a known panel disagrees whether there is anything, the image is learnt from but never scored.
        """
        if self.label == "conflict":
            return self.split == "train" and bool(self.panel) and bool(self.boxes)
        return bool(self.boxes) if self.label == "abnormal" else True

    def only(self, finding: str) -> Case:
        """This case with the boxes of one finding, for a model of that finding: normal where nobody named it."""
        kept = [index for index, names in enumerate(self.box_findings) if finding in names]
        label: Label = "abnormal" if kept or finding in self.findings else "normal"
        return replace(
            self,
            label=self.label if self.label == "conflict" else label,
            findings=self.findings & {finding},
            boxes=tuple(self.boxes[index] for index in kept),
            box_findings=tuple(frozenset([finding]) for _ in kept),
            votes=tuple(self.votes[index] for index in kept),
            marks=tuple(mark for mark in self.marks if mark.finding == finding),
        )

    @property
    def clean(self) -> bool:
        """An expert read this image as normal: the only negatives a number may rest on."""
        return self.label == "normal" and self.expert


@dataclass(frozen=True)
class Collection:
    """A data set: its cases, and a function that renders one to ``(S,S)`` float32 in [0,1], MONOCHROME2."""

    name: str
    cases: tuple[Case, ...]
    load: Callable[[Case, int], NDArray[np.float32]]
    description: str
    """What the images are; goes into the card of whatever is trained on them."""
    licence: str
    """Under which terms, with the attributions they ask for."""
    matched: tuple[tuple[str, str], ...] = ()
    """Image ids of a normal and an abnormal case that are alike in what is no finding: view, matrix."""
    soft: bool = False
    """Targets to learn from are the share of the panel that marked a pixel, not the union of the boxes."""

    def named(self, findings: Sequence[str]) -> frozenset[str]:
        """``findings`` as this data set spells them; raises ``UnknownFinding`` for one that no image has."""
        known = {name for case in self.cases for name in case.findings}
        return frozenset(normalise(name, known) for name in findings)

    def split(self, split: Split) -> tuple[Case, ...]:
        """The cases of one split, in file order."""
        return tuple(case for case in self.cases if case.split == split)


def box_mask(case: Case, size: int) -> NDArray[np.bool_]:
    """Union of the boxes of ``case`` on the letterboxed ``(S,S)`` grid; see :func:`drawn`."""
    return drawn(case.boxes, case.rows, case.columns, size)


def drawn(boxes: Iterable[Box], rows: int, columns: int, size: int) -> NDArray[np.bool_]:
    """Union of ``boxes`` of a ``(rows, columns)`` image on the letterboxed ``(S,S)`` grid; a cell belongs where its
    centre lies in a box.

    A box too thin to hold a centre still marks the nearest cell: a small finding must not vanish.
    """
    content = Geometry(rows, columns, size).content
    mask = np.zeros((size, size), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        across = _span(x0, x1, (content.x1 - content.x0) / columns, content.x0, content.x1)
        down = _span(y0, y1, (content.y1 - content.y0) / rows, content.y0, content.y1)
        mask[down, across] = True
    return mask


def share(case: Case, size: int) -> NDArray[np.float32]:
    """Share of the panel that marked each cell, ``(S,S)`` in [0,1]; without a panel, the union of the boxes."""
    if not case.panel:
        return box_mask(case, size).astype(np.float32)
    total = np.zeros((size, size), dtype=np.float32)
    for reader in case.panel:
        total += drawn((mark.box for mark in case.marks if mark.reader == reader), case.rows, case.columns, size)
    return total / np.float32(len(case.panel))


def _span(start: float, stop: float, scale: float, low: int, high: int) -> slice:
    first = int(np.clip(np.ceil(start * scale + low - 0.5), low, high - 1))
    return slice(first, int(np.clip(np.ceil(stop * scale + low - 0.5), first + 1, high)))
