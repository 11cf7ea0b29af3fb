"""The recipe of DDAD: losses by hand, what each module learns from, runs that resume, tables and bundles."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from chexmodels.bundle import AnomalyCalibration, read_card
from chexmodels.nets.autoencoders import Autoencoder, MemoryAutoencoder, UncertaintyAutoencoder
from chexmodels.nets.ddad import DDAD
from chextrain.cli import app
from chextrain.config import Config, ConfigError, load_config
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.fit.reconstruction import Reconstruction, reconstruction_loss
from chextrain.recipes import ddad
from chextrain.runs import BEST, Run, committee, load_network

TINY = ("ddad.width=16", "ddad.count=2", "training.epochs=1", "training.batch_size=8")


def config(*overrides: str) -> Config:
    return load_config(None, [*TINY, *overrides], ddad.RECIPE.defaults)


@pytest.fixture(scope="module")
def data() -> dict[str, Arrays]:
    collection = phantom.collection(train=48, val=24, test=24)
    return {split: load(collection, split, 64, cache=None) for split in ("train", "val")}


class Fixed(nn.Module):
    """Answers what it was given, whatever it is shown."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, code: Tensor) -> Tensor:
        return self.answer


def fixed(network: Autoencoder, answer: Tensor) -> Autoencoder:
    network.encoder, network.decoder = nn.Sequential(nn.Flatten(), nn.Linear(4096, 2)), nn.Sequential(Fixed(answer))
    return network


def test_the_losses_by_hand() -> None:
    image = torch.full((1, 1, 64, 64), 1.0)
    plain = fixed(Autoencoder(2, 4), torch.full((1, 1, 64, 64), 3.0))
    assert float(reconstruction_loss(plain, image)) == pytest.approx(4.0)
    uncertain = torch.stack([torch.full((1, 64, 64), 3.0), torch.full((1, 64, 64), math.log(2))], dim=1)
    answer = float(reconstruction_loss(fixed(UncertaintyAutoencoder(2, 4), uncertain), image))
    assert answer == pytest.approx(4 / 2 + math.log(2))
    memory = MemoryAutoencoder(2, 4, memory=5)
    fixed(memory, torch.full((1, 1, 64, 64), 3.0))
    memory.memory = nn.Parameter(torch.zeros(5, 2))  # all items alike: the entropy is log 5
    assert float(reconstruction_loss(memory, image)) == pytest.approx(4.0 + 2e-4 * math.log(5), abs=1e-6)


def test_adam_is_the_authors() -> None:
    values = config()
    optimizer = Reconstruction(Autoencoder(2, 4), values).configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (5e-4, (0.5, 0.999), 0)
    usual = load_config(None, (), ddad.RECIPE.defaults)
    assert (usual.training.epochs, usual.training.batch_size, usual.ddad.count, usual.ddad.latent) == (250, 64, 3, 16)


def test_module_a_learns_from_all_and_b_from_normal_images(data: dict[str, Arrays]) -> None:
    normal, pool = ddad.modules(data["train"], config())
    labels = [case.label for case in data["train"].cases]
    assert normal.tolist() == [label == "normal" for label in labels]
    assert pool.tolist() == [label != "normal" for label in labels]
    named = tuple(
        replace(case, strata={"source": "unlabelled"} if index % 2 else {})
        for index, case in enumerate(data["train"].cases)
    )
    arrays = replace(data["train"], cases=named)
    normal, pool = ddad.modules(arrays, config())
    assert not (normal & pool).any()
    assert pool.tolist() == [index % 2 == 1 for index in range(48)]
    _, few = ddad.modules(arrays, config("ddad.unlabelled=5", "ddad.anomaly_rate=0.6"))
    abnormal = np.array([case.label != "normal" for case in named])
    assert (int((few & abnormal).sum()), int((few & ~abnormal).sum())) == (3, 2)
    assert np.flatnonzero(few & abnormal).tolist() == np.flatnonzero(pool & abnormal)[:3].tolist()


@pytest.fixture(scope="module")
def finished(data: dict[str, Arrays], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddad")
    torch.set_num_threads(1)
    values = config()
    ddad.train(data["train"], data["val"], values, folder)
    Run("ddad", "phantom", "ddad", ddad.parameters(values), values.model_dump(mode="json")).write(folder)
    return folder


def test_networks_differ_are_joined_and_not_trained_again(data: dict[str, Arrays], finished: Path) -> None:
    network = load_network(finished)
    assert isinstance(network, DDAD)
    states = [torch.load(finished / name / BEST, weights_only=True) for name in ("a0", "a1", "b0", "b1")]
    first = network.state_dict()["encoder_0_weight"]
    assert all(torch.equal(part, state["encoder.0.weight"]) for part, state in zip(first, states, strict=True))
    assert len({float(part.sum()) for part in first}) == 4
    (finished / "b1" / "last.ckpt").unlink()
    weights = {path: path.read_bytes() for path in finished.rglob(BEST)}
    saved = {path: path.stat().st_mtime_ns for path in finished.rglob("last.ckpt")}
    ddad.train(data["train"], data["val"], config(), finished, resume=True)
    assert (finished / "b1" / "last.ckpt").exists()
    assert {path: path.stat().st_mtime_ns for path in saved} == saved  # the three others were not trained again
    assert all(path.read_bytes() == content for path, content in weights.items())  # the same seed, the same network


def test_what_cannot_be_trained_or_averaged_is_refused(data: dict[str, Arrays], finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.size"):
        ddad.train(data["train"], data["val"], config("data.size=128"), tmp_path)
    few = data["train"].where([case.label != "normal" for case in data["train"].cases])
    with pytest.raises(ConfigError, match="module b of ddad has"):
        ddad.train(few, data["val"], config(), tmp_path)
    with pytest.raises(ConfigError, match="not averaged"):
        committee([finished, finished], mirror=False)


def test_the_table_of_the_report_and_a_bundle(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = phantom.collection(train=48, val=24, test=24)
    monkeypatch.setattr("chextrain.cli.read", lambda *options: few)
    said = CliRunner().invoke(app, ["evaluate", str(finished), "--format", "phantom"])
    assert said.exit_code == 0, said.output + str(said.exception)
    assert "| | Rec, one network | Rec, ensemble | Intra | Inter |".replace("| |", "|  |") in said.output
    (row,) = [line for line in said.output.splitlines() if line.startswith("| AE |")]
    assert row.count("(") == 4
    assert "[0.815, 0.71]" in row
    assert "| AE-U | - [" in said.output
    assert "CheX-Nomaly" not in said.output.split("## Table 1 of DDAD")[0]
    failures = tmp_path / "failures.md"
    failures.write_text("It fails often.")
    words = ["export", str(finished), "--out", str(tmp_path / "bundle"), "--name", "d", "--version", "1"]
    said = CliRunner().invoke(app, [*words, "--failures", str(failures), "--format", "phantom", "--anyway"])
    assert said.exit_code == 0, said.output + str(said.exception)
    card = read_card(tmp_path / "bundle")
    assert (card.heat_kind, card.architecture, card.size) == ("anomaly", "ddad", 64)
    assert isinstance(card.calibration, AnomalyCalibration)
    assert len(card.calibration.normals) == sum(case.label == "normal" for case in few.split("val"))
    text = (tmp_path / "bundle" / "card.md").read_text()
    assert "Neither is a probability" in text
    assert "used no box" in text
