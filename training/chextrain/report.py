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

import numpy as np
from numpy.typing import NDArray

from chexmodels.bundle import OperatingPoint
from chextrain.bootstrap import Estimate
from chextrain.data.arrays import Arrays, load
from chextrain.data.cases import Collection
from chextrain.evaluate import Evaluation, evaluate
from chextrain.predict import image_scores, logits, probabilities
from chextrain.scored import Split, is_scored
from chextrain.shortcuts import MODEL, THUMBNAIL, shortcut_numbers, shortcut_scores
from chextrain.sound import markdown
from chextrain.stages import score_specialists, score_twins
from chextrain.subjects import Subject, decided
from chextrain.tables import Localised, Specialised, Twins, paper_tables


@dataclass(frozen=True)
class Answered:
    """What a localiser said of the scored images: for pictures."""

    evaluation: Evaluation
    split: Split
    prob: NDArray[np.float32]
    scores: NDArray[np.float64]
    point: OperatingPoint


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


class Judge:
    """A split at whatever size a model wants it; images and shortcut scores are read once.

    What needs no network is learnt from the training images of ``learnt``.
    """

    def __init__(self, collection: Collection, split: str, cache: Path | None, learnt: Collection) -> None:
        self.collection, self.name, self.cache, self.learnt = collection, split, cache, learnt
        self.splits: dict[int, Split] = {}
        self.shortcuts: Mapping[str, NDArray[np.float64]] | None = None

    def split(self, size: int) -> Split:
        """The scored images at ``size``."""
        if size not in self.splits:
            cases = tuple(case for case in self.collection.cases if case.split == self.name and is_scored(case))
            arrays = load(replace(self.collection, cases=cases), self.name, size, self.cache)
            self.splits[size] = Split(f"{self.collection.name}, {self.name}", arrays)
        return self.splits[size]

    def of(self, subject: Subject) -> Answered:
        """Every number of a localiser whose calibration and operating points are known."""
        assert subject.calibration is not None
        assert subject.points is not None
        split = self.split(subject.size)
        heat = logits(subject.network, split.arrays)
        prob = probabilities(heat, split.arrays, subject.calibration)
        scores = image_scores(prob, subject.calibration)
        if self.shortcuts is None:
            thumbnails = load(replace(self.collection, cases=split.arrays.cases), self.name, THUMBNAIL, self.cache)
            self.shortcuts = shortcut_scores(self.learnt, thumbnails, self.cache)
        beside = shortcut_numbers(split, {MODEL: scores, **self.shortcuts}, self.collection.matched)
        found = evaluate(subject.title, split, prob, scores, subject.points, self.learnt, beside)
        return Answered(found, split, prob, scores, next(iter(subject.points.values())))


def write(report: Report, out: Path) -> list[Path]:
    """``report.md``, ``report.json``, and for each model its plots and a contact sheet of hits and misses."""
    from chextrain.gallery import gallery
    from chextrain.plots import plots

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
    if isinstance(value, Estimate) or dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value
