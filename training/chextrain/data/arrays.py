"""A split as arrays: images decoded once, in parallel, kept as files that are mapped, not read; targets from the boxes.

VinDr-CXR at 512 px is 4 GB of images: with a cache folder nothing of it has to fit into memory.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

import chexmodels.dicom.codestream
import chexmodels.dicom.decode
import chexmodels.dicom.greyscale
import chexmodels.pixels
from chextrain.data.cases import Case, Collection, box_mask, drawn, share
from chextrain.data.images import eight_bit, rendered, stamp
from chextrain.data.processes import in_processes, watched

T = TypeVar("T", bound=np.generic)
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""``image, target, weight, named``, see :class:`Samples`."""
PIPELINE = (chexmodels.dicom.codestream, chexmodels.dicom.decode, chexmodels.pixels, chexmodels.dicom.greyscale)
"""The modules whose source decides what pixels look like: a change there makes decoded images stale."""


@dataclass(frozen=True)
class Arrays:
    """Cases of one split with their pixels; ``images``, ``targets`` and ``soft`` are ``(N,S,S)``, perhaps mapped files,
    not to be written to.
    """

    cases: tuple[Case, ...]
    images: NDArray[np.uint8]
    targets: NDArray[np.bool_]
    """The union of the boxes: what predictions are scored against."""
    soft: NDArray[np.uint8] | None = None
    """Share of the readers who marked a pixel, times 255: what is learnt, where the collection says so."""

    def where(self, keep: Sequence[bool]) -> Arrays:
        """Only the cases for which ``keep`` is true; all of them stay the mapped files that they are."""
        if all(keep):
            return self
        index = np.flatnonzero(keep)
        soft = None if self.soft is None else self.soft[index]
        return Arrays(tuple(self.cases[i] for i in index), self.images[index], self.targets[index], soft)

    def without(self, findings: Iterable[str]) -> Arrays:
        """Only the cases that show none of ``findings``."""
        return self.where([case.findings.isdisjoint(findings) for case in self.cases])

    def only(self, finding: str) -> Arrays:
        """These images with the boxes of one finding alone."""
        cases = tuple(case.only(finding) for case in self.cases)
        size = self.images.shape[-1]
        soft = None if self.soft is None else _filled(None, len(cases), size, np.uint8, _shares(cases, size))
        return Arrays(cases, self.images, _filled(None, len(cases), size, np.bool_, _masks(cases, size)), soft)

    def boxed(self, least: int = 1) -> tuple[str, ...]:
        """Findings that are boxed on ``least`` images to learn where from, the commonest first."""
        shown = (frozenset().union(*case.box_findings) for case in self.cases if case.localised)
        counts = Counter(sorted(name for names in shown for name in names))
        return tuple(name for name, count in counts.most_common() if count >= least)

    def labels(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Which of ``names`` any reader of an image named, boxed or not: ``(N, len(names))``."""
        told = [[name in case.findings for name in names] for case in self.cases]
        return np.array(told, dtype=np.bool_).reshape(len(self.cases), len(names))

    def classes(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Which of ``names`` each image is said to show, ``(N, len(names))``; see ``Case.classes``."""
        told = [[name in case.classes for name in names] for case in self.cases]
        return np.array(told, dtype=np.bool_).reshape(len(self.cases), len(names))

    @property
    def fraction(self) -> float:
        """Mean share of the frame that is inside a box."""
        return float(self.targets.mean())


def load(collection: Collection, split: str, size: int, cache: Path | None) -> Arrays:
    """Decode one split at ``size``; with ``cache``, keep what was made in that folder and map it the next time.

    What is kept is found again only while the files, the boxes, the size and the code that makes pixels are the same.
    Raises ``chextrain.data.images.BadImage`` with the name of the first file that cannot be decoded.
    """
    cases = collection.split(split)  # type: ignore[arg-type]
    name = f"{collection.name}-{split}-{size}"
    boxes = [repr((c.image_id, c.rows, c.columns, c.boxes, c.panel, c.marks)) for c in cases]

    def file(what: str, *parts: Iterable[str]) -> Path | None:
        digest = hashlib.sha256("\n".join([what, name, *(p for part in parts for p in part)]).encode()).hexdigest()
        return cache / f"{name}-{what}-{digest[:16]}.npy" if cache else None

    count, title = len(cases), f"decoding {collection.name} {split}"
    images = file("images", _code(collection), (c.image_id for c in cases), stamp(c.path for c in cases))
    return Arrays(
        cases,
        _filled(images, count, size, np.uint8, _decoded(collection, cases, size, title)),
        _filled(file("targets", boxes), count, size, np.bool_, _masks(cases, size)),
        _filled(file("soft", boxes), count, size, np.uint8, _shares(cases, size)) if collection.soft else None,
    )


def _filled(path: Path | None, count: int, size: int, dtype: type[T], items: Iterable[NDArray[T]]) -> NDArray[T]:
    """``items`` stacked, in memory or, given a ``path``, as the mapped file that is there or is made."""
    shape = (count, size, size)
    if path is None or not count:
        return _stack(np.empty(shape, dtype), items)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            mapped = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
            _stack(mapped, items)
            mapped.flush()
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
    kept: NDArray[T] = np.load(path, mmap_mode="r")
    return kept


def _stack(array: NDArray[T], items: Iterable[NDArray[T]]) -> NDArray[T]:
    for index, item in enumerate(items):
        array[index] = item
    return array


def _masks(cases: Sequence[Case], size: int) -> Iterator[NDArray[np.bool_]]:
    return (box_mask(case, size) for case in cases)


def _shares(cases: Sequence[Case], size: int) -> Iterator[NDArray[np.uint8]]:
    return (eight_bit(share(case, size)) for case in cases)


def _decoded(collection: Collection, cases: Sequence[Case], size: int, title: str) -> Iterator[NDArray[np.uint8]]:
    work = partial(rendered, collection.load, size=size)
    yield from watched(in_processes(work, cases), title, len(cases))


def _code(collection: Collection) -> Iterator[str]:
    """Digests of the sources that decide what the pixels look like."""
    for module in (*PIPELINE, sys.modules[collection.load.__module__]):
        yield hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()


class Samples(Dataset[Batch]):
    """``image, target, weight, named``, each ``(1,S,S)`` float32.

    Weight lowers the pixels whose label is only half known. Bit k of ``named`` says that a box of ``findings[k]`` is
    here; there are at most ``NAMES`` bits, which float32 holds exactly.
    A box of a share ``a`` of the frame weighs ``(TYPICAL / a) ** balance``, from 1 to ``HEAVIEST``: with 1 each box
    counts alike, with 0 each pixel.
    """

    TYPICAL = 0.05
    HEAVIEST = 8.0
    NAMES = 24

    def __init__(
        self, arrays: Arrays, unboxed_weight: float = 1.0, balance: float = 0.0, findings: Sequence[str] = ()
    ) -> None:
        self.arrays = arrays
        self.bits = {name: 1 << index for index, name in enumerate(findings)}
        self.unboxed_weight = unboxed_weight
        self.balance = balance

    def __len__(self) -> int:
        return len(self.arrays.cases)

    def __getitem__(self, index: int) -> Batch:
        case, soft = self.arrays.cases[index], self.arrays.soft
        image = torch.from_numpy(np.array(self.arrays.images[index]))[None].float() / 255
        if soft is None:
            target = torch.from_numpy(np.array(self.arrays.targets[index]))[None].float()
        else:
            target = torch.from_numpy(np.array(soft[index]))[None].float() / 255
        # Outside the boxes of an image with one boxed finding there may be others that nobody boxed.
        doubtful = bool(case.boxes) and not case.exhaustive
        weight = torch.where(target > 0, 1.0, self.unboxed_weight) if doubtful else torch.ones_like(target)
        for box in case.boxes if self.balance else ():
            inside = torch.from_numpy(drawn([box], case.rows, case.columns, image.shape[-1]))[None]
            heavy = (self.TYPICAL / float(inside.float().mean())) ** self.balance
            weight[inside] = weight[inside].clamp(min=min(heavy, self.HEAVIEST))
        return image, target, weight, self._named(case, image.shape[-1])

    def _named(self, case: Case, size: int) -> Tensor:
        named = np.zeros((1, size, size), dtype=np.int32)
        for box, names in zip(case.boxes, case.box_findings, strict=False):
            if bits := sum(self.bits.get(name, 0) for name in names):
                named[0][drawn([box], case.rows, case.columns, size)] |= bits
        return torch.from_numpy(named).float()
