"""What a recipe is: a network's architecture, what it begins with, and the function that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from chextrain.config import Config
from chextrain.data.arrays import Arrays
from chextrain.runs import Parameters


@dataclass(frozen=True, slots=True)
class Stage:
    """A run that a recipe can begin with."""

    recipe: str
    """The recipe that makes such runs; others of its architecture serve as well."""
    help: str
    epochs: Callable[[Config], int] = lambda config: 0
    """``training.epochs`` with which it is trained where no run of it is given; 0: it is not trained."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to train a network."""

    name: str
    architecture: str
    """In :data:`chexmodels.registry.NETWORKS`."""
    parameters: Callable[..., Parameters]
    """Configuration (and ``findings``) -> arguments of the architecture."""
    train: Callable[..., nn.Module]
    """Called with training and validation images, configuration and folder, and by keyword with ``resume``, the stages'
    networks and ``findings``. Chooses by the validation images and leaves everything in the folder;
    raises ``ConfigError`` for values that make no network."""
    stages: Mapping[str, Stage] = field(default_factory=dict)
    """By the name of the option and of the argument of ``train``."""
    findings: Callable[[Arrays, Arrays, Config], Sequence[str]] | None = None
    """Of a recipe with a member for each finding: which ones, from the training and validation images."""
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Values that differ from the configuration's own defaults, by section."""
