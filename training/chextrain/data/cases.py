"""What every reader returns: cases (who, which split, what is where) and how to get their pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chexmodels.pixels import Geometry

Split = Literal["train", "val", "test"]
Label = Literal["normal", "abnormal", "conflict"]


@dataclass(frozen=True, slots=True)
class Case:
    """One image of a data set."""

    image_id: str
    group: str
    """Patient, or whatever must not be in two splits."""
    split: Split
    label: Label
    boxes: tuple[tuple[float, float, float, float], ...]
    """x0, y0, x1, y1 half-open in source pixels."""
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

    @property
    def localised(self) -> bool:
        """The pixels of this image can be learnt from: it has boxes, or is normal as far as anybody knows."""
        return bool(self.boxes) if self.label == "abnormal" else self.label == "normal"

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

    def split(self, split: Split) -> tuple[Case, ...]:
        """The cases of one split, in file order."""
        return tuple(case for case in self.cases if case.split == split)


def box_mask(case: Case, size: int) -> NDArray[np.bool_]:
    """Union of the boxes on the letterboxed ``(S,S)`` grid; a cell belongs where its centre lies in a box.

    A box too thin to hold a centre still marks the nearest cell: a small finding must not vanish.
    """
    content = Geometry(case.rows, case.columns, size).content
    mask = np.zeros((size, size), dtype=bool)
    for x0, y0, x1, y1 in case.boxes:
        columns = _span(x0, x1, (content.x1 - content.x0) / case.columns, content.x0, content.x1)
        rows = _span(y0, y1, (content.y1 - content.y0) / case.rows, content.y0, content.y1)
        mask[rows, columns] = True
    return mask


def _span(start: float, stop: float, scale: float, low: int, high: int) -> slice:
    first = int(np.clip(np.ceil(start * scale + low - 0.5), low, high - 1))
    return slice(first, int(np.clip(np.ceil(stop * scale + low - 0.5), first + 1, high)))


def masks(cases: Sequence[Case], size: int) -> NDArray[np.bool_]:
    """Box masks ``(N,S,S)`` of many cases."""
    return np.stack([box_mask(case, size) for case in cases]) if cases else np.zeros((0, size, size), dtype=bool)
