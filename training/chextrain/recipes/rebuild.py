"""A bundle made again from nothing: the trainings that its card names, and which of them are averaged into what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexmodels.bundle import BundleError, ModelCard, PanelMember, find, read_card
from chexmodels.registry import PANEL
from chextrain.config import Config, load_config
from chextrain.data.cases import Collection
from chextrain.data.kinds import Format
from chextrain.recipes import training
from chextrain.recipes.panel import trained_with
from chextrain.recipes.registry import RECIPES
from chextrain.recipes.stages import stages
from chextrain.runs import TrainCommand


@dataclass(frozen=True, slots=True)
class Training:
    """One of the trainings, in a folder of its own."""

    command: TrainCommand
    values: Config
    stages: Mapping[str, Path]
    """The runs that it begins with, by the name of the stage."""
    folder: Path


@dataclass(frozen=True, slots=True)
class Average:
    """Runs that become one bundle."""

    name: str
    version: str
    runs: tuple[Path, ...]
    mirror: bool


@dataclass(frozen=True, slots=True)
class Rebuild:
    """All trainings in their order, and the bundles that are made of them; several are a panel's members."""

    card: ModelCard
    trainings: tuple[Training, ...]
    averages: tuple[Average, ...]

    @property
    def format(self) -> Format:
        """Layout of the data set."""
        return Format(self.trainings[0].command.format)

    @property
    def is_panel(self) -> bool:
        """Whether the bundle averages other bundles, those of ``averages``."""
        return self.card.architecture == PANEL


def planned(source: str, out: Path) -> Rebuild:
    """What makes the bundle ``source``, a shipped one's name or a folder, again in folders below ``out``.

    A run that a training begins with is the latest before it, in the card's order, that a recipe of that stage made.
    Raises ``BundleError`` for a bundle whose card names no trainings, or others than it is made of.
    """
    folder = find(source)
    card = read_card(folder)
    commands = [TrainCommand.parse(line) for line in trained_with(folder)]
    if not isinstance(card, ModelCard) or not commands:
        raise BundleError(f"{folder}: its card names no trainings of ours")
    trainings: list[Training] = []
    for number, command in enumerate(commands, start=1):
        values = load_config(None, list(command.changed))  # all that differs, from a recipe's own defaults too
        begun = {stage: _latest(command.recipe, stage, values, trainings) for stage in command.stages}
        place = out / f"{number}-{command.recipe}"
        trainings.append(Training(command, values, begun, place))
    used = {path for each in trainings for path in each.stages.values()}
    runs = [each.folder for each in trainings if each.folder not in used]
    averages, fits = [], True
    for title, architecture, parameters in _bundles(card):
        count, mirror = (parameters["count"], parameters["mirror"]) if architecture == "committee" else (1, False)
        name, _, version = title.rpartition(" ")
        averages.append(Average(name, version, tuple(runs[:count]), mirror))
        fits = fits and len(runs) >= count
        del runs[:count]
    if runs or not fits:
        raise BundleError(f"{folder}: its card names other trainings than it is made of")
    return Rebuild(card, tuple(trainings), tuple(averages))


def train(
    trainings: Sequence[Training],
    read: Callable[[Config], Collection],
    cache: Path | None,
    report: Callable[[str], None],
) -> None:
    """Do what of ``trainings`` is not done; one that was interrupted goes on from its last epoch.

    ``read`` gives the data set with a configuration's readers and splits.
    """
    for number, each in enumerate(trainings, start=1):
        report(f"{number} of {len(trainings)}: {each.folder}")
        collection = read(each.values)
        training.train(
            each.command.recipe,
            collection,
            each.command.format,
            each.values,
            each.folder,
            each.stages,
            cache=cache,
            resume=True,
            report=report,
        )


def _latest(recipe: str, stage: str, values: Config, trainings: Sequence[Training]) -> Path:
    known = stages(recipe)
    wanted = RECIPES[known[stage].made_by(values)].architecture if stage in known else None
    made = [each.folder for each in trainings if RECIPES[each.command.recipe].architecture == wanted]
    if not made:
        raise BundleError(f"the card names no run of {stage} before the {recipe} that begins with one")
    return made[-1]


def _bundles(card: ModelCard) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Title, architecture and its arguments of each bundle that runs are averaged into."""
    if card.architecture != PANEL:
        return [(card.title, card.architecture, card.parameters)]
    members = [PanelMember.model_validate(member) for member in card.parameters["members"]]
    return [(member.title, member.architecture, member.parameters) for member in members]
