"""What readers agree on: known cases, the reference implementation's numbers, and properties that must hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chextrain.data.cases import Case, Mark, drawn, share
from chextrain.data.consensus import (
    Consensus,
    agree,
    clusters,
    every,
    iou,
    majority,
    weighted_boxes_fusion,
    without_repeats,
)

MASS, OTHER = "Nodule/Mass", "Other lesion"
PANEL = ("R8", "R9", "R10")
MARKS = (
    Mark((100, 100, 300, 300), MASS, "R8"),
    Mark((600, 600, 700, 720), OTHER, "R8"),
    Mark((120, 90, 310, 290), MASS, "R9"),
    Mark((500, 100, 600, 180), MASS, "R9"),
    Mark((110, 110, 280, 330), MASS, "R10"),
    Mark((610, 590, 720, 700), OTHER, "R10"),
    Mark((615, 605, 705, 715), MASS, "R10"),
)


def boxes_of(found: object) -> list[tuple[list[float], int]]:
    return sorted((np.round(item.box, 3).tolist(), len(item.readers)) for item in found)  # type: ignore[attr-defined]


@pytest.mark.parametrize("threshold", [0.4, 0.55])
def test_weighted_boxes_fusion_gives_the_numbers_of_ensemble_boxes(threshold: float) -> None:
    """Expected: ensemble-boxes 1.0.9, coordinates over 1000, scores 1, one model a reader; score 2/3 is 2 readers."""
    expected = [
        ([110, 100, 296.667, 306.667], 3),
        ([500, 100, 600, 180], 1),
        ([605, 595, 710, 710], 2),
        ([615, 605, 705, 715], 1),
    ]
    assert boxes_of(weighted_boxes_fusion(MARKS, threshold)) == sorted(expected)


def test_class_blind_fusion_gives_the_numbers_of_ensemble_boxes() -> None:
    found = weighted_boxes_fusion(MARKS, by_finding=False)
    # its score of 1 counts boxes; of the three, two are of one reader
    assert boxes_of(found) == [
        ([110, 100, 296.667, 306.667], 3),
        ([500, 100, 600, 180], 1),
        ([608.333, 598.333, 708.333, 711.667], 2),
    ]
    assert {item.findings for item in found} == {frozenset([MASS]), frozenset([MASS, OTHER])}


def test_clusters_join_other_readers_boxes_of_one_finding() -> None:
    found = clusters((*MARKS, Mark((101, 100, 301, 300), MASS, "R8")))
    assert boxes_of(found) == [
        ([110, 100, 296.667, 306.667], 3),
        ([500, 100, 600, 180], 1),
        ([605, 595, 710, 710], 2),
        ([615, 605, 705, 715], 1),
    ]
    assert [len(item.readers) for item in clusters(MARKS, by_finding=False)] == [3, 2, 1]


def test_two_boxes_of_one_reader_are_not_joined_directly() -> None:
    near = (Mark((0, 0, 10, 10), MASS, "R1"), Mark((0, 0, 10, 8), MASS, "R1"))
    assert len(clusters(near)) == 2
    assert len(clusters((*near, Mark((0, 0, 10, 9), MASS, "R2")))) == 1  # by way of another reader's


def test_what_one_reader_drew_twice_counts_once() -> None:
    marks = (Mark((0, 0, 100, 100), MASS, "R1"), Mark((0, 0, 100, 95), MASS, "R1"), Mark((0, 0, 100, 95), OTHER, "R1"))
    assert without_repeats(marks) == (marks[0], marks[2])


def test_union_keeps_every_box_and_counts_who_agrees() -> None:
    found = every(MARKS)
    assert [item.box for item in found] == [mark.box for mark in MARKS]
    assert [len(item.readers) for item in found] == [3, 2, 3, 1, 3, 2, 1]


def test_majority_needs_two_of_three_whatever_the_finding() -> None:
    found = majority(MARKS, 3)
    assert all(len(item.readers) >= 2 for item in found)
    assert not any(item.box == (500, 100, 600, 180) for item in found)
    assert any(item.findings == {MASS, OTHER} for item in found)
    assert majority(MARKS[:1], 1)[0].box == MARKS[0].box
    assert majority(MARKS[:1], 3) == ()
    assert majority((MARKS[0], Mark(MARKS[0].box, MASS, "R8")), 3) == ()  # twice the same reader is one vote


def test_no_marks_make_no_boxes() -> None:
    for how in Consensus:
        assert agree((), PANEL, how) == ()


def test_overlap_of_boxes() -> None:
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


SIZE = 32
spans = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).filter(lambda p: p[0] < p[1])
marks_of = st.lists(
    st.builds(
        lambda x, y, finding, reader: Mark((x[0], y[0], x[1], y[1]), finding, reader),
        spans,
        spans,
        st.sampled_from((MASS, OTHER)),
        st.sampled_from(("R1", "R2", "R3", "R4", "R5")),
    ),
    max_size=7,
)


def votes(marks: list[Mark], panel: tuple[str, ...]) -> np.ndarray:
    """Readers for each pixel, counted the plain way."""
    count = np.zeros((SIZE, SIZE), dtype=int)
    for reader in panel:
        one = np.zeros((SIZE, SIZE), dtype=bool)
        for mark in marks:
            if mark.reader == reader:
                x0, y0, x1, y1 = map(int, mark.box)
                one[y0:y1, x0:x1] = True
        count += one
    return count


@given(marks_of, st.sampled_from([1, 2, 3, 4, 5]))
def test_majority_is_exactly_the_pixels_with_more_than_half_of_the_votes(marks: list[Mark], readers: int) -> None:
    panel = ("R1", "R2", "R3", "R4", "R5")[:readers]
    marks = [mark for mark in marks if mark.reader in panel]
    mask = drawn((item.box for item in majority(marks, readers)), SIZE, SIZE, SIZE)
    assert np.array_equal(mask, votes(marks, panel) > readers / 2)


@given(marks_of)
def test_soft_targets_are_votes_over_readers(marks: list[Mark]) -> None:
    panel = ("R1", "R2", "R3", "R4", "R5")
    boxes = tuple(mark.box for mark in marks)
    case = Case(
        "a", "a", "train", "abnormal", boxes, SIZE, SIZE, True, frozenset(), True, marks=tuple(marks), panel=panel
    )
    assert np.allclose(share(case, SIZE), votes(marks, panel) / 5)


@given(marks_of, st.sampled_from(list(Consensus)))
def test_nothing_is_agreed_outside_what_was_drawn(marks: list[Mark], how: Consensus) -> None:
    panel = ("R1", "R2", "R3", "R4", "R5")
    hull = np.array([mark.box for mark in marks] or [(0, 0, 0, 0)])
    for item in agree(marks, panel, how):
        assert (item.box[:2] >= hull[:, :2].min(axis=0)).all()
        assert (item.box[2:] <= hull[:, 2:].max(axis=0)).all()
        assert item.readers <= {mark.reader for mark in marks}
        assert item.findings <= {mark.finding for mark in marks}
        assert item.readers
        assert item.findings


@given(marks_of)
def test_clusters_do_not_depend_on_the_order_of_the_boxes(marks: list[Mark]) -> None:
    unlike = [m for m in marks if not any(m != o and m.reader == o.reader and iou(m.box, o.box) >= 0.9 for o in marks)]
    expected = boxes_of(clusters(unlike))
    for order in itertools.islice(itertools.permutations(unlike), 6):
        assert boxes_of(clusters(order)) == expected
