"""All recipes by name: a new one is written beside these and named in :mod:`chextrain.recipes.stages`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from chextrain.recipes.recipe import Recipe
from chextrain.recipes.stages import NAMES


class _Recipes(Mapping[str, Recipe]):
    """Imports a recipe, and with it what it is made of, when it is asked for."""

    def __getitem__(self, name: str) -> Recipe:
        if name not in NAMES:
            raise KeyError(name)
        recipe: Recipe = import_module(f"chextrain.recipes.{name}").RECIPE
        return recipe

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


RECIPES: Mapping[str, Recipe] = _Recipes()
