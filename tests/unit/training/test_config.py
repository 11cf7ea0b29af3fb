"""Configuration: what is known, what is refused, and that a run can be repeated from what it wrote."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

import chextrain.recipes
from chexmodels.nets.unet import PRESETS
from chextrain.config import Config, ConfigError, Preset, load_config
from chextrain.runs import Run


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepochs = 3\nseed = 4\n[network]\npreset = 'nano'\n")
    config = load_config(path, ["training.epochs=5", "loss.dice=1", "network.preset=half"])
    assert (config.training.epochs, config.training.seed) == (5, 4)
    assert config.network.preset == "half"
    assert config.loss.dice == 1.0
    assert isinstance(config.loss.dice, float)
    assert config.data == Config().data


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.epoch=3", "training.epochs"),
        ("trainin.epochs=3", "training"),
        ("training.epochs=many", "training.epochs"),
        ("training.epochs=2.5", "training.epochs"),
        ("training.epochs=true", "training.epochs"),
        ("specialist.negatives=some", "others, normal"),
        ("network.preset=huge", "paper, "),
        ("epochs=3", "section.key=value"),
        ("training.epochs", "section.key=value"),
    ],
)
def test_unknown_keys_and_wrong_values_are_refused(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(None, [override])


def test_every_preset_can_be_asked_for() -> None:
    assert set(get_args(Preset)) == set(PRESETS)


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_config().training.epochs = 1  # type: ignore[misc]


@pytest.mark.parametrize("path", sorted(Path(chextrain.recipes.__path__[0]).glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_files_are_valid_and_a_run_repeats_from_its_command(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    Run("supermodel", "phantom", "unet", {}, config.model_dump(mode="json")).write(tmp_path)
    words = shlex.split(Run.read(tmp_path).commands[-1])
    assert words[:5] == ["chextrain", "train", "supermodel", "--format", "phantom"]
    assert load_config(None, [word for word in words[5:] if word != "--set"]) == config


def test_values_with_blanks_lists_and_switches_survive_the_command_line(tmp_path: Path) -> None:
    given = ["specialist.finding=Lung Opacity", "ensemble.in_sample=true", 'data.hold_out=["Nodule", "Mass"]']
    config = load_config(None, given)
    Run("specialist", "phantom", "unet", {}, config.model_dump(mode="json")).write(tmp_path)
    words = shlex.split(Run.read(tmp_path).commands[-1])
    assert len(words) == 5 + 2 * len(given)
    assert load_config(None, [word for word in words[5:] if word != "--set"]) == config
