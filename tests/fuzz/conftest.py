"""How many cases, from which seed, and what they are made of."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from fuzz import corpus
from support.senders import Part10

_CASES, _SEED = os.environ.get("FUZZ_CASES"), os.environ.get("FUZZ_SEED")


@pytest.fixture(scope="session")
def cases() -> int:
    """How many in all the tests together, ``$FUZZ_CASES``: some at each layer, some against a whole node."""
    return int(_CASES or 2000)


@pytest.fixture(scope="session")
def seed() -> str:
    """``$FUZZ_SEED``; the same in every plain run, a new one in each ``make fuzz``."""
    seed = _SEED or (secrets.token_hex(4) if _CASES else "1")
    print(f"FUZZ_SEED={seed}")
    return seed


@pytest.fixture(scope="session")
def sources() -> list[Part10]:
    """Made radiographs, and the small hostile files of CHEXNODE_SHARED where there are some."""
    shared = os.environ.get("CHEXNODE_SHARED") or Path(__file__).parents[3] / "shared"
    return corpus.images() + corpus.hostile(Path(shared) / "data" / "dicom")
