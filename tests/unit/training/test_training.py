"""Training on phantoms: it learns, it resumes, the stages join, and what is exported is what was trained."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from chexmodels import registry
from chexmodels.bundle import read_card
from chexmodels.nets.chexnomaly import CheXNomaly
from chextrain.cli import app, main
from chextrain.config import Config, ConfigError, load_config
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.data.findings import UnknownFinding
from chextrain.evaluate.export import export
from chextrain.evaluate.predict import logits
from chextrain.recipes import chexnomaly, siamese, supermodel
from chextrain.runs import BEST, Run, committee, load_network

SMALL = (
    "data.size=64",
    "network.preset=nano",
    "network.dropout=0",
    "siamese.preset=nano",
    "siamese.pairs=16",
    "training.batch_size=8",
    "training.learning_rate=3e-3",
    "training.precision=32-true",
    "training.ema=0.8",
)


def config(*overrides: str) -> Config:
    return load_config(None, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def data() -> dict[str, Arrays]:
    collection = phantom.collection(train=80, val=24, test=24)
    return {split: load(collection, split, 64, cache=None) for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def trained(data: dict[str, Arrays], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 20 steps."""
    folder = tmp_path_factory.mktemp("run")
    values = config("training.epochs=2")
    torch.set_num_threads(1)
    supermodel.train(data["train"], data["val"], values, folder)
    parameters = supermodel.parameters(values)
    Run("supermodel", "phantom", "unet", parameters, values.model_dump(mode="json")).write(folder)
    return folder


