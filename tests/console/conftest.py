"""A browser in front of a node, one of each for a module. Without Chromium these tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from console.place import Place, place
from viewers.conftest import chromium  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A node that has something to show."""
    with place(tmp_path_factory.mktemp("console")) as made:
        yield made
