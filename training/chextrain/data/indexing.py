"""What ``chextrain index`` says of a data set: counts, bad rows by name, and how its numbers could flatter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from chextrain.data.build import Built
from chextrain.data.cases import Case, Collection
from chextrain.data.images import BadImage, pixels
from chextrain.data.leakage import Copy, auroc_of, copies, descriptor, labels_by
from chextrain.data.processes import in_processes, watched
from chextrain.data.rows import Listing
from chextrain.data.splits import uneven

SHORTCUTS = ("source", "spacing", "manufacturer", "view")
"""Strata from which a label may be guessed without looking at the image."""
SHOWN = 20
"""Values and problems that are spelt out."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Counts of one split. ``disputed``: the readers differ whether there is anything."""

    images: int
    groups: int
    normal: int
    abnormal: int
    boxed: int
    disputed: int

    @classmethod
    def of(cls, cases: Sequence[Case]) -> SplitCounts:
        """Count ``cases``."""
        label = Counter(case.label for case in cases)
        boxed = sum(bool(case.boxes) for case in cases)
        groups = len({case.group for case in cases})
        return cls(len(cases), groups, label["normal"], label["abnormal"], boxed, label["conflict"])


@dataclass(frozen=True, slots=True)
class Index:
    """The answer, as numbers and names; ``problems`` or ``copies`` mean that it should not be used as it is."""

    name: str
    grouped_by: str
    total: SplitCounts
    splits: Mapping[str, SplitCounts]
    findings: Mapping[str, Mapping[str, int]]
    """Finding -> ``images``, and ``boxes`` as readers drew them."""
    readers: Mapping[str, int]
    """Reader -> images on which a statement of theirs is known."""
    panels: Mapping[str, int]
    """Readers who read together -> images."""
    boxes: int
    """Boxes as the readers drew them, before the consensus."""
    agreed: int
    """After the consensus."""
    votes: Mapping[int, int]
    """Readers who agree on a box -> such boxes."""
    clipped: int
    dropped: int
    repeated: int
    notes: Mapping[str, int]
    strata: Mapping[str, Mapping[str, int]]
    """Kind -> value -> images."""
    shortcuts: Mapping[str, float]
    """Kind of stratum -> image AUROC of guessing from it alone."""
    uneven: tuple[str, ...]
    problems: tuple[str, ...]
    copies: tuple[str, ...] = ()
    """Of an image in another split."""
    copies_inside: tuple[str, ...] = ()
    """Of an image of another group in the same split."""
    decoded: int | None = None
    """Images that were decoded; None: none was asked for."""

    @property
    def usable(self) -> bool:
        """Nothing was found that must be mended first."""
        return not self.problems and not self.copies


def index(listing: Listing | None, built: Built) -> Index:
    """Count and check without opening an image; ``listing`` is None for what is drawn."""
    cases = built.collection.cases
    drawn = [(mark.finding, mark.reader) for case in cases for mark in case.marks]
    named = Counter(finding for case in cases for finding in case.findings)
    boxes = Counter(finding for finding, _ in drawn)
    said: dict[str, set[str]] = {}
    for row in listing.rows if listing else ():
        said.setdefault(row.reader, set()).add(row.image_id)
    shortcuts = {kind: labels_by(cases, kind) for kind in SHORTCUTS}
    strata = {kind: Counter(c.strata[kind] for c in cases if kind in c.strata) for kind in (*SHORTCUTS, "readers")}
    return Index(
        name=built.collection.name,
        grouped_by=listing.grouped_by if listing else "image",
        total=SplitCounts.of(cases),
        splits={split: SplitCounts.of([c for c in cases if c.split == split]) for split in SPLITS},
        findings={name: {"images": count, "boxes": boxes[name]} for name, count in named.most_common()},
        readers={reader: len(images) for reader, images in sorted(said.items())},
        panels=dict(Counter(" ".join(case.panel) for case in cases if len(case.panel) > 1).most_common()),
        boxes=len(drawn),
        agreed=sum(len(case.boxes) for case in cases),
        votes=dict(sorted(Counter(vote for case in cases for vote in case.votes).items())),
        clipped=built.clipped,
        dropped=built.dropped,
        repeated=built.repeated,
        notes=dict(listing.notes) if listing else {},
        strata={kind: dict(counts.most_common()) for kind, counts in strata.items() if counts},
        shortcuts={kind: auroc_of(table) for kind, table in shortcuts.items() if len(table) > 1},
        uneven=tuple(map(str, uneven([case for case in cases if case.image_id in built.hashed]))),
        problems=tuple(map(str, built.problems)),
    )


