"""What a recipe is: a network's architecture and the function that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from chextrain.config import Config
from chextrain.data.arrays import Arrays
from chextrain.runs import Parameters


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train a network."""

    name: str
    architecture: str
    """In :data:`chexmodels.registry.NETWORKS`."""
    parameters: Callable[..., Parameters]
    """Configuration (and ``findings``) -> arguments of the architecture."""
    train: Callable[..., nn.Module]
    """Called with training and validation images, configuration and folder, and by keyword with ``resume``, the
    networks of its :mod:`chextrain.recipes.stages` and ``findings``. Chooses by the validation images and leaves
    everything in the folder; raises ``ConfigError`` for values that make no network."""
    findings: Callable[[Arrays, Arrays, Config], Sequence[str]] | None = None
    """Of a recipe with a member for each finding: which ones, from the training and validation images."""
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Values that differ from the configuration's own defaults, by section."""
