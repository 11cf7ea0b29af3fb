"""All recipes by name: a new one is written beside these and added here."""

from __future__ import annotations

from collections.abc import Mapping

from chextrain.recipes import (
    attention,
    chexnomaly,
    ddad,
    encoder,
    masked,
    max_ensemble,
    model_ensemble,
    siamese,
    specialist,
    supermodel,
)
from chextrain.recipes.recipe import Recipe, Stage

RECIPES: Mapping[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        masked,
        supermodel,
        encoder,
        attention,
        siamese,
        chexnomaly,
        specialist,
        max_ensemble,
        model_ensemble,
        ddad,
    )
}


def stages(recipe: str) -> dict[str, Stage]:
    """The runs that a recipe can begin with, and those that these can begin with."""
    found: dict[str, Stage] = {}
    for name, stage in RECIPES[recipe].stages.items():
        found |= {name: stage, **stages(stage.recipe)}
    return found


def all_stages() -> dict[str, Stage]:
    """Every stage of every recipe: one option of ``chextrain train`` each."""
    return {name: stage for recipe in RECIPES.values() for name, stage in recipe.stages.items()}
