"""Splits by a hash: stable, disjoint by group, and honest about how well the strata came out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from chextrain.data.cases import Case, Split
from chextrain.data.rows import HASHED
from chextrain.data.splits import assign, straddling, strata, uneven


def image(number: int, split: Split = "train", **values: object) -> Case:
    case = Case(str(number), f"g{number}", split, "normal", (), 10, 10, True, frozenset(), True)
    return replace(case, **values)  # type: ignore[arg-type]


def test_membership_is_the_hash_of_seed_and_group_and_nothing_else() -> None:
    """These are promises: a release that moves an image between splits makes every earlier number worthless."""
    expected = ["train", "train", "test", "train", "train", "train", "test", "test", "train", "train", "test", "train"]
    assert [assign(f"patient-{i}", 0, HASHED) for i in range(12)] == expected


def test_shares_come_out_as_asked() -> None:
    count = Counter(assign(str(i), 7, HASHED) for i in range(20_000))
    assert count["train"] == pytest.approx(16_000, abs=250)
    assert count["val"] == pytest.approx(2_000, abs=200)
    assert count["test"] == pytest.approx(2_000, abs=200)
    assert {assign(str(i), 0, {"train": 90, "val": 10}) for i in range(200)} == {"train", "val"}


def test_another_seed_shares_out_otherwise() -> None:
    first, second = ([assign(str(i), seed, HASHED) for i in range(200)] for seed in (0, 1))
    assert first != second


def test_groups_that_straddle_are_named() -> None:
    cases = [image(1), image(2), image(4, "val", group="g2"), image(3, "test", group="g1")]
    assert straddling(cases) == {"g1": ("test", "train"), "g2": ("train", "val")}
    assert straddling([image(i, assign(f"g{i}", 0, HASHED)) for i in range(300)]) == {}


def test_strata_are_label_findings_panel_and_spacing() -> None:
    case = image(1, findings=frozenset("abcd"), panel=("R8", "R9"), strata={"spacing": "0.139", "source": "x"})
    assert list(strata(case)) == [
        ("label", "normal"),
        ("findings named", "3 or more"),
        ("readers", "R8 R9"),
        ("spacing", "0.139"),
    ]


def test_a_hash_leaves_the_strata_even() -> None:
    cases = [
        image(i, assign(f"g{i}", 0, HASHED), label="abnormal" if i % 3 else "normal", strata={"spacing": f"0.1{i % 5}"})
        for i in range(3000)
    ]
    assert uneven(cases) == ()


def test_a_stratum_that_one_split_lacks_is_named() -> None:
    """The author's split put images into test by the number of their findings."""
    cases = [image(i, assign(f"g{i}", 0, HASHED), findings=frozenset("abc"[: i % 4])) for i in range(3000)]
    moved = [replace(c, split="train") if c.split == "test" and len(c.findings) > 1 else c for c in cases]
    worst = uneven(moved)[0]
    assert (worst.kind, worst.split) == ("findings named", "test")
    assert worst.groups < worst.expected / 2 or worst.groups > worst.expected * 1.5
    assert "groups in test where" in str(worst)


def test_many_images_of_one_patient_are_one_draw() -> None:
    """Uneven is judged by patients: 200 images of one patient are no evidence."""
    cases = [image(i, assign(f"g{i}", 0, HASHED)) for i in range(1000)]
    many = [image(10_000 + i, "test", group="same", strata={"spacing": "0.139"}) for i in range(200)]
    assert uneven([*cases, *many]) == ()
