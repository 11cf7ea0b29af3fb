"""The layouts, on small folders that have them exactly, and every trap that the real ones hold."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chextrain.data import vindr
from chextrain.data.build import Built
from chextrain.data.cases import Case
from chextrain.data.formats import DataSource
from chextrain.data.kinds import Format
from chextrain.data.rows import BadData, box, groups, sizes
from support import datasets

FOUND = {"class_name": "Nodule/Mass", "x_min": "10", "y_min": "20", "x_max": "30", "y_max": "40"}


def built(format_: Format, data: Path, **options: Any) -> Built:
    return DataSource(format_, data, **options).built()


def case(found: Built, image_id: str) -> Case:
    return next(case for case in found.collection.cases if case.image_id == image_id)


def reasons(found: Built) -> str:
    return "\n".join(map(str, found.problems))


def append(path: Path, *rows: dict[str, Any]) -> int:
    """Add rows to a CSV; return the number of the first."""
    with path.open(newline="") as stream:
        columns = next(csv.reader(stream))
        number = 2 + sum(1 for _ in stream)
    with path.open("a", newline="") as stream:
        csv.DictWriter(stream, columns, restval="").writerows(rows)
    return number


def picture(path: Path, shape: tuple[int, int] = (60, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.arange(shape[1], dtype=np.uint8) * 3, (shape[0], 1))).save(path)


# vindr ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def vindr_folder(tmp_path: Path) -> Path:
    return datasets.vindr(tmp_path, train=8, test=4)


def test_vindr_has_three_readers_in_training_and_a_consensus_in_test(vindr_folder: Path) -> None:
    found = built(Format.VINDR, vindr_folder)
    assert found.problems == ()
    lesion = case(found, "train0001")
    assert lesion.panel == ("R8", "R9", "R10")
    assert lesion.label == "abnormal"
    assert lesion.findings == {"Atelectasis"}
    assert [mark.reader for mark in lesion.marks] == ["R8", "R9", "R10"]
    assert lesion.votes == (3, 3, 3)
    assert lesion.strata["readers"] == "3 of 3"
    assert case(found, "train0000").label == "normal"
    assert case(found, "train0000").panel == ("R8", "R9", "R10")
    tested = [c for c in found.collection.cases if c.split == "test"]
    assert [c.image_id for c in tested] == [f"test{i:04d}" for i in range(4)]
    assert {c.panel for c in tested} == {("consensus",)}
    assert all(len(c.boxes) == int(c.image_id[-1]) % 2 for c in tested)
    assert found.collection.soft


def test_vindr_boxes_are_those_of_the_file(vindr_folder: Path) -> None:
    found = built(Format.VINDR, vindr_folder)
    truth = datasets.dicom(vindr_folder / "again.dcm", 101, 1)[0]
    assert np.allclose(case(found, "test0001").boxes[0], truth, atol=0.06)


def test_vindr_names_are_matched_whatever_their_capitals(vindr_folder: Path) -> None:
    append(
        vindr_folder / "annotations" / "annotations_train.csv",
        {"image_id": "train0001", "rad_id": "R8", **FOUND, "class_name": "Aortic Enlargement "},
    )
    assert "Aortic enlargement" in case(built(Format.VINDR, vindr_folder), "train0001").findings


def test_vindr_diagnoses_of_the_whole_image_make_it_abnormal_without_a_box(vindr_folder: Path) -> None:
    """The column is "Other diseases" in train and "Other disease" in test; cells may be NaN."""
    for split, column in (("train", "Other diseases"), ("test", "Other disease")):
        path = vindr_folder / "annotations" / f"image_labels_{split}.csv"
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert column in rows[0]
        for row in rows:
            if row["image_id"] == f"{split}0002":
                row.update({"No finding": "NaN", column: "1.0"})
        datasets.write_csv(path, list(rows[0]), rows)
    found = built(Format.VINDR, vindr_folder)
    assert found.problems == ()
    for image_id in ("train0002", "test0002"):
        assert case(found, image_id).findings == {"Other disease"}
        assert case(found, image_id).label == "abnormal"
        assert not case(found, image_id).localised


def test_readers_who_differ_make_a_dispute_that_only_teaches(vindr_folder: Path) -> None:
    path = vindr_folder / "annotations" / "annotations_train.csv"
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["image_id"], row["rad_id"]) != ("train0001", "R9")]
    datasets.write_csv(
        path, list(rows[0]), [*rows, {"image_id": "train0001", "rad_id": "R9", "class_name": "No finding"}]
    )
    (vindr_folder / "annotations" / "image_labels_train.csv").unlink()
    disputed = case(built(Format.VINDR, vindr_folder), "train0001")
    assert disputed.label == "conflict"
    assert disputed.strata["readers"] == "2 of 3"
    assert disputed.localised == (disputed.split == "train")
    assert not disputed.clean


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**FOUND, "class_name": "Cardiomegalie"}, "did you mean 'Cardiomegaly'"),
        ({**FOUND, "x_max": ""}, "half a box"),
        ({**FOUND, "x_max": "wide"}, "could not convert"),
        ({**FOUND, "x_max": "inf"}, "no coordinate"),
        ({**FOUND, "x_max": "5"}, "ends before it begins"),
        ({**FOUND, "class_name": "No finding"}, "No finding with a box"),
        ({"class_name": "Nodule/Mass"}, "Nodule/Mass without a box"),
        ({**FOUND, "rad_id": ""}, "no rad_id"),
    ],
)
def test_a_bad_row_of_vindr_is_named_with_its_reason(vindr_folder: Path, row: dict[str, str], reason: str) -> None:
    path = vindr_folder / "annotations" / "annotations_train.csv"
    number = append(path, {"image_id": "train0001", "rad_id": "R8", **row})
    found = built(Format.VINDR, vindr_folder)
    assert f"annotations_train.csv row {number} (train0001): " in reasons(found)
    assert reason in reasons(found)
    with pytest.raises(BadData, match=f"row {number}"):
        DataSource(Format.VINDR, vindr_folder).collection()


def test_a_missing_image_is_named_once(vindr_folder: Path) -> None:
    (vindr_folder / "train" / "train0003.dicom").unlink()
    found = built(Format.VINDR, vindr_folder)
    assert [str(problem) for problem in found.problems] == [
        "annotations_train.csv row 11 (train0003): train0003.dicom: no such file"
    ]


def test_an_unknown_column_of_labels_is_refused(vindr_folder: Path) -> None:
    path = vindr_folder / "annotations" / "image_labels_train.csv"
    path.write_text(path.read_text().replace("Pneumonia", "Pneumonai").replace(",1\n", ",1\n"))
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[0]["Pneumonai"] = "1"
    datasets.write_csv(path, list(rows[0]), rows)
    assert "did you mean 'Pneumonia'" in reasons(built(Format.VINDR, vindr_folder))


def test_a_folder_without_annotations_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"neither annotations_train\.csv nor annotations_test\.csv"):
        DataSource(Format.VINDR, tmp_path).collection()
    with pytest.raises(BadData, match="no such folder"):
        DataSource(Format.VINDR, tmp_path / "elsewhere").collection()


def test_vindr_hashes_only_its_training_images(tmp_path: Path) -> None:
    rows = [
        {"image_id": f"{i}", "rad_id": reader, "class_name": "No finding"}
        for i in range(2000)
        for reader in ("R1", "R2")
    ]
    columns = ["image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    datasets.write_csv(tmp_path / "annotations" / "annotations_train.csv", columns, rows)
    listing = vindr.listing(tmp_path, {str(i): (100, 90) for i in range(2000)}, {})
    from chextrain.data.build import build

    splits = Counter(case.split for case in build(listing, probe=False).collection.cases)
    assert set(splits) == {"train", "val"}
    assert 160 < splits["val"] < 240


# vinbigdata -------------------------------------------------------------------------------------------------------


def test_vinbigdata_class_14_is_no_finding(tmp_path: Path) -> None:
    found = built(Format.VINBIGDATA, datasets.vinbigdata(tmp_path))
    assert found.problems == ()
    assert [c.label for c in found.collection.cases] == ["normal", "abnormal"] * 3
    assert found.collection.cases[1].findings == {"Atelectasis"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"class_id": 14, "class_name": "Nodule/Mass"}, "class_id 14 is not Nodule/Mass"),
        ({"class_id": 15, "class_name": "No finding"}, "class_id 15"),
        ({"class_id": 14, "class_name": "No finding", "x_min": 1, "y_min": 1, "x_max": 5, "y_max": 5}, "with a box"),
        ({"class_id": 8, "class_name": "Nodule/Mass"}, "without a box"),
        ({"class_id": 0, "class_name": "Rib fracture"}, "unknown finding"),
    ],
)
def test_a_bad_row_of_vinbigdata_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    folder = datasets.vinbigdata(tmp_path)
    number = append(folder / "train.csv", {"image_id": f"{1:032x}", "rad_id": "R1", **row})
    found = built(Format.VINBIGDATA, folder)
    assert f"train.csv row {number}" in reasons(found)
    assert reason in reasons(found)


@pytest.mark.parametrize("names", [("rows", "columns"), ("height", "width"), ("dim0", "dim1")])
def test_boxes_of_reduced_pictures_are_scaled_by_the_sizes_file(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = datasets.vinbigdata(tmp_path, count=2)
    before = case(built(Format.VINBIGDATA, folder), f"{1:032x}").boxes
    for path in (folder / "train").iterdir():
        path.unlink()
        picture(path.with_suffix(".png"), (48, 20))
    assert "--sizes" in reasons(built(Format.VINBIGDATA, folder))
    file = tmp_path / "sizes.csv"
    datasets.write_csv(
        file, ["image_id", *names], [{"image_id": f"{i:032x}", names[0]: 96, names[1]: 80} for i in (0, 1)]
    )
    found = built(Format.VINBIGDATA, folder, sizes=file)
    assert found.problems == ()
    assert np.allclose(case(found, f"{1:032x}").boxes, np.array(before) * (0.25, 0.5, 0.25, 0.5))


# rsna -------------------------------------------------------------------------------------------------------------


def test_rsna_tells_normal_from_not_normal(tmp_path: Path) -> None:
    found = built(Format.RSNA, datasets.rsna(tmp_path, count=12))
    assert found.problems == ()
    labels = {int(c.image_id[:8], 16): c for c in found.collection.cases}
    assert [labels[i].label for i in (0, 3, 6, 9)] == ["abnormal", "normal", "normal", "abnormal"]
    assert not labels[0].localised
    assert [len(labels[i].boxes) for i in (1, 2, 3)] == [1, 2, 0]
    assert not labels[1].exhaustive
    assert labels[3].clean


def test_rsna_without_the_class_file_has_no_normal_images(tmp_path: Path) -> None:
    """ "Without pneumonia" is not normal."""
    source = DataSource(Format.RSNA, datasets.rsna(tmp_path, count=9, detailed=False))
    assert {c.label for c in source.collection().cases} == {"abnormal"}
    assert source.listing().notes.total() == 3


def test_rsna_images_of_one_nih_patient_stay_together(tmp_path: Path) -> None:
    folder = datasets.rsna(tmp_path, count=40)
    ids = sorted(path.stem for path in (folder / "stage_2_train_images").iterdir())
    assert len({case.split for case in built(Format.RSNA, folder).collection.cases}) > 1
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps([{"subset_img_id": i, "img_id": f"00000013_{n:03d}.png"} for n, i in enumerate(ids)]))
    found = built(Format.RSNA, folder, groups=mapping)
    assert {c.group for c in found.collection.cases} == {"00000013"}
    assert len({c.split for c in found.collection.cases}) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"Target": 1}, "Target '1' without a box"),
        ({"Target": 0, "x": 1, "y": 1, "width": 5, "height": 5}, "Target '0' with a box"),
        ({"Target": 1, "x": 1, "y": 1, "width": -5, "height": 5}, "ends before"),
        ({"Target": 1, "x": 1, "y": 1, "width": 5, "height": 5}, "but its class is 'Normal'"),
    ],
)
def test_a_bad_row_of_rsna_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    folder = datasets.rsna(tmp_path, count=6)
    patient = "00000003-0000-4000-8000-000000000000"
    number = append(folder / "stage_2_train_labels.csv", {"patientId": patient, **row})
    found = built(Format.RSNA, folder)
    assert f"stage_2_train_labels.csv row {number} ({patient})" in reasons(found)
    assert reason in reasons(found)


# generic ----------------------------------------------------------------------------------------------------------


def test_generic_table_with_png_jpeg_and_dicom(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.JPG")
    truth = datasets.dicom(tmp_path / "sub" / "c", 1, 1)
    corners = datasets.corners
    rows = [
        {"path": "a.png", "group": "p1", "class": "nodule", "reader": "x", **corners((1, 2, 11, 12)), "split": "train"},
        {"path": "a.png", "group": "p1", "class": "Nodule", "reader": "y", **corners((2, 2, 12, 12)), "split": "train"},
        {"path": "b.JPG", "group": "p2", "class": "no finding", "split": "validation"},
        {"path": "sub/c", "group": "p3", **corners(truth[0]), "split": "test"},
    ]
    columns = ["path", "group", "class", "reader", "x_min", "y_min", "x_max", "y_max", "split"]
    datasets.write_csv(tmp_path / "index.csv", columns, rows)
    found = built(Format.GENERIC, tmp_path)
    assert found.problems == ()
    assert [(c.image_id, c.split, c.label) for c in found.collection.cases] == [
        ("a.png", "train", "abnormal"),
        ("b.JPG", "val", "normal"),
        ("sub/c", "test", "abnormal"),
    ]
    assert case(found, "a.png").findings == {"nodule"}
    assert case(found, "a.png").panel == ("x", "y")
    assert case(found, "sub/c").findings == {"abnormal"}
    assert found.collection.load(case(found, "sub/c"), 32).shape == (32, 32)
    assert built(Format.GENERIC, tmp_path / "index.csv").collection.cases == found.collection.cases


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"path": "a.png"}, "neither class nor box"),
        ({"path": "", "class": "x"}, "no path"),
        ({"path": "a.png", "class": "No finding"}, "found nothing, and nodule"),
        ({"path": "a.png", "class": "mass", "group": "p2"}, "several groups: p1, p2"),
        ({"path": "a.png", "class": "mass", "group": "p1", "split": "dev"}, "no split"),
        ({"path": "a.png", "class": "mass", "group": "p1", "split": "test"}, "several splits"),
        ({"path": "b.png", "class": "mass", "group": "p1", "split": "test"}, "group p1 is in test and train"),
        ({"path": "c.png", "class": "mass"}, "c.png: not an image|c.png: cannot identify"),
    ],
)
def test_a_bad_row_of_a_table_is_named(tmp_path: Path, row: dict[str, str], reason: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("not an image")
    usual = {"path": "a.png", "group": "p1", "class": "nodule", "split": "train"}
    rows = [usual, usual | {"class": ""} | row]
    datasets.write_csv(tmp_path / "index.csv", ["path", "group", "class", "split"], rows)
    text = reasons(built(Format.GENERIC, tmp_path))
    assert "index.csv row" in text
    assert any(part in text for part in reason.split("|"))


def test_boxes_are_clipped_and_those_of_no_area_dropped_with_a_count(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    spots = [(-5, 10, 20, 30), (70, 50, 90, 70), (100, 10, 120, 20), (5, 5, 5, 9), (30, 30, 40, 40), (30, 30, 40, 40.2)]
    rows = [{"path": "a.png", "class": "mass", **datasets.corners(spot)} for spot in spots]
    datasets.write_csv(tmp_path / "index.csv", ["path", "class", "x_min", "y_min", "x_max", "y_max"], rows)
    found = built(Format.GENERIC, tmp_path)
    assert found.problems == ()
    assert (found.clipped, found.dropped, found.repeated) == (3, 2, 1)
    assert case(found, "a.png").boxes == ((0, 10, 20, 30), (70, 50, 80, 60), (30, 30, 40, 40))


def coco_tree() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 160, "height": 120, "patient_id": 3},
            {"id": 9, "file_name": "b.png", "width": 80, "height": 60},
        ],
        "annotations": [{"image_id": 7, "category_id": 2, "bbox": [10, 20, 30, 40], "reader": "x"}],
        "categories": [{"id": 2, "name": "pneumothorax"}],
    }


def test_generic_coco(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    (tmp_path / "val.json").write_text(json.dumps(coco_tree()))
    found = built(Format.GENERIC, tmp_path)
    assert found.problems == ()
    assert case(found, "a.png").boxes == ((5, 10, 20, 30),)  # the file is half as large as it is said to be
    assert case(found, "a.png").findings == {"Pneumothorax"}
    assert case(found, "a.png").group == "3"
    assert case(found, "b.png").label == "normal"
    assert {c.split for c in found.collection.cases} == {"val"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 8}, "annotation of image 8"),
        ({"category_id": 5}, "category 5"),
        ({"bbox": [10, 20, 30]}, "missing 1 required"),
        ({"bbox": [10, 20, -30, 40]}, "ends before"),
    ],
)
def test_a_bad_annotation_of_coco_is_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    tree = coco_tree()
    tree["annotations"].append(tree["annotations"][0] | change)
    (tmp_path / "annotations.json").write_text(json.dumps(tree))
    text = reasons(built(Format.GENERIC, tmp_path / "annotations.json"))
    assert "annotations.json row 2" in text
    assert reason in text


def test_generic_masks_become_the_boxes_of_their_components(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{name}.png")
    mask = np.zeros((60, 80), np.uint8)
    mask[5:10, 20:31] = 255
    mask[40:50, 60:70] = 1
    for name, values in (("a", mask), ("b", mask * 0)):
        path = tmp_path / "masks" / "cardiomegaly" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    found = built(Format.GENERIC, tmp_path)
    assert case(found, "a").boxes == ((20, 5, 31, 10), (60, 40, 70, 50))
    assert case(found, "a").findings == {"Cardiomegaly"}
    assert case(found, "b").label == "normal"
    assert reasons(found) == "images row 3 (c): no mask; an empty one says that there is nothing"


def test_a_folder_of_no_known_form_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"no index\.csv, no COCO file .* no folder masks"):
        DataSource(Format.GENERIC, tmp_path).collection()


# ddad -------------------------------------------------------------------------------------------------------------


def test_ddad_keeps_the_exact_splits(tmp_path: Path) -> None:
    tree = {
        "train": {"0": ["a.png", "b.png"], "unlabeled": {"0": ["c.png"], "1": ["d.png", "e.png"]}},
        "test": {"0": ["f.png"], "1": ["g.png"]},
    }
    for name in "abcdefg":
        picture(tmp_path / "train_png_512" / f"{name}.png")
    (tmp_path / "data.json").write_text(json.dumps(tree))
    cases = built(Format.DDAD, tmp_path).collection.cases
    assert [(c.image_id, c.split, c.label, c.strata["source"]) for c in cases] == [
        ("a", "train", "normal", "normal"),
        ("b", "train", "normal", "normal"),
        ("c", "train", "normal", "unlabelled"),
        ("d", "train", "abnormal", "unlabelled"),
        ("e", "train", "abnormal", "unlabelled"),
        ("f", "test", "normal", "test"),
        ("g", "test", "abnormal", "test"),
    ]
    tree["test"]["1"].append("a.png")
    (tmp_path / "data.json").write_text(json.dumps(tree))
    assert "data.json test.1 row 2 (a): also in train.0" in reasons(built(Format.DDAD, tmp_path))
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(BadData, match="not DDAD's partition"):
        DataSource(Format.DDAD, tmp_path).collection()


# tables -----------------------------------------------------------------------------------------------------------


def test_half_read_tables_say_which_column_is_missing(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("file,class\n")
    with pytest.raises(BadData, match=r"index\.csv has no column path; it has file, class"):
        DataSource(Format.GENERIC, tmp_path).collection()


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "index.csv").write_bytes("\ufeffpath,class\na.png,No finding\n".encode())
    assert DataSource(Format.GENERIC, tmp_path).collection().cases[0].label == "normal"


@pytest.mark.parametrize("nothing", ["", "NaN", "nan", "None", None, float("nan")])
def test_nothing_is_written_in_many_ways(nothing: object) -> None:
    assert box(nothing, nothing, nothing, nothing) is None


def test_sizes_and_groups_name_their_bad_rows(tmp_path: Path) -> None:
    file = tmp_path / "sizes.csv"
    file.write_text("image_id,rows,columns\na,10,20\nb,0,20\n")
    with pytest.raises(BadData, match=r"sizes\.csv row 3 \(b\): no size"):
        sizes(file)
    file.write_text("image_id,width\na,10\n")
    with pytest.raises(BadData, match="no size"):
        sizes(file)
    (tmp_path / "groups.json").write_text("[1]")
    with pytest.raises(BadData, match="subset_img_id"):
        groups(tmp_path / "groups.json")
    assert groups(None) == {}
