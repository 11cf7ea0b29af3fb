"""The figures of a comparison of two models, against values worked out by hand."""

from __future__ import annotations

import pytest

from chexnode.ledger.comparisons import Pair, compare, kappa, ranks


def pair(number: int, a: bool | None, b: bool | None, score_a: float | None, score_b: float | None) -> Pair:
    return Pair(
        f"A{number}", f"1.2.{number}", f"1.2.{number}.3", "digest", a, b, score_a, score_b, f"a{number}", f"b{number}"
    )


def test_kappa_is_cohens() -> None:
    assert kappa(20, 5, 10, 15) == pytest.approx(0.4)  # the example of many textbooks
    assert kappa(0, 5, 5, 0) == pytest.approx(-1)
    assert kappa(3, 0, 0, 0) is None
    assert kappa(0, 0, 0, 0) is None


def test_equal_values_share_a_rank() -> None:
    assert ranks([0.5, 0.1, 0.5, 0.9]) == [2.5, 1, 2.5, 4]


def test_figures_and_discordant_images_with_the_greatest_difference_first() -> None:
    pairs = [
        pair(1, True, True, 0.9, 0.8),
        pair(2, True, False, 0.6, 0.4),
        pair(3, False, True, 0.1, 0.9),
        pair(4, False, False, 0.0, 0.1),
        pair(5, None, True, None, 0.9),
    ]
    found = compare("A", "B", pairs, lambda uid: f"https://node/{uid}")
    assert (found.images, found.not_evaluated) == (4, 1)
    assert (found.both, found.only_a, found.only_b, found.neither) == (1, 1, 1, 1)
    assert (found.agreement, found.kappa) == (0.5, 0)
    assert found.spearman == pytest.approx(0.4)  # ranks 4 3 2 1 and 3 2 4 1
    assert found.pearson == pytest.approx(0.17 / (0.54 * 0.41) ** 0.5)
    assert [(one.accession_number, one.abnormal_b, one.link) for one in found.discordant] == [
        ("A3", True, "https://node/1.2.3"),
        ("A2", False, "https://node/1.2.2"),
    ]


def test_nothing_to_compare_gives_no_figures() -> None:
    found = compare("A", "B", [], lambda uid: None)
    assert (found.images, found.agreement, found.kappa, found.pearson, found.spearman) == (0, None, None, None, None)