def rows(folder: Path, start: int = 0) -> list[dict[str, str]]:
    with (folder / "log" / f"version_{start}" / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def log(folder: Path, column: str) -> list[float]:
    return [float(row[column]) for row in rows(folder) if row.get(column)]


def epochs(folder: Path, start: int) -> set[str]:
    return {row["epoch"] for row in rows(folder, start)}


def test_twenty_steps_reduce_the_loss(trained: Path) -> None:
    losses = log(trained, "loss")
    assert losses[-1] < 0.8 * losses[0]
    aps = log(trained, "val_ap")
    assert aps[-1] > 2 * 0.03  # twice the share of lesion pixels, which is what chance gives


def test_the_same_seed_gives_the_same_weights(trained: Path, data: dict[str, Arrays], tmp_path: Path) -> None:
    again = supermodel.train(data["train"], data["val"], config("training.epochs=2"), tmp_path)
    for name, value in load_network(trained).state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_averaged_weights_are_kept(data: dict[str, Arrays], tmp_path: Path) -> None:
    supermodel.train(data["train"], data["val"], config("training.epochs=1"), tmp_path)
    kept = torch.load(tmp_path / BEST, weights_only=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    for name, value in kept.items():
        assert torch.equal(value, checkpoint["state_dict"][f"network.{name}"]), name  # the average
    last = checkpoint["current_model_state"]
    assert any(not torch.equal(value, last[f"network.{name}"]) for name, value in kept.items())


def test_a_run_goes_on_where_it_stopped(
    data: dict[str, Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def power_cut(*maps: np.ndarray) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return 0.5

    with monkeypatch.context() as patched:
        patched.setattr("chextrain.fit.trainer.pixel_ap", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            supermodel.train(data["train"], data["val"], config("training.epochs=3"), tmp_path)
    supermodel.train(data["train"], data["val"], config("training.epochs=3"), tmp_path, resume=True)
    assert epochs(tmp_path, 0) == {"0", "1"}
    assert epochs(tmp_path, 1) == {"1", "2"}
    assert (tmp_path / BEST).is_file()


def test_chexnomaly_is_made_of_a_supermodel_and_an_extractor(
    trained: Path, data: dict[str, Arrays], tmp_path: Path
) -> None:
    twins = siamese.train(data["train"], data["val"], config("training.epochs=1"), tmp_path / "siamese")
    assert 0 <= log(tmp_path / "siamese", "val_accuracy")[0] <= 1
    before = {name: value.clone() for name, value in twins.state_dict().items()}
    network = chexnomaly.train(
        data["train"],
        data["val"],
        config("training.epochs=1"),
        tmp_path / "chexnomaly",
        supermodel=load_network(trained),  # type: ignore[arg-type]
        siamese=twins,
    )
    assert isinstance(network, CheXNomaly)
    for name, value in network.extractor.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert network.unet.first_convolution().weight[:, 4:].abs().max() > 0
    assert log(tmp_path / "chexnomaly", "val_ap")[0] > log(trained, "val_ap")[0]  # it goes on, and does not begin again


def test_one_command_trains_the_stages_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = phantom.collection(train=32, val=16, test=1)
    monkeypatch.setattr("chextrain.cli.read", lambda *options: few)
    sets = [*SMALL, "training.epochs=1", "chexnomaly.supermodel_epochs=2", "chexnomaly.siamese_epochs=1"]
    words = ["train", "chexnomaly", "--format", "phantom", "--out", str(tmp_path)]
    words += [word for value in sets for word in ("--set", value)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert epochs(tmp_path / "supermodel", 0) == {"0", "1"}
    assert epochs(tmp_path / "siamese", 0) == {"0"}
    network, start = load_network(tmp_path), load_network(tmp_path / "siamese")
    for name, value in start.state_dict().items():
        assert torch.equal(network.state_dict()[f"extractor.{name}"], value), name
    (command,) = Run.read(tmp_path).commands  # one command repeats it
    assert "chexnomaly.supermodel_epochs=2" in command
    again = CliRunner().invoke(app, [*words, "--resume"])  # all is done: nothing is trained again
    assert again.exit_code == 0, again.output
    assert not (tmp_path / "log" / "version_1" / "metrics.csv").exists()


def test_held_out_findings_are_not_learnt(data: dict[str, Arrays]) -> None:
    cases = [
        replace(case, findings=frozenset({"Nodule"} if i % 2 else {"Mass"})) for i, case in enumerate(data["val"].cases)
    ]
    arrays = replace(data["val"], cases=tuple(cases))
    collection = replace(phantom.collection(1, 1, 1), cases=arrays.cases)
    left = arrays.without(collection.named(["nodule"]))
    assert len(left.cases) == len(cases) // 2
    assert {name for case in left.cases for name in case.findings} == {"Mass"}
    with pytest.raises(UnknownFinding, match="did you mean 'Mass'"):
        collection.named(["Masse"])


def test_a_committee_of_runs_is_exported_as_one_network(trained: Path, data: dict[str, Arrays], tmp_path: Path) -> None:
    run, network = committee([trained, trained], mirror=False)
    assert np.allclose(logits(network, data["val"]), logits(load_network(trained), data["val"]), atol=1e-5)
    assert run.architecture == "committee"
    assert run.commands == Run.read(trained).commands
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    replace(Run.read(other), parameters={"preset": "fast"}).write(other)
    with pytest.raises(ConfigError, match="not of one architecture"):
        committee([trained, other], mirror=False)


def test_what_is_exported_is_what_was_trained(trained: Path, data: dict[str, Arrays], tmp_path: Path) -> None:
    collection = phantom.collection(train=80, val=24, test=24)
    card = export(*committee([trained], mirror=False), tmp_path, "tiny", "0.1", "It fails often.", collection)
    model = registry.load(tmp_path)
    assert model.card == read_card(tmp_path) == card
    expected = logits(load_network(trained).half().float(), data["test"])
    assert np.allclose(logits(model.network, data["test"]), expected)
    text = (tmp_path / "card.md").read_text()
    assert Run.read(trained).commands[0] in text
    for words in (
        card.digest,
        "mean training mask",
        "all empty",
        "It fails often.",
        "Research use only",
    ):
        assert words in text


def test_the_command_line_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (
        ["train", "supermodel", "--format", "nih", "--out", str(tmp_path)],
        ["train", "supermodel", "--format", "phantom", "--out", str(tmp_path), "--set", "data.hold_out=['Anvil']"],
        ["train", "unheard-of", "--format", "phantom", "--out", str(tmp_path)],
    ):
        monkeypatch.setattr("sys.argv", ["chextrain", *words])
        with pytest.raises(SystemExit) as refused:
            main()
        assert refused.value.code == 2
    assert not list(tmp_path.iterdir())