def with_images(found: Index, collection: Collection) -> Index:
    """``found``, after decoding every image: those that cannot be are problems, copies across splits are named."""
    cases = [case for case in collection.cases if case.path is not None]
    answers = watched(in_processes(examined, cases), "decoding", len(cases))
    good, descriptors, problems = [], [], []
    for case, answer in zip(cases, answers, strict=True):
        if isinstance(answer, str):
            problems.append(f"{case.image_id}: {answer}")
        else:
            good.append(case)
            descriptors.append(answer)
    pairs = copies(good, np.array(descriptors), across=False) if good else ()
    return replace(
        found,
        problems=(*found.problems, *problems),
        copies=tuple(str(pair) for pair in pairs if pair.first.split != pair.second.split),
        copies_inside=tuple(str(pair) for pair in pairs if _strangers(pair)),
        decoded=len(good),
    )


def examined(case: Case) -> NDArray[np.float32] | str:
    """The descriptor of an image, or why there is none."""
    try:
        assert case.path is not None
        image = pixels(case.path)
    except BadImage as error:
        return str(error)
    if image.shape != (case.rows, case.columns):
        return f"{case.path.name}: decodes to {image.shape} instead of {(case.rows, case.columns)}"
    return descriptor(image)


def _strangers(pair: Copy) -> bool:
    return pair.first.split == pair.second.split and pair.first.group != pair.second.group


@dataclass
class _Lines:
    text: list[str] = field(default_factory=list)

    def table(self, title: str, values: Mapping[str, object]) -> None:
        if values:
            shown = [f"{value} {count}" for value, count in list(values.items())[:SHOWN]]
            more = [f"and {len(values) - SHOWN} more"] if len(values) > SHOWN else []
            self.text.append(f"{title}: {', '.join([*shown, *more])}")

    def listed(self, title: str, lines: Sequence[str]) -> None:
        if lines:
            self.text += ["", f"{title} ({len(lines)}):", *(f"  {line}" for line in lines[:SHOWN])]
            self.text += [f"  ... and {len(lines) - SHOWN} more; --json has them all"] if len(lines) > SHOWN else []


def text(found: Index) -> str:
    """For a terminal."""
    lines = _Lines()
    head = f"{found.name}: {found.total.images} images, {found.total.groups} groups ({found.grouped_by}s)"
    lines.text += [
        head,
        "",
        f"{'':8}{'images':>8}{'groups':>8}{'normal':>8}{'abnormal':>10}{'boxed':>8}{'disputed':>10}",
    ]
    for name, part in (*found.splits.items(), ("all", found.total)):
        lines.text.append(
            f"{name:8}{part.images:8}{part.groups:8}{part.normal:8}{part.abnormal:10}{part.boxed:8}{part.disputed:10}"
        )
    lines.text.append("")
    lines.text.append(
        f"boxes: {found.boxes} drawn, {found.agreed} after consensus; {found.clipped} clipped at the edge, "
        f"{found.dropped} of no area dropped, {found.repeated} drawn twice by one reader"
    )
    lines.table("readers who agree on a box", {str(count): boxes for count, boxes in found.votes.items()})
    lines.table("findings (images/boxes)", {n: f"{c['images']}/{c['boxes']}" for n, c in found.findings.items()})
    lines.table("readers (images)", found.readers)
    lines.table("panels (images)", found.panels)
    for kind, values in found.strata.items():
        lines.table("most readers who agree (images)" if kind == "readers" else f"{kind} (images)", values)
    for kind, value in found.shortcuts.items():
        if not math.isnan(value):
            lines.text.append(f"{kind} alone tells abnormal from normal with AUROC {value:.2f}")
    if found.grouped_by == "image":
        lines.text.append("the data name no patients: that no image is in two splits is known, of patients nothing is")
    for note, count in found.notes.items():
        lines.text.append(f"{note}: {count}")
    if found.decoded is not None:
        lines.text.append(f"decoded: {found.decoded}")
    lines.listed("shared out unevenly among the splits; another --split-seed may do better", found.uneven)
    lines.listed("one image under two names in one split", found.copies_inside)
    lines.listed("one image in two splits", found.copies)
    lines.listed("rows that cannot be used", found.problems)
    return "\n".join(lines.text)
