"""Cross-validation: one run for each fold, and what validation gave, together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chextrain.config import Config, ConfigError
from chextrain.data.cases import Collection
from chextrain.data.splits import folded
from chextrain.recipes import training
from chextrain.runs import Best


def cross_validate(
    name: str,
    collection: Collection,
    format_: str,
    config: Config,
    folder: Path,
    given: Mapping[str, Path],
    count: int,
    *,
    cache: Path | None = None,
    resume: bool = False,
) -> str:
    """Train the recipe ``name`` once for each of ``count`` folds into ``folder/foldN``; a Markdown table is returned.

    Each fold validates one run and teaches the others; the test images do neither. Raises ``ConfigError`` where the
    data set names another number of folds, or a stage is given, which has learnt from images of every fold.
    """
    if given:
        raise ConfigError(f"--folds trains its own stages: --{min(given)} has learnt from images that validate here")
    rows: list[Best] = []
    for number in range(count):
        try:
            cases = folded(collection.cases, count, number)
        except ValueError as error:
            raise ConfigError(f"--folds: {error}") from error
        place = folder / f"fold{number}"
        training.train(name, replace(collection, cases=cases), format_, config, place, {}, cache=cache, resume=resume)
        rows.append(Best.read(place) or Best(config.training.epochs, config.training.epochs))
    return _table(rows)


def _table(rows: list[Best]) -> str:
    names = list(rows[0].figures)
    lines = ["| fold | best epoch | " + " | ".join(names) + " |", "| --- " * (2 + len(names)) + "|"]
    for number, best in enumerate(rows):
        lines.append(f"| {number} | {best.epoch} | " + " | ".join(f"{best.figures[n]:.3f}" for n in names) + " |")
    columns = [[best.figures[name] for best in rows] for name in names]
    means = [f"{statistics.mean(each):.3f} ({statistics.pstdev(each):.3f})" for each in columns]
    return "\n".join([*lines, "| mean (SD) | | " + " | ".join(means) + " |"])
