"""A training run on disk: ``run.json`` beside the weights and the log."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chexmodels.nets.committee import Committee
from chexmodels.registry import BUILDERS, NETWORKS, PANEL, heat_kind
from chextrain.config import Config, ConfigError

RUN_JSON = "run.json"
BEST = "best.pt"
BEST_JSON = "best.json"
Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainCommand:
    """A ``chextrain train`` without the folders, which are another's: how a card says what a run was told."""

    recipe: str
    format: str
    stages: tuple[str, ...] = ()
    """Options that name a run which it began with."""
    changed: tuple[str, ...] = ()
    """``section.key=value`` of what differs from the defaults."""

    START = "chextrain train "

    def __str__(self) -> str:
        """The command line."""
        stages = [f"--{stage} RUN" for stage in self.stages]
        changed = [f"--set {shlex.quote(each)}" for each in self.changed]
        return self.START + " ".join([self.recipe, "--format", self.format, *stages, *changed])

    @classmethod
    def parse(cls, line: str) -> TrainCommand:
        """Read what :meth:`__str__` wrote; raises ValueError for another line."""
        recipe, *words = shlex.split(line.removeprefix(cls.START))
        options = list(zip(words[::2], words[1::2], strict=True))
        named = [(option.removeprefix("--"), value) for option, value in options]
        (format_,) = (value for option, value in named if option == "format")
        changed = tuple(value for option, value in named if option == "set")
        return cls(recipe, format_, tuple(option for option, value in named if value == "RUN"), changed)


@dataclass(frozen=True, slots=True)
class Run:
    """How a network was made; with its weights, all that an export or a later stage needs."""

    recipe: str
    format: str
    architecture: str
    parameters: Parameters
    """Arguments of the architecture."""
    values: dict[str, dict[str, Any]]
    """The whole configuration, by section."""
    stages: dict[str, list[str]] = field(default_factory=dict)
    """The runs it started from: option -> the commands that made that run, in order."""
    others: list[str] = field(default_factory=list)
    """The commands of the other members of a committee; of a panel, which no command trains, those of all."""

    @property
    def size(self) -> int:
        """Side of the network's input."""
        return int(self.values["data"]["size"])

    @property
    def commands(self) -> list[str]:
        """The command lines that repeat the run and those it started from, given ``--data`` and ``--out``."""
        usual = Config().model_dump(mode="json")
        changed = [
            f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
            for section, pairs in self.values.items()
            for key, value in pairs.items()
            if value != usual[section][key]
        ]
        own = str(TrainCommand(self.recipe, self.format, tuple(self.stages), tuple(changed)))
        lines = [*(line for lines in self.stages.values() for line in lines), own, *self.others]
        if self.architecture == PANEL:
            lines = self.others
        return list(dict.fromkeys(lines))

    def write(self, folder: Path) -> None:
        """Write ``run.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_JSON).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read ``run.json``; raises OSError where there is none."""
        return cls(**json.loads((folder / RUN_JSON).read_text()))


@dataclass(frozen=True, slots=True)
class Best:
    """Which epoch a run's weights are of."""

    epoch: int
    """Counted from 1."""
    epochs: int
    """That were trained, or were to be."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What validation gave then; empty where nothing was validated."""

    def write(self, folder: Path) -> None:
        """Write ``best.json``."""
        (folder / BEST_JSON).write_text(json.dumps(dataclasses.asdict(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Best | None:
        """Read ``best.json``; None where there is none."""
        path = folder / BEST_JSON
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    def __str__(self) -> str:
        """As part of a sentence."""
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.figures.items())
        return f"best epoch {self.epoch} of {self.epochs}: {figures}" if figures else f"all {self.epochs} epochs done"


def load_network(folder: Path) -> nn.Module:
    """The network of a finished run with its best weights, float32, in evaluation mode."""
    run = Run.read(folder)
    network: nn.Module = NETWORKS[run.architecture](**run.parameters)
    network.load_state_dict(torch.load(folder / BEST, weights_only=True))
    return network.eval()


def committee(folders: Sequence[Path], mirror: bool) -> tuple[Run, nn.Module]:
    """Finished runs as one network that averages them, float32, in evaluation mode; one run alone, unless mirrored, is
    left as it is. Raises ``ConfigError`` where they differ in more than their training, or are of a stage that marks
    nothing and of which no bundle can be made.
    """
    runs = [Run.read(folder) for folder in folders]
    first = runs[0]
    for folder, run in zip(folders, runs, strict=True):
        if run.architecture not in BUILDERS:
            raise ConfigError(f"{folder} is a run of {run.recipe}, of which no bundle can be made")
        if heat_kind(run.architecture) == "none" and not run.parameters["encoder"]:
            raise ConfigError(f"{folder} has learnt on another's encoder, of which no bundle can be made")
        if heat_kind(run.architecture) != "probability" and (len(runs) > 1 or mirror):
            raise ConfigError(f"{folder} is a run of {run.recipe}, which are not averaged")
        if _shape(run) != _shape(first):
            raise ConfigError(f"{folder} and {folders[0]} are not of one architecture and size")
    networks = [load_network(folder) for folder in folders]
    if len(runs) == 1 and not mirror:
        return first, networks[0]
    parameters = {"member": first.architecture, "count": len(runs), "mirror": mirror, **first.parameters}
    others = [line for run in runs[1:] for line in run.commands]
    joined = dataclasses.replace(first, architecture="committee", parameters=parameters, others=others)
    return joined, Committee(networks, mirror).eval()


def _shape(run: Run) -> tuple[object, ...]:
    """What members of a committee have in common; dropout, which does nothing after training, may differ."""
    return run.architecture, {**run.parameters, "dropout": None}, run.size
