"""Folds: the data set's own or a hash's; one run for each; images of an external set that were trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chextrain.config import ConfigError, load_config
from chextrain.data import phantom
from chextrain.data.arrays import load
from chextrain.data.cases import Collection
from chextrain.data.leakage import known
from chextrain.data.splits import folded
from chextrain.recipes import training
from chextrain.recipes.folds import cross_validate
from chextrain.runs import Best


@pytest.fixture(scope="module")
def collection() -> Collection:
    return phantom.collection(train=20, val=10, test=5)


def test_every_image_validates_once_and_test_images_never(collection: Collection) -> None:
    parts = [folded(collection.cases, 3, number) for number in range(3)]
    for index, case in enumerate(collection.cases):
        splits = [part[index].split for part in parts]
        assert sorted(splits) == (["test"] * 3 if case.split == "test" else ["train", "train", "val"])
    groups = [{case.group for case in part if case.split == "val"} for part in parts]
    assert not groups[0] & groups[1]
    assert parts[0] == folded(collection.cases, 3, 0)


def test_the_folds_of_the_data_set_are_used_and_no_other_number(collection: Collection) -> None:
    named = tuple(replace(case, fold="abc"[index % 3]) for index, case in enumerate(collection.cases))
    for number, name in enumerate("abc"):
        shown = [case.fold for case in folded(named, 3, number) if case.split == "val"]
        assert set(shown) == {name}
    with pytest.raises(ValueError, match="the data set has 3 folds, not 5: a, b, c"):
        folded(named, 5, 0)


def test_one_run_for_each_fold_and_a_table(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def train(
        name: str, collection: Collection, format_: str, config: object, folder: Path, *rest: object, **_: object
    ) -> None:
        shown.append({case.image_id for case in collection.split("val")})
        folder.mkdir(parents=True)
        Best(2, 4, {"val_ap": 0.25 * len(shown)}).write(folder)

    monkeypatch.setattr(training, "train", train)
    table = cross_validate("supermodel", collection, "phantom", load_config(), tmp_path, {}, 2)
    assert shown[0].isdisjoint(shown[1])
    assert table.splitlines()[2:] == ["| 0 | 2 | 0.250 |", "| 1 | 2 | 0.500 |", "| mean (SD) | | 0.375 (0.125) |"]
    with pytest.raises(ConfigError, match="--masked has learnt from images that validate here"):
        cross_validate("supermodel", collection, "phantom", load_config(), tmp_path, {"masked": tmp_path}, 2)


def test_copies_in_an_external_set_are_found_whatever_their_size(collection: Collection) -> None:
    train, test = (load(collection, split, 64, None) for split in ("train", "test"))
    larger = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(train.images[:2]))[:, None].float(), scale_factor=2, mode="bilinear"
    )
    images = np.concatenate([np.kron(test.images, np.ones((2, 2))), larger[:, 0].numpy()]).astype(np.uint8)
    copies = tuple(
        replace(case, image_id=f"copy{n}", rows=2 * case.rows, columns=2 * case.columns)
        for n, case in enumerate(train.cases[:2])
    )
    found = known((*test.cases, *copies), images, train.cases, train.images)
    assert found == ("copy0", "copy1")
