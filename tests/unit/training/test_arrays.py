"""Splits as arrays: the cache serves nothing stale, targets are shares where readers differ, files are mapped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chextrain.data import arrays as arrays_module
from chextrain.data import phantom, processes
from chextrain.data.arrays import Arrays, Samples, load
from chextrain.data.cases import Case, Collection, share
from chextrain.data.formats import DataSource
from chextrain.data.images import BadImage
from chextrain.data.kinds import Consensus, Format
from chextrain.fit.augmentation import Augmentation
from support import datasets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return datasets.vindr(tmp_path / "vindr", train=10, test=0)


def read(folder: Path, consensus: Consensus = Consensus.SOFT) -> Collection:
    found = DataSource(Format.VINDR, folder, consensus).collection()
    return replace(found, cases=tuple(replace(case, split="train") for case in found.cases))


def refuse(case: Case, size: int) -> np.ndarray:
    raise AssertionError("decoded again")


def same_code(collection: Collection) -> Collection:
    """``collection``, whose images must come from the cache."""
    refuse.__module__ = collection.load.__module__
    return replace(collection, load=refuse)


def test_decoded_images_are_mapped_from_the_cache(folder: Path, tmp_path: Path) -> None:
    collection, cache = read(folder), tmp_path / "cache"
    first = load(collection, "train", 32, cache)
    again = load(same_code(collection), "train", 32, cache)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.images, load(collection, "train", 32, None).images)
    for array in (again.images, again.targets, again.soft):
        assert isinstance(array, np.memmap)
    assert again.where([True] * 10) is again
    assert not list(cache.glob("*.part"))


def test_a_changed_file_is_decoded_again(folder: Path, tmp_path: Path) -> None:
    before = load(read(folder), "train", 32, tmp_path / "cache").images[3].copy()
    datasets.dicom(folder / "train" / "train0003.dicom", 77, 3)
    after = load(read(folder), "train", 32, tmp_path / "cache").images[3]
    assert not np.array_equal(before, after)


def test_a_file_that_only_looks_newer_is_decoded_again(folder: Path, tmp_path: Path) -> None:
    load(read(folder), "train", 32, tmp_path / "cache")
    os.utime(folder / "train" / "train0003.dicom", ns=(1, 1))
    with pytest.raises(AssertionError, match="decoded again"):
        load(same_code(read(folder)), "train", 32, tmp_path / "cache")


def test_changed_code_decodes_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(read(folder), "train", 32, tmp_path / "cache")
    monkeypatch.setattr(arrays_module, "PIPELINE", (torch,))
    with pytest.raises(AssertionError, match="decoded again"):
        load(same_code(read(folder)), "train", 32, tmp_path / "cache")


def test_other_boxes_keep_the_images_but_not_the_targets(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    union = load(read(folder, Consensus.UNION), "train", 64, cache)
    vote = load(same_code(read(folder, Consensus.VOTE)), "train", 64, cache)
    assert union.soft is None
    assert vote.targets.sum() < union.targets.sum()
    assert not (vote.targets & ~union.targets).any()


def test_another_size_is_another_file(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert load(read(folder), "train", 32, cache).images.shape == (10, 32, 32)
    assert load(read(folder), "train", 48, cache).images.shape == (10, 48, 48)


def test_what_is_learnt_is_the_share_of_the_readers(folder: Path) -> None:
    arrays = load(read(folder), "train", 64, None)
    assert arrays.soft is not None
    seen = np.unique(arrays.soft)
    assert set(seen) <= {0, 85, 170, 255}
    assert len(seen) >= 3
    assert np.array_equal(arrays.soft > 0, arrays.targets)
    _, target, weight, _ = Samples(arrays)[1]
    assert np.allclose(target[0], share(arrays.cases[1], 64), atol=1 / 255)
    assert (weight == 1).all()


def test_shares_survive_augmentation_and_hard_targets_stay_hard() -> None:
    torch.manual_seed(0)
    target = torch.zeros(2, 1, 32, 32)
    target[0, :, 8:24, 8:24] = 1
    target[1, :, 8:24, 8:24] = 1 / 3
    target[1, :, 12:20, 12:20] = 1
    _, moved, *_ = Augmentation(noise=0)(target, target, torch.ones_like(target), target)
    assert set(moved[0].unique().tolist()) == {0, 1}
    assert ((moved[1] > 0.3) & (moved[1] < 0.4)).sum() > 50


def test_labels_and_targets_of_one_finding(folder: Path) -> None:
    arrays = load(read(folder), "train", 64, None)
    assert arrays.labels(["Atelectasis", "Cardiomegaly", "Edema"]).sum(axis=0).tolist() == [1, 1, 0]
    one = arrays.only("Atelectasis")
    assert [case.label for case in one.cases] == ["normal", "abnormal"] + ["normal"] * 8
    assert one.targets[1].any()
    assert not one.targets[2:].any()
    assert one.soft is not None
    assert np.array_equal(one.soft > 0, one.targets)
    assert arrays.labels([]).shape == (10, 0)


def test_parallel_decoding_gives_the_same_images_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = read(folder)
    alone = load(collection, "train", 32, None).images
    monkeypatch.setattr(processes, "MANY", 1)
    assert np.array_equal(load(collection, "train", 32, None).images, alone)


@pytest.mark.parametrize("many", [1, 1000])
def test_an_image_that_cannot_be_decoded_is_named_and_leaves_no_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(processes, "MANY", many)
    path = folder / "train" / "train0004.dicom"
    collection = read(folder)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadImage, match=r"train0004\.dicom"):
        load(collection, "train", 32, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_file_of_another_size_than_it_had_is_refused(folder: Path) -> None:
    collection = read(folder)
    datasets.dicom(folder / "train" / "train0004.dicom", 4, 0, shape=(64, 64))
    with pytest.raises(BadImage, match="64 x 64 pixels instead of 96 x 80"):
        load(collection, "train", 32, None)


def test_no_cases_are_no_arrays(tmp_path: Path) -> None:
    empty: Arrays = load(phantom.collection(train=2, val=0, test=0), "val", 16, tmp_path)
    assert empty.images.shape == (0, 16, 16)
    assert empty.labels(["a"]).shape == (0, 1)
