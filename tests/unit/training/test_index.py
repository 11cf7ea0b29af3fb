"""``chextrain index`` and training, as a user runs them, on folders in the public layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from chextrain.cli import app, main
from chextrain.config import DataConfig
from chextrain.data.formats import DataSource
from chextrain.data.kinds import Consensus, Format
from chextrain.data.rows import BadData
from chextrain.runs import BEST, Run, load_network
from support import datasets

FAST = (
    "data.size=32",
    "network.preset=nano",
    "siamese.preset=nano",
    "siamese.pairs=16",
    "training.epochs=1",
    "chexnomaly.supermodel_epochs=1",
    "chexnomaly.siamese_epochs=1",
    "training.batch_size=8",
    "training.precision=32-true",
)


def chextrain(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_sound_folder_is_counted(tmp_path: Path) -> None:
    folder = datasets.vindr(tmp_path, train=30, test=6)
    answer = chextrain("index", "--format", "vindr", "--data", folder, "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.output)
    assert found["total"] == {"images": 36, "groups": 36, "normal": 18, "abnormal": 18, "boxed": 18, "disputed": 0}
    assert found["splits"]["test"]["images"] == 6
    assert found["splits"]["train"]["images"] + found["splits"]["val"]["images"] == 30
    assert found["readers"] == {"R10": 30, "R8": 30, "R9": 30, "consensus": 6}
    assert found["panels"] == {"R8 R9 R10": 30}
    assert found["boxes"] == found["agreed"] == 15 * 3 + 3
    assert found["findings"]["Atelectasis"] == {"images": 4, "boxes": 3 * 3 + 1}
    assert found["strata"]["readers"] == {"3 of 3": 15}
    assert found["strata"]["view"] == {"PA": 36}
    assert found["problems"] == found["copies"] == []
    assert found["uneven"] == []  # that test has other readers is given, not chance


@pytest.mark.parametrize(("consensus", "boxes"), [("union", 48), ("soft", 48), ("wbf", 18), ("cluster", 18)])
def test_consensus_decides_how_many_boxes_are_left(tmp_path: Path, consensus: str, boxes: int) -> None:
    folder = datasets.vindr(tmp_path, train=30, test=6)
    answer = chextrain("index", "--format", "vindr", "--data", folder, "--consensus", consensus, "--json")
    assert json.loads(answer.output)["agreed"] == boxes


def test_a_seed_moves_images_between_train_and_val_only(tmp_path: Path) -> None:
    folder = datasets.vindr(tmp_path, train=60, test=2)
    options = ("index", "--format", "vindr", "--data", folder, "--json", "--split-seed")
    found = [json.loads(chextrain(*options, seed).output)["splits"] for seed in (0, 1, 2)]
    assert len({splits["val"]["abnormal"] for splits in found} | {splits["val"]["images"] for splits in found}) > 1
    assert [splits["test"]["images"] for splits in found] == [2, 2, 2]


def test_bad_rows_are_named_and_make_the_exit_code_1(tmp_path: Path) -> None:
    folder = datasets.rsna(tmp_path, count=6)
    with (folder / "stage_2_train_labels.csv").open("a") as stream:
        stream.write("00000001-0000-4000-8000-000000000000,1,2,3,,1\n")
    answer = chextrain("index", "--format", "rsna", "--data", folder)
    assert answer.exit_code == 1
    assert "rows that cannot be used (1):" in answer.output
    assert (
        "stage_2_train_labels.csv row 10 (00000001-0000-4000-8000-000000000000): half a box: 1, 2, 3, " in answer.output
    )
    refused = chextrain("train", "supermodel", "--format", "rsna", "--data", folder, "--out", tmp_path / "run")
    assert isinstance(refused.exception, BadData)
    assert "row 10" in str(refused.exception)
    assert not (tmp_path / "run").exists()


def test_images_that_cannot_be_decoded_are_found_on_request(tmp_path: Path) -> None:
    """The header is sound and so the file counts, until somebody looks at the pixels."""
    folder = datasets.vindr(tmp_path, train=6, test=0)
    datasets.dicom(folder / "train" / "train0002.dicom", 2, 0, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    options = ("index", "--format", "vindr", "--data", folder)
    assert chextrain(*options).exit_code == 0
    answer = chextrain(*options, "--check-images")
    assert answer.exit_code == 1
    assert "train0002: train0002.dicom: more than one sample per pixel" in answer.output
    assert "decoded: 5" in answer.output


def test_recipes_know_every_consensus() -> None:
    assert get_args(DataConfig.model_fields["consensus"].annotation) == tuple(Consensus)


def test_unusable_data_end_with_the_reason_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["chextrain", "index", "--format", "rsna", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "stage_2_train_labels.csv: No such file" in capsys.readouterr().err


def test_what_the_manifest_names_is_not_taken_from_options(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no --groups"):
        DataSource(Format.NIH, tmp_path, groups=tmp_path / "groups.csv").listing()


def test_phantoms_need_no_folder_and_everything_else_does() -> None:
    answer = chextrain("index", "--format", "phantom")
    assert answer.exit_code == 0
    assert "1600 images" in answer.output
    assert "needs --data" in str(chextrain("index", "--format", "rsna").exception)


@pytest.mark.parametrize("format_", ["vindr", "rsna"])
def test_chexnomaly_trains_on_a_folder_in_the_layout(tmp_path: Path, format_: str) -> None:
    """All three stages, DICOM files decoded, with a cache."""
    folder = {"vindr": datasets.vindr, "rsna": datasets.rsna}[format_](tmp_path / "data", 96)
    source = ("--format", format_, "--data", folder, "--cache", tmp_path / "cache")
    values = [part for value in FAST for part in ("--set", value)]
    answer = chextrain("train", "chexnomaly", *source, "--out", tmp_path / "run", *values)
    assert answer.exit_code == 0, answer.output + repr(answer.exception)
    run = Run.read(tmp_path / "run")
    assert (tmp_path / "run" / BEST).is_file()
    assert all(np.isfinite(p.detach().numpy()).all() for p in load_network(tmp_path / "run").parameters())
    assert run.values["data"]["consensus"] == "soft"
    assert f"--format {format_}" in run.commands[-1]
