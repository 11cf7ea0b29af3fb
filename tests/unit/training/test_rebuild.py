"""``chextrain rebuild``: what a card says a bundle was trained with is enough to make it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from chexmodels.bundle import WEIGHTS, BundleError, find, read_card
from chextrain import cli
from chextrain.config import load_config
from chextrain.data import phantom
from chextrain.evaluate.export import export
from chextrain.recipes import training
from chextrain.recipes.panel import averaged, trained_with
from chextrain.recipes.rebuild import planned
from chextrain.runs import BEST_JSON, Run, TrainCommand

SMALL = (
    "data.size=64",
    "network.preset=nano",
    "network.dropout=0",
    "siamese.preset=nano",
    "siamese.pairs=8",
    "chexnomaly.supermodel_epochs=1",
    "chexnomaly.siamese_epochs=1",
    "training.epochs=1",
    "training.batch_size=8",
    "training.precision=32-true",
)
COLLECTION = phantom.collection(train=16, val=16, test=16)


def trained(recipe: str, folder: Path, seed: int, **stages: Path) -> Path:
    values = load_config(None, [*SMALL, f"training.seed={seed}"])
    training.train(recipe, COLLECTION, "phantom", values, folder, stages)
    return folder


def exported(sources: list[Path], mirror: bool, out: Path, name: str) -> Path:
    run, network = averaged(list(map(str, sources)), mirror, "phantom")
    export(run, network, out, name, "0.1", "It fails often.", COLLECTION, anyway=True)
    return out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A panel of a mirrored committee of two CheX-Nomaly networks and of one supermodel."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("runs")
    supermodel, siamese = trained("supermodel", runs / "super", 1), trained("siamese", runs / "siamese", 2)
    first = trained("chexnomaly", runs / "first", 3, supermodel=supermodel, siamese=siamese)
    other = trained("chexnomaly", runs / "other", 4, siamese=siamese)
    alone = trained("supermodel", runs / "alone", 5)
    parts = [exported([first, other], True, runs / "pair", "pair"), exported([alone], False, runs / "one", "one")]
    return exported(parts, False, runs / "panel", "panel")


def test_a_bundle_is_made_again_in_one_command(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seeds give the same weights, stages, committee and panel included."""
    torch.set_num_threads(1)
    monkeypatch.setattr(cli, "read", lambda *args: COLLECTION)
    arguments = ["rebuild", str(bundle), "--out", str(tmp_path), "--anyway"]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"Next: chextrain evaluate {bundle} {tmp_path / 'bundle'} --split val" in result.output
    before, after = (load_file(folder / WEIGHTS) for folder in (bundle, tmp_path / "bundle"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    old, new = read_card(bundle), read_card(tmp_path / "bundle")
    assert (new.title, new.parameters, new.operating_points) == (old.title, old.parameters, old.operating_points)
    assert trained_with(tmp_path / "bundle") == trained_with(bundle)

    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"*/{BEST_JSON}")}
    assert len(done) == 5
    assert CliRunner().invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done, "a second call trains nothing again"


def test_every_shipped_bundle_that_names_its_trainings_can_be_planned(tmp_path: Path) -> None:
    plan = planned("chexnomaly", tmp_path)
    assert plan.is_panel
    assert [len(each.runs) for each in plan.averages] == [3, 2]
    last = plan.trainings[4]
    assert (last.command.recipe, set(last.stages)) == ("chexnomaly", {"supermodel", "siamese"})
    assert last.stages["supermodel"] == plan.trainings[3].folder, "the latest before it"
    assert last.values.training.seed == 1
    for name in ("efficientnet-unet", "ddad", "cml"):
        (average,) = planned(name, tmp_path).averages
        assert f"{average.name} {average.version}" == read_card(find(name)).title


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([], "names no trainings"),
        (["supermodel --format phantom"], "other trainings"),
        (["supermodel --format phantom"] * 4, "other trainings"),
        (["chexnomaly --format phantom --siamese RUN"], "no run of siamese before"),
    ],
)
def test_a_card_of_which_nothing_can_be_made_is_refused(
    bundle: Path, tmp_path: Path, lines: list[str], fault: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "card.md").write_text("# copy\n\n" + "".join(f"    {TrainCommand.START}{line}\n" for line in lines))
    with pytest.raises(BundleError, match=fault):
        planned(str(copy), tmp_path)


@pytest.mark.parametrize("values", [{}, {"specialist.finding": "Small Lesion"}, {"data.hold_out": '["Nodule","Mass"]'}])
def test_a_command_is_read_as_it_was_written(values: dict[str, Any]) -> None:
    changed = load_config(None, [f"{key}={value}" for key, value in values.items()])
    run = Run("chexnomaly", "nih", "chexnomaly", {}, changed.model_dump(mode="json"), stages={"siamese": []})
    command = TrainCommand.parse(run.commands[-1])
    assert (command.recipe, command.format, command.stages) == ("chexnomaly", "nih", ("siamese",))
    assert load_config(None, list(command.changed)) == changed
    assert str(command) == run.commands[-1]
