"""Lightning without what it says to nobody in particular: advertisements, and warnings of what is meant so."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = (
    r"Checkpoint directory .* exists and is not empty",  # run.json lies there, or the run is resumed
    r"Found \d+ module\(s\) in eval mode",  # frozen layers
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The '\w+' does not have many workers",  # training.workers says why
    r"Detected call of `lr_scheduler\.step\(\)` before",  # a resumed run
    r"The dirpath has changed from",
    r"To get the last learning rate computed",  # what a resumed schedule is asked for
)
"""Patterns of warnings that tell the user of ``chextrain`` nothing."""


@contextmanager
def quiet() -> Iterator[None]:
    """Only warnings and errors of Lightning, and none of the ``EXPECTED`` ones, while this is open."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for pattern in EXPECTED:
                warnings.filterwarnings("ignore", message=pattern)
            yield
    finally:
        logger.setLevel(before)
