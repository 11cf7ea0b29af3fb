"""Which images teach, which choose, which are scored: by a hash of the patient, so that no image ever moves.

A hash cannot be stratified by choice without moving images when others are added. It is stratified on average; how well
it did is measured, per stratum, and another seed is the remedy where chance was unkind.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.stats import binomtest

from chextrain.data.cases import Case, Split

UNLIKELY = 1e-3
"""A stratum is called uneven where chance would do it less often than this, all strata taken together."""


def assign(group: str, seed: int, shares: Mapping[Split, int]) -> Split:
    """The split of a group: sha256("seed:group") modulo 100 against the per cents of ``shares``, which make 100."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()) % 100
    for split, share in shares.items():
        if number < share:
            return split
        number -= share
    raise ValueError(f"shares of {sum(shares.values())} per cent")


def folded(cases: Sequence[Case], count: int, number: int) -> tuple[Case, ...]:
    """``cases`` with the fold ``number`` (from 0) of ``count`` in val, and all others that are not test in train.

    The folds are those that the data set names, sorted; else those of a hash of the group: sha256("fold:group"), its
    first eight bytes modulo ``count``, so that adding data moves nobody. Raises ``ValueError`` where the data set names
    another number of folds.
    """
    named = sorted({case.fold for case in cases if case.split != "test" and case.fold})
    if named and len(named) != count:
        raise ValueError(f"the data set has {len(named)} folds, not {count}: {', '.join(named)}")

    def is_here(case: Case) -> bool:
        if named:
            return case.fold == named[number]
        return int.from_bytes(hashlib.sha256(f"fold:{case.group}".encode()).digest()[:8], "big") % count == number

    return tuple(
        case if case.split == "test" else replace(case, split="val" if is_here(case) else "train") for case in cases
    )


def strata(case: Case) -> Iterator[tuple[str, str]]:
    """What a split should hold its share of: (kind, value), one for each kind that is known of ``case``."""
    yield "label", case.label
    count = len(case.findings)
    yield "findings named", str(count) if count < 3 else "3 or more"
    if case.panel:
        yield "readers", " ".join(case.panel)
    yield from ((kind, case.strata[kind]) for kind in ("spacing", "view") if kind in case.strata)


@dataclass(frozen=True, slots=True)
class Uneven:
    """A stratum that one split has too many or too few of."""

    kind: str
    value: str
    split: str
    groups: int
    expected: float
    """Groups that the split's size would give it."""
    p: float
    """Of so uneven a count by chance: two-sided binomial test, times the number of tests (Bonferroni)."""

    def __str__(self) -> str:
        """In a line."""
        return f"{self.kind} {self.value}: {self.groups} groups in {self.split} where {self.expected:.0f} are expected"


def uneven(cases: Sequence[Case]) -> tuple[Uneven, ...]:
    """The strata whose groups are shared out among the splits otherwise than chance would, the worst first."""
    sizes = Counter({split: len({c.group for c in cases if c.split == split}) for split in ("train", "val", "test")})
    total = sizes.total()
    members: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for case in cases:
        for stratum in strata(case):
            members.setdefault(stratum, set()).add((case.split, case.group))
    tests = [(stratum, groups, split) for stratum, groups in members.items() for split in sizes if sizes[split]]
    found = []
    for (kind, value), groups, split in tests:
        count, share = sum(s == split for s, _ in groups), sizes[split] / total
        p = min(1.0, float(binomtest(count, len(groups), share).pvalue) * len(tests))
        if p < UNLIKELY:
            found.append(Uneven(kind, value, split, count, len(groups) * share, p))
    return tuple(sorted(found, key=lambda item: item.p))


def straddling(cases: Iterable[Case]) -> Mapping[str, tuple[str, ...]]:
    """Groups that are in several splits -> those splits."""
    found: dict[str, set[str]] = {}
    for case in cases:
        found.setdefault(case.group, set()).add(case.split)
    return {group: tuple(sorted(splits)) for group, splits in sorted(found.items()) if len(splits) > 1}
