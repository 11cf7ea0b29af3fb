"""An evaluation of any number of models as Markdown, JSON and pictures: the paper's tables and the sound numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as remembered
from pathlib import Path
from typing import Any

from chextrain.data.arrays import Arrays, load
from chextrain.data.cases import Collection
from chextrain.evaluate.gallery import gallery
from chextrain.evaluate.judge import Answered, Judge
from chextrain.evaluate.plots import plots
from chextrain.evaluate.sound import markdown
from chextrain.evaluate.stages import score_specialists, score_twins
from chextrain.evaluate.subjects import Subject, decided
from chextrain.evaluate.tables import Localised, Specialised, Twins, paper_tables


@dataclass(frozen=True)
class Report:
    """All numbers of one call of ``chextrain evaluate``."""

    collection: str
    split: str
    models: tuple[Localised, ...] = ()
    specialists: tuple[Specialised, ...] = ()
    twins: tuple[Twins, ...] = ()
    answered: tuple[Answered, ...] = field(default=(), repr=False)

    def markdown(self) -> str:
        """The six tables of the paper, then each model's sound numbers."""
        parts = [f"# Evaluation on {self.collection}, {self.split}", NOTE]
        for title, table in paper_tables(self.models, self.specialists, self.twins).items():
            parts += [f"## {title}", table]
        for model in self.models:
            for evaluation in (model.evaluation, model.external):
                parts += [f"## {evaluation.title} on {evaluation.split}", markdown(evaluation)] if evaluation else []
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """Every number; null where there is nothing to judge."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "answered"}
        return json.dumps(_plain(named), indent=2) + "\n"


NOTE = """\
The tables of the paper (arXiv 2311.01777) in its own measures: ours, and in brackets what it printed for its own data,
which these images are not. MAE is of calibrated probabilities, mean IoU is reading (i), masks are those of the first
operating point; a dash means that no model was given. What a model is worth is told by the sound numbers below, and
only beside their baselines."""


def assemble(
    subjects: Sequence[Subject],
    collection: Collection,
    split: str,
    cache: Path | None = None,
    external: Collection | None = None,
) -> Report:
    """Score every subject on ``split`` of ``collection``, and localisers on all of ``external`` too.

    Raises ``NothingToFit`` where a run without a bundle cannot be calibrated on the validation split.
    """

    @remembered
    def val(size: int) -> Arrays:
        return load(collection, "val", size, cache)

    judge = Judge(collection, split, cache, collection)
    elsewhere = None if external is None else Judge(_as_test(external), "test", cache, collection)
    models: list[Localised] = []
    specialists: list[Specialised] = []
    twins: list[Twins] = []
    answered: list[Answered] = []
    for subject in subjects:
        if subject.localises:
            calibration, points = decided(subject, lambda subject=subject: val(subject.size))  # type: ignore[misc]
            found = judge.of(replace(subject, calibration=calibration, points=points))
            other = elsewhere.of(replace(subject, calibration=calibration, points=points)) if elsewhere else None
            answered += [one for one in (found, other) if one]
            models.append(
                Localised(subject.architecture, subject.variant, found.evaluation, other.evaluation if other else None)
            )
            specialists += score_specialists(subject, judge.split(subject.size).arrays)
        elif subject.finding:
            specialists += score_specialists(subject, judge.split(subject.size).arrays)
        else:
            twins.append(score_twins(subject, val(subject.size)))
    return Report(collection.name, split, tuple(models), tuple(specialists), tuple(twins), tuple(answered))


def write(report: Report, out: Path) -> list[Path]:
    """``report.md``, ``report.json``, and for each model its plots and a contact sheet of hits and misses."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "report.md", out / "report.json"]
    paths[0].write_text(report.markdown())
    paths[1].write_text(report.json())
    for number, one in enumerate(report.answered, start=1):
        stem = f"{number}-{one.split.name}".replace(", ", "-")
        for name, figure in {**plots(one), "gallery": gallery(one)}.items():
            path = out / f"{stem}-{name}.png"
            figure.savefig(path, dpi=110)
            paths.append(path)
    return paths


def _as_test(collection: Collection) -> Collection:
    """The whole of an external set is tested on; none of it is learnt from."""
    return replace(collection, cases=tuple(replace(case, split="test") for case in collection.cases))


def _plain(value: Any) -> Any:
    """For JSON."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value
