"""Rendered chest radiographs with lesions of known place: for tests, the demo, and nothing else.

A phantom is drawn in unit coordinates (x to the right, y down, the patient facing the viewer), so that the same seed
shows the same chest at any size. It is asymmetric on purpose: heart to the viewer's right, higher diaphragm on the left
of the picture, a side marker in the upper left corner. A flipped, rotated or inverted phantom is not a phantom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chextrain.data.cases import Case, Collection, Mark, Split

Grid = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lesion:
    """An ellipse in unit coordinates; ``contrast`` is added density at its centre."""

    x: float
    y: float
    rx: float
    ry: float
    contrast: float

    @property
    def finding(self) -> str:
        """Its name: so that there is more than one."""
        return "small lesion" if self.rx < 0.055 else "large lesion"


@dataclass(frozen=True, slots=True)
class Chest:
    """Everything that makes one phantom; the same values render at any size."""

    seed: int
    shift_x: float
    shift_y: float
    scale: float
    heart: float
    """Width of the heart relative to a usual one."""
    lesions: tuple[Lesion, ...]


DESCRIPTION = "Phantoms: drawings of chests with drawn ellipses for lesions. No radiograph was used."
LICENCE = "Apache-2.0."
READER = "drawn"
"""Who knows where the lesions are."""
LUNGS = ((0.31, 0.47, 0.145, 0.29), (0.69, 0.49, 0.135, 0.30))
"""Centre and radii of the lung fields; the patient's right lung, on the viewer's left, is the wider and shorter one."""


def make_chest(seed: int, lesions: int | None = None) -> Chest:
    """A chest by seed; ``lesions`` of them (at most 4), or drawn: 45 % have none, the others one to three."""
    rng = np.random.default_rng(seed)
    shift_x, shift_y, scale, heart = rng.uniform((-0.03, -0.03, 0.92, 0.85), (0.03, 0.03, 1.05, 1.15))
    drawn = int(rng.choice(4, p=(0.45, 0.3, 0.15, 0.1)))
    placed: list[Lesion] = []
    wanted = drawn if lesions is None else lesions
    while len(placed) < wanted:
        new = _draw_lesion(rng)
        if all(np.hypot(new.x - other.x, new.y - other.y) > 0.17 for other in placed):
            placed.append(new)
        elif rng.random() < 0.05:
            placed.clear()  # the first ones may have left no room: start again
    return Chest(seed, shift_x, shift_y, scale, heart, tuple(placed))


def _draw_lesion(rng: np.random.Generator) -> Lesion:
    cx, cy, ax, ay = LUNGS[int(rng.integers(2))]
    angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.45))
    rx = rng.uniform(0.035, 0.075)
    return Lesion(
        x=cx + ax * radius * np.cos(angle),
        y=cy + ay * radius * np.sin(angle),
        rx=rx,
        ry=rx * rng.uniform(0.8, 1.3),
        contrast=rng.uniform(0.2, 0.34),
    )


def render(chest: Chest, rows: int, columns: int) -> Grid:
    """The radiograph, ``(rows, columns)`` float32 in [0,1], MONOCHROME2: dense is bright."""
    x, y = _unit_grid(chest, rows, columns)
    body = _edge(1 - ((x - 0.5) / 0.47) ** 4 - ((y - 0.62) / 0.62) ** 4, 0.05)
    image = 0.04 + 0.54 * body
    for index, (cx, cy, ax, ay) in enumerate(LUNGS):
        dome = 0.76 + 0.05 * index + 0.6 * (x - cx) ** 2
        field = _edge(1 - ((x - cx) / ax) ** 2 - np.abs((y - cy) / ay) ** 3, 0.12) * _edge(dome - y, 0.012)
        image -= 0.36 * field
        arc = y + 0.9 * (x - cx) ** 2 + 0.25 * np.abs(x - 0.5)
        image += 0.045 * field * (np.sin(2 * np.pi * arc / 0.082) > 0.35)
    image += 0.2 * np.exp(-(((x - 0.5) / 0.045) ** 2))
    image += 0.02 * np.exp(-(((x - 0.5) / 0.03) ** 2)) * np.sin(2 * np.pi * y / 0.06)
    heart = _edge(1 - ((x - 0.565) / (0.115 * chest.heart)) ** 2 - ((y - 0.66) / 0.125) ** 2, 0.15)
    image = np.maximum(image, 0.62 * heart)
    for side in (-1, 1):
        image += (
            0.07
            * np.exp(-(((y - 0.2 + 0.12 * side * (x - 0.5)) / 0.012) ** 2))
            * (np.abs(x - 0.5 - 0.19 * side) < 0.16)
        )
    for lesion in chest.lesions:
        image += lesion.contrast * _edge(1 - _radius(lesion, x, y) ** 2, 0.25)
    image = np.where((np.abs(x - 0.1) < 0.015) & (np.abs(y - 0.09) < 0.03), 0.95, image)
    rng = np.random.default_rng((chest.seed, rows, columns))
    image += rng.normal(0, 0.012, image.shape)
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)


def boxes(chest: Chest, rows: int, columns: int) -> tuple[tuple[float, float, float, float], ...]:
    """Tight box ``(x0, y0, x1, y1)`` of each lesion in pixels of a ``(rows, columns)`` rendering."""
    return tuple(
        (
            (0.5 + chest.shift_x + (lesion.x - lesion.rx - 0.5) * chest.scale) * columns,
            (0.5 + chest.shift_y + (lesion.y - lesion.ry - 0.5) * chest.scale) * rows,
            (0.5 + chest.shift_x + (lesion.x + lesion.rx - 0.5) * chest.scale) * columns,
            (0.5 + chest.shift_y + (lesion.y + lesion.ry - 0.5) * chest.scale) * rows,
        )
        for lesion in chest.lesions
    )


def collection(train: int = 1200, val: int = 200, test: int = 200) -> Collection:
    """Phantoms as a data set; nothing is stored, the seed is the image."""
    splits: tuple[tuple[Split, int], ...] = (("train", train), ("val", val), ("test", test))
    wanted = [split for split, count in splits for _ in range(count)]
    return Collection(
        "phantom", tuple(_case(seed, split) for seed, split in enumerate(wanted)), _load, DESCRIPTION, LICENCE
    )


def _case(seed: int, split: Split) -> Case:
    chest = make_chest(seed)
    placed = boxes(chest, 1000, 1000)
    return Case(
        image_id=str(seed),
        group=str(seed),
        split=split,
        label="abnormal" if chest.lesions else "normal",
        boxes=placed,
        rows=1000,
        columns=1000,
        expert=True,
        findings=frozenset(lesion.finding for lesion in chest.lesions),
        exhaustive=True,
        box_findings=tuple(frozenset([lesion.finding]) for lesion in chest.lesions),
        votes=(1,) * len(chest.lesions),
        marks=tuple(Mark(box, lesion.finding, READER) for box, lesion in zip(placed, chest.lesions, strict=True)),
        panel=(READER,),
    )


def _load(case: Case, size: int) -> Grid:
    return render(make_chest(int(case.image_id)), size, size)


def _unit_grid(chest: Chest, rows: int, columns: int) -> tuple[Grid, Grid]:
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    x = (x - 0.5 - chest.shift_x) / chest.scale + 0.5
    y = (y - 0.5 - chest.shift_y) / chest.scale + 0.5
    return x.astype(np.float32), y.astype(np.float32)


def _radius(lesion: Lesion, x: Grid, y: Grid) -> Grid:
    return np.asarray(np.hypot((x - lesion.x) / lesion.rx, (y - lesion.y) / lesion.ry), dtype=np.float32)


def _edge(inside: Grid, softness: float) -> Grid:
    """0 outside, 1 inside, a smooth step as wide as ``softness``."""
    t = np.clip(inside / softness, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
