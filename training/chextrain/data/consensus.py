"""What several readers who drew boxes on one image agree on. Pure functions on boxes.

Readers' boxes of one lesion overlap by 0.3 to 0.4 only (union IoU), so how they are joined decides what is learnt and
what is scored. ``soft`` is what :func:`chextrain.data.cases.share` draws: the share of the readers for each pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from chextrain.data.cases import Box, Mark
from chextrain.data.kinds import Consensus

SAME_READER = 0.9
"""Boxes of one reader that overlap so much are one box drawn twice."""
CLUSTER_IOU = 0.25
WBF_IOU = 0.4
"""IoU from which boxes are fused, as in the second place of the VinBigData challenge.

Others took 0.45 to 0.5, the third place any overlap.
"""


@dataclass(frozen=True, slots=True)
class Agreed:
    """A box that some readers agree on."""

    box: Box
    findings: frozenset[str]
    """What they called it."""
    readers: frozenset[str]
    """Who drew it; as many as there are votes."""


def agree(marks: Sequence[Mark], panel: Sequence[str], how: Consensus) -> tuple[Agreed, ...]:
    """The boxes that ``how`` makes of the ``marks`` on one image, read by ``panel``."""
    methods: Mapping[Consensus, Callable[[], tuple[Agreed, ...]]] = {
        Consensus.UNION: lambda: every(marks),
        Consensus.SOFT: lambda: every(marks),
        Consensus.VOTE: lambda: majority(marks, len(panel)),
        Consensus.WBF: lambda: weighted_boxes_fusion(marks),
        Consensus.CLUSTER: lambda: clusters(marks),
    }
    return methods[how]()


def every(marks: Sequence[Mark]) -> tuple[Agreed, ...]:
    """Every box as it was drawn, with the readers who drew the same finding there (IoU at least 0.25), in order."""
    return tuple(
        Agreed(
            mark.box,
            frozenset([mark.finding]),
            frozenset(
                [mark.reader]
                + [m.reader for m in marks if m.finding == mark.finding and iou(m.box, mark.box) >= CLUSTER_IOU]
            ),
        )
        for mark in marks
    )


def majority(marks: Sequence[Mark], readers: int) -> tuple[Agreed, ...]:
    """Boxes whose union are exactly the pixels that more than half of ``readers`` marked, whatever they called it.

    A pixel has k votes where k boxes of k readers meet, so these are the intersections of boxes of k readers.
    """
    needed = readers // 2 + 1
    found = {(mark.box, frozenset([mark.reader])): frozenset([mark.finding]) for mark in marks}
    for _ in range(needed - 1):
        wider: dict[tuple[Box, frozenset[str]], frozenset[str]] = {}
        for (box, who), names in found.items():
            for mark in marks:
                common = _intersection(box, mark.box)
                if mark.reader not in who and _area(common) > 0:
                    key = (common, who | {mark.reader})
                    wider[key] = wider.get(key, frozenset()) | names | {mark.finding}
        found = wider
    joined: dict[Box, Agreed] = {}
    for (box, who), names in found.items():
        other = joined.get(box, Agreed(box, frozenset(), frozenset()))
        joined[box] = Agreed(box, other.findings | names, other.readers | who)
    return tuple(joined.values())


def weighted_boxes_fusion(
    marks: Sequence[Mark], threshold: float = WBF_IOU, *, by_finding: bool = True
) -> tuple[Agreed, ...]:
    """Weighted boxes fusion (Solovyev, Wang and Gabruseva, Image and Vision Computing 2021;107:104117, section 3) with
    equal scores: readers give none. ``by_finding=False`` fuses boxes whatever they are called.

    Departs from the paper in one thing: a fused box carries who drew it, not a rescaled confidence.
    """
    fused: list[list[Mark]] = []
    boxes: list[Box] = []
    for mark in marks:
        overlaps = [
            iou(box, mark.box) if not by_finding or group[0].finding == mark.finding else 0.0
            for box, group in zip(boxes, fused, strict=True)
        ]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] > threshold:
            fused[best].append(mark)
            boxes[best] = _mean(fused[best])
        else:
            fused.append([mark])
            boxes.append(mark.box)
    return tuple(_agreed(group) for group in fused)


def clusters(marks: Sequence[Mark], threshold: float = CLUSTER_IOU, *, by_finding: bool = True) -> tuple[Agreed, ...]:
    """Mean boxes of the connected components of "overlaps by at least ``threshold`` and is another reader's".

    What one reader drew twice (IoU at least 0.9, same finding) counts once. ``by_finding=False`` joins boxes whatever
    they are called.
    """
    kept = without_repeats(marks)
    edges = [
        (i, j)
        for (i, a), (j, b) in combinations(enumerate(kept), 2)
        if a.reader != b.reader and (a.finding == b.finding or not by_finding) and iou(a.box, b.box) >= threshold
    ]
    first, second = (np.array([edge[side] for edge in edges], dtype=np.intp) for side in (0, 1))
    graph = coo_array((np.ones(len(edges)), (first, second)), shape=(len(kept), len(kept)))
    count, member = connected_components(graph, directed=False) if kept else (0, np.zeros(0, np.intp))
    return tuple(_agreed([kept[i] for i in np.flatnonzero(member == index)]) for index in range(count))


def without_repeats(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """``marks`` without those that repeat an earlier one of the same reader and finding (IoU at least 0.9)."""
    kept: list[Mark] = []
    for mark in marks:
        own = (m for m in kept if (m.reader, m.finding) == (mark.reader, mark.finding))
        if not any(iou(m.box, mark.box) >= SAME_READER for m in own):
            kept.append(mark)
    return tuple(kept)


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, 0 where both are empty."""
    common = _area(_intersection(first, second))
    union = _area(first) + _area(second) - common
    return common / union if union > 0 else 0.0


def _intersection(first: Box, second: Box) -> Box:
    return (
        max(first[0], second[0]),
        max(first[1], second[1]),
        min(first[2], second[2]),
        min(first[3], second[3]),
    )


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _mean(marks: Sequence[Mark]) -> Box:
    x0, y0, x1, y1 = np.mean([mark.box for mark in marks], axis=0).tolist()
    return x0, y0, x1, y1


def _agreed(marks: Sequence[Mark]) -> Agreed:
    return Agreed(_mean(marks), frozenset(m.finding for m in marks), frozenset(m.reader for m in marks))
