"""Learning before any label: hidden blocks are restored, and a supermodel begins with what that taught."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from chexmodels.nets.restorer import Restorer
from chexmodels.nets.unet import UNet
from chextrain.cli import app
from chextrain.config import Config, ConfigError, load_config
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.fit.pretraining import blocks
from chextrain.recipes import masked, supermodel
from chextrain.runs import BEST, Run, load_network

TINY = (
    "data.size=64",
    "network.preset=nano",
    "network.dropout=0",
    "siamese.preset=nano",
    "siamese.pairs=8",
    "training.epochs=1",
    "training.batch_size=8",
    "training.precision=32-true",
)
Data = dict[str, Arrays]


def config(*overrides: str) -> Config:
    return load_config(None, [*TINY, *overrides])


@pytest.fixture(scope="module")
def data() -> Data:
    collection = phantom.collection(train=48, val=16, test=1)
    return {split: load(collection, split, 64, cache=None) for split in ("train", "val")}


def test_blocks_are_hidden_whole_and_by_the_share() -> None:
    hidden = blocks(16, 96, 12, 0.25, torch.Generator().manual_seed(0))
    assert hidden.shape == (16, 1, 96, 96)
    cells = hidden.reshape(16, 12, 8, 12, 8)
    assert torch.equal(cells.amin(dim=(2, 4)), cells.amax(dim=(2, 4)))
    assert 0.22 < hidden.mean() < 0.28
    assert torch.equal(hidden, blocks(16, 96, 12, 0.25, torch.Generator().manual_seed(0)))
    assert set(blocks(2, 50, 12, 0.5).unique().tolist()) == {0, 1}  # a size that the blocks do not divide


def test_an_untrained_network_restores_grey_patches_pixel_by_pixel() -> None:
    network = Restorer("fast")
    torch.nn.init.zeros_(network.unet.head.weight)
    assert network.unet.head.bias is not None
    network.unet.head.bias.data = torch.arange(64.0)
    restored = network(torch.rand(2, 1, 128, 128))
    assert restored.shape == (2, 1, 128, 128)
    assert torch.equal(restored[0, 0, 8:16, 16:24], 0.5 + torch.arange(64.0).reshape(8, 8) / 4)


def test_everything_but_the_last_convolution_is_lent() -> None:
    restorer, network = Restorer("nano"), UNet("nano")
    network.set_prior(0.03)
    head = network.head.weight.clone()
    restorer.lend(network)
    image = torch.rand(1, 1, 64, 64)
    restorer.eval()
    network.eval()
    assert torch.equal(network.features(image), restorer.unet.features(image))
    assert torch.equal(network.head.weight, head)


def test_restoring_is_learnt_and_a_supermodel_begins_with_it(data: Data, tmp_path: Path) -> None:
    values = config("training.epochs=6", "training.learning_rate=3e-3", "training.ema=0.8")
    restorer = masked.train(data["train"], data["val"], values, tmp_path / "masked")
    with (tmp_path / "masked" / "log" / "version_0" / "metrics.csv").open() as file:
        restored = [float(row["val_restored"]) for row in csv.DictReader(file) if row["val_restored"]]
    assert max(restored) > max(restored[0], 0.1)
    still = config("training.learning_rate=1e-12")
    begun = supermodel.train(data["train"], data["val"], still, tmp_path / "supermodel", masked=restorer)
    for name, value in restorer.unet.body.state_dict().items():
        assert torch.allclose(begun.body.state_dict()[name], value, atol=1e-6), name
    other = config("network.preset=half")
    with pytest.raises(ConfigError, match="masked was trained with other values"):
        supermodel.train(data["train"], data["val"], other, tmp_path / "other", masked=restorer)


def test_one_command_trains_it_before_the_supermodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = phantom.collection(train=32, val=16, test=1)
    monkeypatch.setattr("chextrain.cli.read", lambda *options: few)
    sets = [*TINY, "masked.epochs=1", "chexnomaly.supermodel_epochs=1", "chexnomaly.siamese_epochs=1"]
    common = [word for value in sets for word in ("--set", value)] + ["--format", "phantom"]

    def train(*words: str) -> str:
        result = CliRunner().invoke(app, ["train", *words, *common])
        assert result.exit_code == 0, result.output
        return result.output

    whole = train("chexnomaly", "--out", str(tmp_path / "whole"))
    kept = tmp_path / "whole" / "supermodel" / "masked"
    assert isinstance(load_network(kept), Restorer)
    assert whole.index("masked, as none is given") > whole.index("supermodel, as none is given")
    given = train("chexnomaly", "--out", str(tmp_path / "given"), "--masked", str(kept))
    assert "masked, as none" not in given
    assert [line.split()[2] for line in Run.read(tmp_path / "given").commands] == ["masked", "chexnomaly"]
    assert "--masked RUN" in Run.read(tmp_path / "given" / "supermodel").commands[-1]
    refused = CliRunner().invoke(
        app, ["train", "siamese", *common, "--out", str(tmp_path / "no"), "--masked", str(kept)]
    )
    assert isinstance(refused.exception, ConfigError)
    assert "siamese begins with no masked" in str(refused.exception)
    assert not (tmp_path / "no").exists()


def test_a_network_that_restores_is_neither_scored_nor_exported_nor_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = phantom.collection(train=4, val=2, test=1)
    monkeypatch.setattr("chextrain.cli.read", lambda *options: few)
    values = config()
    folder, other = tmp_path / "masked", tmp_path / "supermodel"
    Run("masked", "phantom", "masked", masked.parameters(values), values.model_dump(mode="json")).write(folder)
    torch.save(Restorer("nano").state_dict(), folder / BEST)
    Run("supermodel", "phantom", "unet", supermodel.parameters(values), values.model_dump(mode="json")).write(other)
    torch.save(UNet("nano").state_dict(), other / BEST)
    failures = tmp_path / "failures.md"
    failures.write_text("It fails.")
    bundle = ["--out", str(tmp_path / "bundle"), "--name", "x", "--version", "1", "--failures", str(failures)]
    both = ["--masked", str(folder), "--supermodel", str(other)]
    given = ["--masked", str(folder), "--out", str(tmp_path / "d")]
    for words, reason in (
        (["evaluate", str(folder)], "marks nothing"),
        (["export", str(folder), *bundle], "no bundle can be made"),
        (["train", "supermodel", "--out", str(tmp_path / "a"), "--masked", str(other)], "a run of supermodel is none"),
        (["train", "chexnomaly", "--out", str(tmp_path / "b"), "--supermodel", str(folder)], "a run of masked is none"),
        (["train", "chexnomaly", *both, "--out", str(tmp_path / "c")], "is trained already"),
        (["train", "supermodel", *given, "--set", 'data.hold_out=["small lesion"]'], "learnt from small lesion"),
        (["train", "supermodel", *given, "--split-seed", "1"], "another data.split_seed"),
        (["train", "masked", "--out", str(tmp_path / "e"), "--set", "masked.share=1.0"], "masked.share"),
    ):
        sets = ["--set", "data.size=64", "--set", "network.preset=nano"] if words[0] == "train" else []
        refused = CliRunner().invoke(app, [*words, *sets, "--format", "phantom"])
        assert isinstance(refused.exception, ConfigError), (words, refused.output)
        assert reason in str(refused.exception)
    assert not (tmp_path / "bundle").exists()
