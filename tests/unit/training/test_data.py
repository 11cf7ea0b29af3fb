"""Readers, phantoms, masks, pairs and augmentation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from chexmodels.dicom.decode import decode
from chexmodels.pixels import to_image
from chextrain.data import phantom
from chextrain.data.arrays import Samples, load
from chextrain.data.cases import Case, Collection, box_mask
from chextrain.data.formats import DataSource
from chextrain.data.kinds import Format
from chextrain.data.pairs import draw
from chextrain.data.phantom_dicom import write_files
from chextrain.data.rows import BadData
from chextrain.fit.augmentation import Augmentation
from support import validators

COLUMNS = ("image_id", "file", "split", "label", "label_tier", "boxes", "box_coverage", "group", "width", "height")


def nih_folder(folder: Path, rows: list[dict[str, str]]) -> Path:
    usual = {
        "split": "train",
        "label": "normal",
        "label_tier": "nlp",
        "boxes": "[]",
        "box_coverage": "",
        "width": "80",
        "height": "60",
    }
    with (folder / "manifest.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        table.writeheader()
        for index, row in enumerate(rows):
            table.writerow({"image_id": f"i{index}", "file": f"i{index}.png", "group": f"g{index}"} | usual | row)
            Image.fromarray(np.tile(np.arange(80, dtype=np.uint8) * 3, (60, 1))).save(folder / f"i{index}.png")
    return folder


def read_nih(folder: Path) -> Collection:
    return DataSource(Format.NIH, folder).collection()


def boxed(*boxes: tuple[float, ...], label: str = "Nodule") -> str:
    return json.dumps([{"box": box, "label": label, "source": "s"} for box in boxes])


def test_nih_respects_split_label_tier_and_coverage(tmp_path: Path) -> None:
    rows = [
        {"label": "abnormal", "label_tier": "expert", "boxes": boxed((8, 6, 24, 12)), "box_coverage": "single_finding"},
        {"label": "abnormal"},
        {"label": "conflict", "boxes": boxed((1, 1, 5, 5))},
        {"split": "test", "label_tier": "expert", "box_coverage": "exhaustive_13class"},
        {"split": "qc_reject"},
    ]
    collection = read_nih(nih_folder(tmp_path, rows))
    assert [case.image_id for case in collection.cases] == ["i0", "i1", "i2", "i3"]
    assert [case.localised for case in collection.cases] == [True, False, False, True]
    assert [case.clean for case in collection.cases] == [False, False, False, True]
    assert [case.exhaustive for case in collection.cases] == [False, False, False, True]
    assert collection.cases[0].findings == {"Nodule"}
    arrays = load(collection, "train", 40, cache=None)
    assert arrays.images.shape == (3, 40, 40)
    assert arrays.images[0, :5].max() == 0  # the letterbox: 80 x 60 becomes 40 x 30
    assert np.argwhere(arrays.targets[0]).min(0).tolist() == [5 + 3, 4]
    assert np.argwhere(arrays.targets[0]).max(0).tolist() == [5 + 5, 11]
    _, target, weight, _ = Samples(arrays, unboxed_weight=0.5)[0]
    assert torch.equal(weight, torch.where(target > 0, 1.0, 0.5))


@pytest.mark.parametrize("row", [{"boxes": "[{}]"}, {"boxes": "no"}, {"width": "wide"}])
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, str]) -> None:
    with pytest.raises(BadData, match=r"row 3 \(i1\)"):
        read_nih(nih_folder(tmp_path, [{}, row]))


def test_the_shared_selection_has_the_counts_its_readme_gives(shared: Path) -> None:
    collection = read_nih(shared / "data" / "cxr")
    splits = {split: collection.split(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 1541, "val": 399, "test": 468}
    assert sum(bool(case.boxes) and case.localised for case in splits["train"]) == 640
    assert sum(case.clean for case in splits["test"]) == 54
    groups = [{case.group for case in cases} for cases in splits.values()]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]


def test_a_box_thinner_than_a_cell_still_marks_one() -> None:
    case = Case("a", "g", "train", "abnormal", ((500.1, 700.1, 501.0, 701.0),), 1000, 1000, True, frozenset(), True)
    assert box_mask(case, 64).sum() == 1


def test_the_same_seed_is_the_same_chest_at_any_size() -> None:
    chest = phantom.make_chest(7)
    assert chest == phantom.make_chest(7)
    large, small = phantom.render(chest, 512, 512), phantom.render(chest, 64, 64)
    assert np.abs(large.reshape(64, 8, 64, 8).mean((1, 3)) - small).mean() < 0.02


@pytest.mark.parametrize("seed", range(6))
def test_lesions_are_where_the_boxes_say(seed: int) -> None:
    chest = phantom.make_chest(seed, lesions=2)
    bare = phantom.make_chest(seed, lesions=0)
    added = phantom.render(chest, 256, 256) - phantom.render(bare, 256, 256)
    inside = np.zeros((256, 256), dtype=bool)
    for x0, y0, x1, y1 in phantom.boxes(chest, 256, 256):
        assert added[round((y0 + y1) / 2), round((x0 + x1) / 2)] > 0.1
        inside[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = True
    assert np.abs(added[~inside]).max() < 1e-6


def test_a_phantom_is_not_its_mirror_image() -> None:
    image = phantom.render(phantom.make_chest(1, lesions=0), 128, 128)
    assert np.abs(image - image[:, ::-1]).mean() > 0.02


def test_phantom_files_show_the_drawn_chest_whatever_their_kind(tmp_path: Path) -> None:
    paths = write_files(tmp_path, 4, rows=256, columns=224)
    assert [path.read_bytes() for path in write_files(tmp_path / "again", 4, rows=256, columns=224)] == [
        path.read_bytes() for path in paths
    ]
    kinds = set()
    for seed, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        kinds.add((ds.Modality, ds.PhotometricInterpretation))
        drawn = phantom.render(phantom.make_chest(seed, lesions=(1, 2, 0, 3)[seed]), 256, 224)
        seen = to_image(ds, decode(ds)).pixels
        assert validators.dciodvfy(path.read_bytes()) == []
        assert np.corrcoef(drawn.ravel(), seen.ravel())[0, 1] > 0.99
    assert len(kinds) == 4
    rows = list(csv.DictReader((tmp_path / "phantoms.csv").open()))
    assert [len(json.loads(row["boxes"])) for row in rows] == [1, 2, 0, 3]


def test_pairs_are_half_similar_and_never_two_normals() -> None:
    arrays = load(phantom.collection(train=60, val=1, test=1), "train", 32, cache=None)
    pairs = draw(arrays, 400, seed=3)
    finding = np.array([bool(case.boxes) for case in arrays.cases])
    assert pairs.similar.sum() == 200
    assert (finding[pairs.first] & finding[pairs.second] == pairs.similar).all()
    assert (finding[pairs.first] | finding[pairs.second]).all()
    assert (pairs.first != pairs.second)[pairs.similar].all()
    again = draw(arrays, 400, seed=3)
    assert np.array_equal(pairs.first, again.first)
    assert not np.array_equal(pairs.first, draw(arrays, 400, seed=4).first)


def test_augmentation_moves_image_and_mask_alike() -> None:
    torch.manual_seed(0)
    image = torch.zeros(4, 1, 64, 64)
    image[:, :, 20:36, 24:40] = 1
    same_grey = Augmentation(flip=0.5, gamma=0, contrast=0, noise=0)
    moved, target, _, named = same_grey(image, image.clone(), torch.ones_like(image), 5 * image)
    assert ((moved > 0.5) == (target > 0)).float().mean() > 0.995
    assert ((named == 5) == (target > 0)).float().mean() > 0.995
    assert set(named.unique().tolist()) == {0, 5}  # bits are not averaged
    assert not torch.equal(target, image)


def test_mixed_precision_moves_nothing_elsewhere() -> None:
    grating = torch.zeros(1, 1, 384, 384)
    grating[..., ::2] = 1
    still = Augmentation(rotate=0, scale=0, shift=0, gamma=0, contrast=0, noise=0)
    with torch.autocast("cpu", torch.bfloat16):
        moved, *_ = still(grating, grating, grating, grating)
    assert moved.dtype == torch.float32
    assert torch.allclose(moved, grating, atol=1e-3)


def test_what_comes_from_outside_the_frame_does_not_count() -> None:
    torch.manual_seed(0)
    ones = torch.ones(8, 1, 32, 32)
    _, _, weight, _ = Augmentation(shift=0.2)(ones, ones, ones, ones)
    assert weight.min() == 0


def test_no_augmentation_changes_nothing() -> None:
    image = torch.rand(2, 1, 32, 32)
    still = Augmentation(rotate=0, scale=0, shift=0, gamma=0, contrast=0, noise=0)
    moved, target, weight, _ = still(image, (image > 0.5).float(), torch.ones_like(image), torch.zeros_like(image))
    assert torch.allclose(moved, image, atol=1e-4)
    assert torch.equal(target, (image > 0.5).float())
    assert torch.allclose(weight, torch.ones_like(weight), atol=1e-5)
