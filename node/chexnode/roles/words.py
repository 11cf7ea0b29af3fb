"""A site's own words of the gate, read when a role starts."""

from __future__ import annotations

from chexnode.settings.tree import Settings
from chexnode.triage.lexicon import lexicon


def read_words(settings: Settings) -> None:
    """Read them, which the gate would else miss at the first image. Raises Usage with the place."""
    lexicon(settings.gate.lexicon)
