"""Training on phantoms: it learns, it resumes, the stages join, and what is exported is what was trained."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from chexmodels import registry
from chexmodels.bundle import OperatingPoint, read_card
from chexmodels.nets.chexnomaly import CheXNomaly
from chextrain.cli import app, main
from chextrain.config import Config, ConfigError, load_config
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.data.findings import UnknownFinding
from chextrain.evaluate.bootstrap import Estimate
from chextrain.evaluate.evaluation import MEAN_MASK
from chextrain.evaluate.export import NotWorthIt, export, faults
from chextrain.evaluate.predict import logits
from chextrain.evaluate.scoring import Scorer
from chextrain.fit.curves import CURVES
from chextrain.fit.curves import read as curves
from chextrain.recipes import chexnomaly, siamese, supermodel
from chextrain.recipes.training import summary
from chextrain.runs import BEST, Best, Run, committee, load_network

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


def test_a_model_that_marks_nothing_or_less_than_the_mean_mask_is_not_exported(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = phantom.collection(train=80, val=24, test=24)
    run, network = committee([trained], mirror=False)
    torch.nn.init.zeros_(network.head.weight)  # type: ignore[union-attr,arg-type]
    scored: list[str] = []
    score = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, model: scored.append(self.name) or score(self, model))
    with pytest.raises(NotWorthIt, match=r"pixel AP is .*, and of the mean training mask .*--anyway"):
        export(run, network, tmp_path, "tiny", "0.1", "It fails often.", collection)
    assert scored == ["val"]  # the test images are not looked at
    assert not list(tmp_path.iterdir())
    export(run, network, tmp_path, "tiny", "0.1", "It fails often.", collection, anyway=True)
    assert "**On the validation split, pixel AP is" in (tmp_path / "card.md").read_text()


def test_a_line_that_marks_nothing_is_a_fault() -> None:
    point = OperatingPoint(threshold=1, min_area=0, image_threshold=1, sensitivity=0, clean_normals=1)
    rows = {"second_reader": {"pixel_ap": Estimate(0.5, 0.4, 0.6)}, MEAN_MASK: {"pixel_ap": Estimate(0.3, 0.2, 0.4)}}
    decision = SimpleNamespace(points={"second_reader": point})
    assert faults(SimpleNamespace(rows=rows), decision) == ["the operating point second_reader marks nothing"]  # type: ignore[arg-type]


def test_a_finished_run_goes_on_for_more_epochs(trained: Path, data: dict[str, Arrays], tmp_path: Path) -> None:
    folder = tmp_path / "longer"
    shutil.copytree(trained, folder)
    seen: list[tuple[float, int]] = []

    class Watched(supermodel.Localisation):  # type: ignore[name-defined,misc]
        def on_train_batch_start(self, batch: object, index: int) -> None:
            (optimizer,) = self.trainer.optimizers
            seen.append((optimizer.param_groups[0]["lr"], self.global_step))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(supermodel, "Localisation", Watched)
        longer = config("training.epochs=4", "training.learning_rate=1e-3")
        supermodel.train(data["train"], data["val"], longer, folder, resume=True)
    assert epochs(folder, 1) == {"2", "3"}
    reference = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3), 1e-3, total_steps=40, pct_start=0.15
    )
    rates = []
    for _ in range(40):
        rates.append(reference.get_last_lr()[0])
        reference.step() if len(rates) < 40 else None
    assert [step for _, step in seen] == list(range(20, 40))
    assert [rate for rate, _ in seen] == pytest.approx(rates[20:], rel=1e-6)
    with pytest.raises(ConfigError, match=r"training\.epochs is 1, and the run has done 4"):
        supermodel.train(data["train"], data["val"], config("training.epochs=1"), folder, resume=True)


def test_a_run_says_which_epoch_was_best_and_draws_its_curves(trained: Path) -> None:
    best = Best.read(trained)
    assert best is not None
    assert best.epochs == 2
    assert best.figures["val_ap"] == pytest.approx(max(log(trained, "val_ap")))
    assert best.figures["val_ap"] == pytest.approx(log(trained, "val_ap")[best.epoch - 1])
    assert (trained / CURVES).read_bytes().startswith(b"\x89PNG")
    columns = curves(trained)
    assert [x for x, _ in columns["val_ap"]] == [0, 1]
    assert len(columns["loss"]) >= 2
    said = summary("supermodel", trained, "phantom")
    assert re.fullmatch(
        r"supermodel, best epoch \d of 2: val_ap 0\.\d+, val_pointing \d\.\d+; .*chextrain export .*", said
    )
    assert "\n" not in said
    assert "network:\n  dropout" in (trained / "log" / "version_0" / "hparams.yaml").read_text()


def test_a_logger_that_is_not_installed_is_named(
    data: dict[str, Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**options: object) -> object:
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setattr("chextrain.fit.trainer.WandbLogger", missing)
    with pytest.raises(ConfigError, match=r"training\.loggers: No module named 'wandb'"):
        supermodel.train(data["train"], data["val"], config('training.loggers=["wandb"]'), tmp_path)


def test_training_says_nothing_but_what_it_has_to_say(tmp_path: Path) -> None:
    words = ["train", "supermodel", "--format", "phantom", "--out", str(tmp_path / "run"), "--devices", "1"]
    for value in (*SMALL, "training.epochs=1", "data.normals=0.01"):
        words += ["--set", value]
    script = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from chextrain.data import phantom\n"
        "import chextrain.cli as cli\n"
        "cli.read = lambda *options: phantom.collection(train=24, val=8, test=8)\n"
        f"sys.argv = ['chextrain', *{words!r}]\ncli.main()"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1].startswith("supermodel, best epoch 1 of 1: ")
    heard = [
        line for line in re.split(r"[\r\n]+", said.stderr) if line.strip() and "it/s" not in line and "0/?" not in line
    ]
    assert not heard


def test_what_is_exported_is_what_was_trained(trained: Path, data: dict[str, Arrays], tmp_path: Path) -> None:
    collection = phantom.collection(train=80, val=24, test=24)
    card = export(
        *committee([trained], mirror=False), tmp_path, "tiny", "0.1", "It fails often.", collection, anyway=True
    )
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
