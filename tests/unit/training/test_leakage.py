"""Every way in which a test image could be known before it is tested, planted, and seen."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from chextrain.cli import app
from chextrain.config import load_config
from chextrain.data import indexing
from chextrain.data.arrays import Arrays, Samples, load
from chextrain.data.cases import Case, Collection
from chextrain.data.formats import DataSource
from chextrain.data.kinds import Format
from chextrain.data.leakage import COPY, auroc_of, copies, descriptor, labels_by
from chextrain.data.splits import straddling
from chextrain.recipes.model_ensemble import folds
from chextrain.runs import BEST
from support import datasets

SMALL = (
    "data.size=32",
    "network.preset=nano",
    "training.epochs=1",
    "training.batch_size=8",
    "training.precision=32-true",
)


def texture(seed: int, shape: tuple[int, int] = (96, 80)) -> NDArray[np.uint8]:
    """A picture that no other seed's resembles, uint8."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 6)
    return np.asarray(255 * (noise - noise.min()) / np.ptp(noise), dtype=np.uint8)


def folder_of(home: Path, pictures: dict[str, NDArray[np.uint8]], rows: list[dict[str, str]]) -> Path:
    """A data set of one's own: ``pictures`` by file name, ``rows`` of its table."""
    home.mkdir(parents=True, exist_ok=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(home / name)
    datasets.write_csv(home / "index.csv", ["path", "image_id", "group", "class", "split", "source"], rows)
    return home


def checked(data: Path, *, images: bool = False) -> indexing.Index:
    source = DataSource(Format.GENERIC, data)
    listing = source.listing()
    built = source.built(listing)
    found = indexing.index(listing, built)
    return indexing.with_images(found, built.collection) if images else found


def plain(name: str, split: str = "train", **more: str) -> dict[str, str]:
    return {"path": name, "class": "No finding", "split": split, **more}


# unique ids before splitting --------------------------------------------------------------------------------------


def test_an_image_with_many_findings_and_readers_is_one_image_in_one_split(tmp_path: Path) -> None:
    """The author's list held an image once per class, and put 0.1 ** classes of them into test."""
    rows = [{"path": "a.png", "class": f"finding {i}", "split": ""} for i in range(12)]
    found = DataSource(Format.GENERIC, folder_of(tmp_path, {"a.png": texture(0)}, rows)).collection()
    assert [case.image_id for case in found.cases] == ["a.png"]
    assert len(found.cases[0].findings) == 12


def test_one_file_under_two_names_is_named(tmp_path: Path) -> None:
    rows = [plain("a.png", image_id="one"), plain("./a.png", "test", image_id="two")]
    found = checked(folder_of(tmp_path, {"a.png": texture(0)}, rows))
    assert found.problems == ("index.csv row 2 (one): a.png is also two: one image under several names",)


# the same patient in one split ------------------------------------------------------------------------------------


def test_a_patient_in_two_splits_is_named(tmp_path: Path) -> None:
    rows = [plain("a.png", group="p"), plain("b.png", "test", group="p")]
    found = checked(folder_of(tmp_path, {"a.png": texture(0), "b.png": texture(1)}, rows))
    assert not found.usable
    assert found.problems == ("index.csv row 2 (a.png): group p is in test and train: a.png, b.png",)


def test_hashed_splits_keep_patients_together(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(60)]
    rows = [plain(name, "", group=f"p{i // 3}") for i, name in enumerate(names)]
    found = DataSource(Format.GENERIC, folder_of(tmp_path, dict.fromkeys(names, texture(0)), rows)).collection()
    assert len({case.split for case in found.cases}) == 3
    assert straddling(found.cases) == {}


# near-duplicates --------------------------------------------------------------------------------------------------


def compressed_again(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    small = Image.fromarray(pixels).resize((60, 72)).resize((80, 96))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=40)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize("change", [np.copy, np.invert, compressed_again], ids=lambda change: change.__name__)
def test_a_copy_in_another_split_is_named(tmp_path: Path, change: object) -> None:
    pictures = {f"{i}.png": texture(i) for i in range(12)}
    pictures["copy.png"] = change(texture(3))  # type: ignore[operator]
    rows = [plain(name, "test" if name == "copy.png" else "train") for name in pictures]
    found = checked(folder_of(tmp_path, pictures, rows), images=True)
    assert len(found.copies) == 1
    assert found.copies[0].startswith("3.png (train) and copy.png (test) look the same")
    assert not found.usable
    assert ("-" in found.copies[0].split("correlation")[1]) == (change is np.invert)


def test_what_is_no_copy_is_not_named(tmp_path: Path) -> None:
    """Of other pixels, of another size, in the same split of the same patient."""
    pictures = {f"{i}.png": texture(i) for i in range(12)}
    pictures["larger.png"] = np.asarray(Image.fromarray(texture(3)).resize((160, 192)))
    pictures["again.png"] = texture(4)
    rows = [plain(name, "test" if name == "larger.png" else "train", group=name) for name in pictures]
    rows[-1]["group"] = "4.png"
    found = checked(folder_of(tmp_path, pictures, rows), images=True)
    assert found.usable
    assert found.copies_inside == ()
    assert found.decoded == 14


def test_copies_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chextrain.data.leakage.BLOCK", 5)
    images = [texture(i).astype(np.float32) for i in range(17)]
    images[16] = 255 - images[2]
    cases = [Case(f"{i}", f"{i}", "train", "normal", (), 96, 80, True, frozenset(), True) for i in range(17)]
    cases[16] = replace(cases[16], split="test")
    found = copies(cases, np.array([descriptor(image) for image in images]))
    assert [(pair.first.image_id, pair.second.image_id) for pair in found] == [("2", "16")]
    assert found[0].correlation < -COPY
    assert not descriptor(np.zeros((8, 8), np.float32)).any()


@pytest.mark.long  # 2408 images; that copies and shared patients are found is shown above
def test_the_shared_selection_has_no_copy_and_no_patient_in_two_splits(shared: Path) -> None:
    source = DataSource(Format.NIH, shared / "data" / "cxr")
    listing = source.listing()
    built = source.built(listing)
    found = indexing.with_images(indexing.index(listing, built), built.collection)
    assert found.problems == ()
    assert found.copies == ()
    assert found.decoded == 2408
    assert {split: part.groups for split, part in found.splits.items()} == {"train": 993, "val": 221, "test": 254}
    assert found.total.groups == 993 + 221 + 254


# VinDr names no patients ------------------------------------------------------------------------------------------


def test_it_is_said_that_vindr_names_no_patients(tmp_path: Path) -> None:
    folder = datasets.vindr(tmp_path, train=4, test=0)
    said = CliRunner().invoke(app, ["index", "--format", "vindr", "--data", str(folder)]).output
    assert "the data name no patients: that no image is in two splits is known, of patients nothing is" in said
    assert "no patients" in DataSource(Format.VINDR, folder).collection().description
    groups = tmp_path / "groups.csv"
    groups.write_text("image_id,group\n" + "".join(f"train{i:04d},p{i // 2}\n" for i in range(4)))
    options = ["index", "--format", "vindr", "--data", str(folder), "--groups", str(groups)]
    said = CliRunner().invoke(app, options).output
    assert "4 images, 2 groups (patients)" in said
    assert "name no patients" not in said


# headers ----------------------------------------------------------------------------------------------------------


def test_header_values_reach_the_report_but_no_network(tmp_path: Path) -> None:
    """129 of VinBigData's test images with a spacing of 0.139 are "very likely normal": one scanner."""
    arrays = []
    for spacing, maker in ((0.139, "A"), (0.2, "B")):
        home = tmp_path / maker
        datasets.dicom(home / "a.dcm", 5, 1, ImagerPixelSpacing=[spacing] * 2, Manufacturer=maker, PatientAge="099Y")
        datasets.write_csv(home / "index.csv", ["path", "class", "split"], [plain("a.dcm")])
        arrays.append(load(DataSource(Format.GENERIC, home).collection(), "train", 48, None))
    assert np.array_equal(arrays[0].images, arrays[1].images)
    assert [a.cases[0].strata["spacing"] for a in arrays] == ["0.139", "0.200"]
    assert "spacing (images): 0.139 1" in indexing.text(checked(tmp_path / "A"))
    seen = [Samples(a)[0] for a in arrays]
    assert [len(sample) for sample in seen] == [4, 4]
    assert all(torch.equal(first, second) for first, second in zip(*seen, strict=True))


# sources ----------------------------------------------------------------------------------------------------------


def labelled(normal: str, abnormal: str) -> list[Case]:
    base = Case("a", "a", "train", "normal", (), 9, 9, True, frozenset(), True, strata={"source": normal})
    return [*[base] * 10, *[replace(base, label="abnormal", strata={"source": abnormal})] * 30]


def test_labels_told_by_the_source_are_seen(tmp_path: Path) -> None:
    assert auroc_of(labels_by(labelled("hospital", "clinic"), "source")) == 1
    assert auroc_of(labels_by(labelled("hospital", "hospital"), "source")) == 0.5
    mixed = [*labelled("hospital", "clinic"), *labelled("clinic", "hospital")[:10]]
    assert 0.5 < auroc_of(labels_by(mixed, "source")) < 1
    pictures = {f"{i}.png": texture(i) for i in range(4)}
    rows = [plain(f"{i}.png", source="A") for i in range(2)]
    rows += [plain(f"{i}.png", source="B") | {"class": "mass"} for i in range(2, 4)]
    said = indexing.text(checked(folder_of(tmp_path, pictures, rows)))
    assert "source alone tells abnormal from normal with AUROC 1.00" in said


# validation only --------------------------------------------------------------------------------------------------


def run(*arguments: object) -> str:
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert answer.exit_code == 0, answer.output + str(answer.exception)
    return answer.output


def trained(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    values = [part for value in SMALL for part in ("--set", value)]
    run("train", "supermodel", "--format", "vindr", "--data", folder, "--out", out, *values)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of VinDr's layout, and a run on it."""
    folder = datasets.vindr(tmp_path_factory.mktemp("vindr"), train=80, test=12)
    out = tmp_path_factory.mktemp("run")
    trained(folder, out)
    return folder, out


def test_training_and_early_stopping_do_not_know_the_test_images(study: tuple[Path, Path], tmp_path: Path) -> None:
    folder, out = study
    kept = {path: path.read_bytes() for path in (folder / "test").iterdir()}
    try:
        for number, path in enumerate(kept):
            datasets.dicom(path, 900 + number, 3)
        trained(folder, tmp_path)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    first, second = (torch.load(file, weights_only=True) for file in (out / BEST, tmp_path / BEST))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_lines_and_calibration_do_not_know_the_test_split(study: tuple[Path, Path], tmp_path: Path) -> None:
    """Exported twice, the second time with other labels in test: only the card's scores may differ."""
    folder, out = study
    (tmp_path / "failures.md").write_text("everywhere")
    options = ["--format", "vindr", "--data", folder, "--name", "x", "--version", "1"]
    options += ["--failures", tmp_path / "failures.md", "--anyway"]
    run("export", out, "--out", tmp_path / "before", *options)
    test_labels = [folder / "annotations" / f"{name}_test.csv" for name in ("annotations", "image_labels")]
    kept = [path.read_text() for path in test_labels]
    try:
        for path in test_labels:
            other = path.read_text().replace("test0001", "swap").replace("test0002", "test0001")
            path.write_text(other.replace("swap", "test0002"))
        run("export", out, "--out", tmp_path / "after", *options)
    finally:
        for path, text in zip(test_labels, kept, strict=True):
            path.write_text(text)
    before, after = (json.loads((tmp_path / name / "model.json").read_text()) for name in ("before", "after"))
    assert before["operating_points"] == after["operating_points"]
    assert before["calibration"] == after["calibration"]
    assert (tmp_path / "before" / "card.md").read_text() != (tmp_path / "after" / "card.md").read_text()


# ensembles --------------------------------------------------------------------------------------------------------


def test_ensembles_combine_maps_of_specialists_that_never_saw_the_patient(study: tuple[Path, Path]) -> None:
    def split(collection: Collection, name: str) -> Arrays:
        return load(collection, name, 32, None)

    found = DataSource(Format.VINDR, study[0]).collection()
    pairs = tuple(replace(case, group=f"p{index // 2}") for index, case in enumerate(found.cases))
    train, val = (split(replace(found, cases=pairs), name) for name in ("train", "val"))
    fold = folds(train, val, load_config(None, SMALL), ())
    assert set(fold) == {0, 1}
    by_patient: dict[str, set[int]] = {}
    for case, number in zip(train.cases, fold, strict=True):
        by_patient.setdefault(case.group, set()).add(int(number))
    assert {len(numbers) for numbers in by_patient.values()} == {1}
    fewer = train.where([index % 3 > 0 for index in range(len(train.cases))])
    again = folds(fewer, val, load_config(None, SMALL), ())
    assert again.tolist() == [number for index, number in enumerate(fold) if index % 3 > 0]
