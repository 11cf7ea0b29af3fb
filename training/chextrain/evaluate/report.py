"""An evaluation of any number of models as Markdown, JSON and pictures: the paper's tables and the metrics."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as memoised
from pathlib import Path
from typing import Any

from chextrain.data.arrays import Arrays, load
from chextrain.data.cases import Collection
from chextrain.data.leakage import known
from chextrain.evaluate.chexnomaly_stages import score_siamese, score_specialists
from chextrain.evaluate.chexnomaly_tables import LocaliserNumbers, SiameseNumbers, SpecialistNumbers, paper_tables
from chextrain.evaluate.classes import ClassReport, class_logits
from chextrain.evaluate.classes import report as class_report
from chextrain.evaluate.ddad_table import DdadNumbers, ddad_table, score_ddad
from chextrain.evaluate.figures import contact_sheet, plots
from chextrain.evaluate.markdown import markdown
from chextrain.evaluate.models import ScoredModel, decided
from chextrain.evaluate.scoring import Predictions, Scorer


@dataclass(frozen=True)
class Report:
    """All numbers of one call of ``chextrain evaluate``."""

    collection: str
    split: str
    models: tuple[LocaliserNumbers, ...] = ()
    specialists: tuple[SpecialistNumbers, ...] = ()
    siamese: tuple[SiameseNumbers, ...] = ()
    ddad: tuple[DdadNumbers, ...] = ()
    classes: tuple[ClassReport, ...] = ()
    predictions: tuple[Predictions, ...] = field(default=(), repr=False)
    known: str = ""
    """What must be said of an external set that holds images which were trained on; empty: nothing."""

    def markdown(self) -> str:
        """The tables of the papers whose models were given, then each model's metrics."""
        parts = [f"# Evaluation on {self.collection}, {self.split}"]
        if self.known:
            parts.append(f"**{self.known}**")
        if self.ddad:
            parts += ["## Table 1 of DDAD", ddad_table(self.ddad)]
        for classified in self.classes:
            parts += [f"## {classified.title} on {classified.split}, by class", classified.markdown()]
        if len(self.ddad) < len(self.models) or self.specialists or self.siamese:
            tables = paper_tables(self.models, self.specialists, self.siamese)
            parts += [NOTE, *(f"## {title}\n\n{table}" for title, table in tables.items())]
        for model in self.models:
            for evaluation in (model.evaluation, model.external):
                parts += [f"## {evaluation.title} on {evaluation.split}", markdown(evaluation)] if evaluation else []
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """Every number; null where there is nothing to score."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "predictions"}
        return json.dumps(_plain(named), indent=2) + "\n"


LOOK = 64
"""Side in pixels at which images are compared."""
SHOWN = 5

NOTE = """\
The tables of the paper (arXiv 2311.01777) in its own measures: ours, and in brackets what it printed for its own data,
which these images are not. MAE is of calibrated probabilities, mean IoU is reading (i), masks are those of the first
operating point; a dash means that no model was given. What a model is worth is in the metrics below, and
only beside their baselines."""


def assemble(
    scored: Sequence[ScoredModel],
    collection: Collection,
    split: str,
    cache: Path | None = None,
    external: Collection | None = None,
) -> Report:
    """Score every model on ``split`` of ``collection``, and localisers on all of ``external`` too.

    Raises ``NothingToFit`` where a run without a bundle cannot be calibrated on the validation split.
    """

    @memoised
    def val(size: int) -> Arrays:
        return load(collection, "val", size, cache)

    scorer = Scorer(collection, split, cache, collection)
    elsewhere = None if external is None else Scorer(_as_test(external), "test", cache, collection)
    models: list[LocaliserNumbers] = []
    specialists: list[SpecialistNumbers] = []
    siamese: list[SiameseNumbers] = []
    predictions: list[Predictions] = []
    ddad: list[DdadNumbers] = []
    classes: list[ClassReport] = []
    for model in scored:
        if model.classes:
            arrays = load(collection, split, model.size, cache)
            scores = class_logits(model.network, arrays)
            learnt = collection.split("train")
            classes.append(
                class_report(model.title, f"{collection.name}, {split}", scores, arrays.cases, model.classes, learnt)
            )
        elif model.localises:
            calibration, points = decided(model, lambda model=model: val(model.size))  # type: ignore[misc]
            known = scorer.score(replace(model, calibration=calibration, points=points))
            other = elsewhere.score(replace(model, calibration=calibration, points=points)) if elsewhere else None
            predictions += [each for each in (known, other) if each]
            models.append(
                LocaliserNumbers(
                    model.architecture, model.variant, known.evaluation, other.evaluation if other else None
                )
            )
            if model.backbone:
                ddad.append(score_ddad(model, scorer.split(model.size), collection.matched))
            specialists += score_specialists(model, scorer.split(model.size).arrays)
        elif model.finding:
            specialists += score_specialists(model, scorer.split(model.size).arrays)
        else:
            siamese.append(score_siamese(model, val(model.size)))
    return Report(
        collection.name,
        split,
        tuple(models),
        tuple(specialists),
        tuple(siamese),
        tuple(ddad),
        tuple(classes),
        tuple(predictions),
        _known(collection, external, cache) if external else "",
    )


def _known(collection: Collection, external: Collection, cache: Path | None) -> str:
    """Say which images of ``external`` look like images that ``collection`` has to learn from; empty: none."""
    learnt = load(collection, "train", LOOK, cache)
    other = load(_as_test(external), "test", LOOK, cache)
    if not learnt.cases or not other.cases:
        return ""
    found = known(other.cases, other.images, learnt.cases, learnt.images)
    if not found:
        return ""
    shown = ", ".join(found[:SHOWN]) + (" ..." if len(found) > SHOWN else "")
    return (
        f"{len(found)} of the {len(other.cases)} external images look like images of {collection.name} that are learnt "
        f"from ({shown}): numbers on them are no test of a model trained there."
    )


def write(report: Report, out: Path) -> list[Path]:
    """``report.md``, ``report.json``, and for each model its plots and a contact sheet of hits and misses."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "report.md", out / "report.json"]
    paths[0].write_text(report.markdown())
    paths[1].write_text(report.json())
    for number, prediction in enumerate(report.predictions, start=1):
        stem = f"{number}-{prediction.split.name}".replace(", ", "-")
        for name, figure in {**plots(prediction), "gallery": contact_sheet(prediction)}.items():
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
