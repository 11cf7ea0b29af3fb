"""What can be evaluated: a bundle, or a run that no bundle was made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from chexmodels.bundle import AnomalyCalibration, BundleError, Calibration, OperatingPoint, find
from chexmodels.registry import Stack, heat_kind, load
from chextrain.data.arrays import Arrays
from chextrain.evaluate.calibrate import decide
from chextrain.evaluate.predict import device, logits
from chextrain.runs import RUN_JSON, Run, load_network

SIAMESE, SPECIALIST, MASKED = "siamese", "specialist", "masked"


@dataclass(frozen=True)
class ScoredModel:
    """A network, and how its answers are read."""

    title: str
    architecture: str
    """A name in :data:`chexmodels.registry.NETWORKS`."""
    variant: str
    """Which Siamese network it is or contains: ``cnn``, ``map`` or ``pooled``; empty where there is none."""
    finding: str
    """What a specialised model looks for; empty for all others."""
    network: nn.Module
    size: int
    backbone: str = ""
    """Which autoencoder DDAD is of; empty for all others."""
    calibration: Calibration | AnomalyCalibration | None = None
    points: Mapping[str, OperatingPoint] | None = None
    classes: tuple[str, ...] = ()
    """What a classifier scores; empty for all others."""

    @property
    def localises(self) -> bool:
        """It marks any finding, and is scored as a localiser."""
        return self.architecture != SIAMESE and not self.finding and not self.classes


def read_model(source: str) -> ScoredModel:
    """The run in the folder ``source``, or the bundle of that name or in that folder; raises ``BundleError``."""
    if (Path(source) / RUN_JSON).is_file():
        run = Run.read(Path(source))
        if run.architecture == MASKED:
            raise BundleError(f"{source}: what restores images marks nothing, and is not scored")
        if heat_kind(run.architecture) == "none" and not run.parameters["encoder"]:
            raise BundleError(f"{source}: its encoder is not in the run, so that it cannot be scored here")
        finding = str(run.values["specialist"]["finding"]) if run.recipe == SPECIALIST else ""
        title = f"{run.recipe} ({Path(source).name})"
        network = load_network(Path(source)).to(device())
        return ScoredModel(
            title,
            run.architecture,
            variant_of(run.architecture, run.parameters),
            finding,
            network,
            run.size,
            str(run.parameters.get("backbone", "")),
            classes=tuple(run.parameters["findings"]) if heat_kind(run.architecture) == "none" else (),
        )
    model = load(find(source), device())
    card = model.card
    if isinstance(model, Stack):
        raise BundleError(f"{source} is a stack: its members are scored, each by its own bundle")
    return ScoredModel(
        card.title,
        card.architecture,
        variant_of(card.architecture, card.parameters),
        "",
        model.network,
        card.size,
        str(card.parameters.get("backbone", "")),
        card.calibration,
        card.operating_points,
        card.classes if card.kind == "classifier" else (),
    )


def decided(
    model: ScoredModel, val: Callable[[], Arrays]
) -> tuple[Calibration | AnomalyCalibration, Mapping[str, OperatingPoint]]:
    """What its bundle says; of a run, what an export would fit on ``val()``. Raises ``NothingToFit``."""
    if model.calibration is None or model.points is None:
        arrays = val()
        decision = decide(logits(model.network, arrays), arrays, kind=heat_kind(model.architecture))
        return decision.calibration, decision.points
    return model.calibration, model.points


def variant_of(architecture: str, parameters: Mapping[str, object]) -> str:
    """Which Siamese network an architecture is or contains; empty for those without one."""
    kind = parameters.get("member", architecture)  # a committee's members are alike
    return str(parameters.get("variant", "pooled")) if kind in (SIAMESE, "chexnomaly") else ""
