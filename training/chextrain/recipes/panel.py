"""Bundles of different architectures averaged into one network, for an export of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from chexmodels.bundle import CARD, BundleError, Calibration, PanelMember, find
from chexmodels.registry import PANEL, Loaded, load, panel
from chextrain.config import Config, ConfigError
from chextrain.runs import RUN_JSON, Run, TrainCommand, committee


def averaged(sources: Sequence[str], mirror: bool, format_: str) -> tuple[Run, nn.Module]:
    """Folders of finished runs as one :func:`chextrain.runs.committee`, or bundles, by name or folder, as one panel.

    ``format_`` is the layout of the data set on which a panel will be calibrated. Raises ``ConfigError`` for runs and
    bundles together, and for bundles that are to be mirrored, which say themselves whether they are; ``BundleError``
    for what is no bundle of a map of probabilities.
    """
    runs = [Path(source) for source in sources if (Path(source) / RUN_JSON).is_file()]
    if len(runs) == len(sources):
        return committee(runs, mirror)
    if runs:
        raise ConfigError(f"{runs[0]} is a run: runs and bundles are not averaged together; export it first")
    if mirror:
        raise ConfigError("--mirror is of runs: a bundle says itself whether it looks at the mirror image too")
    return _panel([find(source) for source in sources], format_)


def _panel(folders: Sequence[Path], format_: str) -> tuple[Run, nn.Module]:
    members, states = [], {}
    for index, folder in enumerate(folders):
        model = load(folder)
        card = model.card
        calibration = card.calibration
        if not isinstance(model, Loaded) or not isinstance(calibration, Calibration) or card.kind != "localiser":
            raise BundleError(f"{folder}: {card.title} gives no map of probabilities to average")
        if card.architecture == PANEL:
            raise BundleError(f"{folder}: {card.title} is an average already; name its members")
        members.append(
            PanelMember.model_validate(
                {
                    "title": card.title,
                    "architecture": card.architecture,
                    "parameters": card.parameters,
                    "size": card.size,
                    "temperature": calibration.temperature,
                }
            )
        )
        states |= {f"members.{index}.{name}": value for name, value in model.network.state_dict().items()}
    network = panel(members)
    network.load_state_dict(states)
    values = Config().but("data", size=max(member.size for member in members)).model_dump(mode="json")
    commands = [line for folder in folders for line in trained_with(folder)]
    parameters = {"members": [member.model_dump(mode="json") for member in members]}
    return Run(PANEL, format_, PANEL, parameters, values, others=commands), network.eval()


def trained_with(folder: Path) -> list[str]:
    """The command lines that the card of the bundle in ``folder`` says it was trained with; none where it is silent."""
    card = folder / CARD
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return [line.strip() for line in lines if line.startswith(f"    {TrainCommand.START}")]
