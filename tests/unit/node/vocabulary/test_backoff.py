"""Back-off: the ceiling doubles up to the cap, and the wait is drawn evenly below it."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexnode.vocabulary.backoff import Backoff


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(1, 1), (2, 2), (3, 4), (4, 8), (6, 32), (7, 60), (8, 60), (1_000_000, 60)]
)
def test_the_ceiling_doubles_up_to_the_cap(failures: int, ceiling: float) -> None:
    assert Backoff().ceiling(failures) == ceiling


def test_base_and_cap_scale_it() -> None:
    backoff = Backoff(base=0.25, cap=1.5)
    assert [backoff.ceiling(n) for n in (1, 2, 3, 4, 5)] == [0.25, 0.5, 1.0, 1.5, 1.5]


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_the_wait_lies_between_nothing_and_the_ceiling(failures: int, seed: int) -> None:
    backoff = Backoff()
    assert 0 <= backoff.delay(failures, random.Random(seed).uniform) <= backoff.ceiling(failures)


def test_the_jitter_is_full() -> None:
    """Waits fill the whole range: a tenth of them in each tenth, within chance."""
    uniform = random.Random(0).uniform
    waits = [Backoff().delay(7, uniform) for _ in range(5000)]
    tenths = [sum(6 * i <= wait < 6 * (i + 1) for wait in waits) for i in range(10)]
    assert min(tenths) > 400
    assert max(tenths) < 600


def test_a_destination_that_is_back_is_tried_within_its_90_seconds() -> None:
    from chexnode.deliver.courier import STEP_BACK_SECONDS
    from chexnode.keep.housekeeping import TICK_SECONDS

    assert Backoff().cap + STEP_BACK_SECONDS + TICK_SECONDS < 90


def test_it_is_a_value() -> None:
    assert Backoff() == Backoff(base=1, cap=60)
    with pytest.raises(FrozenInstanceError):
        Backoff().cap = 5  # type: ignore[misc]
