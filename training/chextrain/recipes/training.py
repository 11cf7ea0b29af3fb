"""Train a recipe: the stages it begins with, given as runs or trained first, then its own network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

from torch import nn

from chexmodels.registry import BUILDERS
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import load
from chextrain.data.cases import Collection
from chextrain.recipes.registry import RECIPES
from chextrain.recipes.stages import STAGES, stages
from chextrain.runs import BEST, Best, Run, load_network


def train(
    name: str,
    collection: Collection,
    format_: str,
    config: Config,
    folder: Path,
    given: Mapping[str, Path],
    *,
    cache: Path | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> nn.Module:
    """Train the recipe ``name`` on ``collection`` and leave the run in ``folder``; its network is returned.

    ``given`` are folders of runs by the name of the stage; a stage that is not given is trained in a folder of its name
    inside ``folder``, which ``report`` is told. Raises ``ConfigError`` for runs that are none of the stage, that learnt
    from what is held out here, or that split the patients otherwise.
    """
    held_out = collection.named(config.data.hold_out)
    runs = {stage: Run.read(path) for stage, path in given.items()}
    _check(name, runs, given, config, collection, held_out)
    train_set, val_set = (
        load(collection, split, config.data.size, cache).without(held_out) for split in ("train", "val")
    )
    networks: dict[str, nn.Module] = {stage: load_network(path) for stage, path in given.items()}
    known: dict[str, Any] = {}
    if find := RECIPES[name].findings:
        members = [network.findings for network in networks.values() if hasattr(network, "findings")]
        known["findings"] = members[0] if members else find(train_set, val_set, config)

    def run(name: str, config: Config, folder: Path, known: Mapping[str, Any]) -> nn.Module:
        recipe = RECIPES[name]
        begun: dict[str, nn.Module] = {}
        for stage, what in STAGES.get(name, {}).items():
            if stage in networks:
                begun[stage] = networks[stage]
            elif epochs := what.epochs(config):
                report(f"{stage}, as none is given: {folder / stage}")
                begun[stage] = run(what.made_by(config), config.but("training", epochs=epochs), folder / stage, {})
        commands = {stage: made.commands for stage, made in runs.items() if stage in stages(name)}
        parameters = recipe.parameters(config, **known)
        Run(name, format_, recipe.architecture, parameters, config.model_dump(mode="json"), commands).write(folder)
        return recipe.train(train_set, val_set, config, folder, resume=resume, **known, **begun)

    return run(name, config, folder, known)


def summary(name: str, folder: Path, format_: str) -> str:
    """One sentence at the end of a training: which epoch was the best, where it is, and what comes next."""
    architecture = RECIPES[name].architecture
    best = Best.read(folder)
    done = f"{name}, {best}" if best else f"{name}: done"
    if architecture not in BUILDERS:
        using = [recipe for recipe, begins in STAGES.items() for stage in begins.values() if stage.recipe == name]
        following = f"chextrain train {using[0]} --{name} {folder} ..." if using else f"chextrain evaluate {folder} ..."
    else:
        following = f"chextrain evaluate {folder} --split val --format {format_} ... and chextrain export {folder} ..."
    return f"{done}; {folder / BEST}, curves beside it. Next: {following}"


def _check(
    name: str,
    runs: Mapping[str, Run],
    given: Mapping[str, Path],
    config: Config,
    collection: Collection,
    held_out: Set[str],
) -> None:
    """Raise ``ConfigError`` for runs that this one cannot begin with."""
    possible = stages(name)
    if strange := given.keys() - possible.keys():
        raise ConfigError(f"{name} begins with no {' or '.join(sorted(strange))}")
    for stage, made in runs.items():
        if within := given.keys() & stages(possible[stage].made_by(config)).keys():
            raise ConfigError(f"--{min(within)} is what a {stage} begins with, and --{stage} is trained already")
        if made.architecture != RECIPES[possible[stage].made_by(config)].architecture:
            raise ConfigError(f"--{stage} {given[stage]}: a run of {made.recipe} is none")
        if seen := held_out - collection.named(made.values["data"]["hold_out"]):
            raise ConfigError(f"--{stage} {given[stage]}: learnt from {', '.join(sorted(seen))}, held out here")
        if made.values["data"]["split_seed"] != config.data.split_seed:
            raise ConfigError(f"--{stage} {given[stage]}: another data.split_seed, so other patients are in test")
