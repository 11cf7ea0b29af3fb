"""The recipes' names, and the runs that each can begin with: what the command line asks for before torch is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chextrain.config import Config

NAMES = (
    "masked",
    "supermodel",
    "encoder",
    "attention",
    "siamese",
    "chexnomaly",
    "specialist",
    "max_ensemble",
    "model_ensemble",
    "ddad",
    "cml",
)
"""Each is a module of this package with a ``RECIPE``."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A run that a recipe can begin with."""

    recipe: str
    """The recipe that makes such runs; others of its architecture serve as well."""
    help: str
    instead: Callable[[Config], str | None] = lambda config: None
    """The recipe that makes them in its place, where the configuration asks for one."""
    epochs: Callable[[Config], int] = lambda config: 0
    """``training.epochs`` with which it is trained where no run of it is given; 0: it is not trained."""

    def made_by(self, config: Config) -> str:
        """The recipe that makes such runs with this configuration."""
        return self.instead(config) or self.recipe


STAGES: Mapping[str, Mapping[str, Stage]] = {
    "supermodel": {
        "masked": Stage(
            "masked",
            "Run that a supermodel starts from; else trained if masked.epochs.",
            epochs=lambda config: config.masked.epochs,
        )
    },
    "chexnomaly": {
        "supermodel": Stage(
            "supermodel",
            "Run that chexnomaly starts from; else trained.",
            lambda config: config.chexnomaly.supermodel,
            lambda config: config.chexnomaly.supermodel_epochs if config.chexnomaly.warm_start else 0,
        ),
        "siamese": Stage(
            "siamese",
            "Run whose maps chexnomaly sees; else trained.",
            epochs=lambda config: (
                config.chexnomaly.siamese_epochs if config.chexnomaly.extractor == "contrastive" else 0
            ),
        ),
    },
    "model_ensemble": {
        "specialists": Stage("max_ensemble", "max_ensemble run that model_ensemble combines; else trained.")
    },
}
"""Recipe -> name of the option, and of the argument of the recipe's ``train`` -> the stage."""


def stages(recipe: str) -> dict[str, Stage]:
    """The runs that a recipe can begin with, and those that these can begin with."""
    found: dict[str, Stage] = {}
    for name, stage in STAGES.get(recipe, {}).items():
        found |= {name: stage, **stages(stage.recipe)}
    return found


def all_stages() -> dict[str, Stage]:
    """Every stage of every recipe: one option of ``chextrain train`` each."""
    return {name: stage for recipe in NAMES for name, stage in STAGES.get(recipe, {}).items()}
