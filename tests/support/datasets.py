"""Small data sets in exactly the layouts of the public ones, with phantoms for radiographs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chextrain.data.findings import LOCAL, VINDR
from chextrain.data.phantom import boxes, make_chest
from chextrain.data.phantom_dicom import KINDS, to_dataset

Box = tuple[float, float, float, float]
ROWS, COLUMNS = 96, 80
PANEL = ("R8", "R9", "R10")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file; what a row lacks is left empty, as pandas writes NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def dicom(
    path: Path, seed: int, lesions: int, shape: tuple[int, int] = (ROWS, COLUMNS), **attributes: Any
) -> tuple[Box, ...]:
    """Write a phantom as DICOM, DX and CR, MONOCHROME1 and 2 in turn; return its boxes."""
    chest = make_chest(seed, lesions)
    ds = to_dataset(chest, *shape, *KINDS[seed % len(KINDS)])
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return boxes(chest, *shape)


def corners(box: Box) -> dict[str, float]:
    """The columns of a box as VinDr names them."""
    return dict(zip(("x_min", "y_min", "x_max", "y_max"), (round(v, 1) for v in box), strict=True))


def vindr(folder: Path, train: int = 40, test: int = 6) -> Path:
    """VinDr-CXR 1.0.0 as PhysioNet gives it: half of the images have one lesion; R9 sees it shifted, R10 smaller."""
    named = [*LOCAL, "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"]
    for split, count, other in (("train", train, "Other diseases"), ("test", test, "Other disease")):
        annotations, labels = [], []
        readers = PANEL if split == "train" else ("",)
        for index in range(count):
            image_id = f"{split}{index:04d}"
            truth = dicom(folder / split / f"{image_id}.dicom", 100 * (split == "test") + index, index % 2)
            finding = VINDR[index % len(VINDR)]
            for reader in readers:
                who = {"image_id": image_id, "rad_id": reader}
                shift, shrink = {"R9": (1.5, 0), "R10": (0, 1)}.get(reader, (0, 0))
                for x0, y0, x1, y1 in truth:
                    box = (x0 + shift + shrink, y0 + shrink, x1 + shift - shrink, y1 - shrink)
                    annotations.append({**who, "class_name": finding, **corners(box)})
                if not truth:
                    annotations.append({**who, "class_name": "No finding"})
                labels.append({**who, finding: float(bool(truth)), "No finding": 0 if truth else 1})
        who = ["image_id", "rad_id"] if split == "train" else ["image_id"]
        for row in (*annotations, *labels) if split == "test" else ():
            row.pop("rad_id")
        home = folder / "annotations"
        write_csv(
            home / f"annotations_{split}.csv", [*who, "class_name", "x_min", "y_min", "x_max", "y_max"], annotations
        )
        write_csv(home / f"image_labels_{split}.csv", [*who, *named, other, "No finding"], labels)
    return folder


def vinbigdata(folder: Path, count: int = 6) -> Path:
    """The Kaggle release: every other image has a lesion, on which three readers agree."""
    rows: list[dict[str, Any]] = []
    for index in range(count):
        image_id = f"{index:032x}"
        truth = dicom(folder / "train" / f"{image_id}.dicom", index, index % 2)
        number = index % len(VINDR)
        for reader in PANEL:
            who = {"image_id": image_id, "rad_id": reader}
            rows += [{**who, "class_name": VINDR[number], "class_id": number, **corners(box)} for box in truth]
            if not truth:
                rows.append({**who, "class_name": "No finding", "class_id": 14})
    columns = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    write_csv(folder / "train.csv", columns, rows)
    return folder


def rsna(folder: Path, count: int = 40, *, detailed: bool = True) -> Path:
    """The RSNA challenge: no lesion, one, two in turn; a third of those without are not normal either."""
    labels, info = [], []
    for index in range(count):
        patient = f"{index:08x}-0000-4000-8000-000000000000"
        truth = dicom(folder / "stage_2_train_images" / f"{patient}.dcm", index, index % 3)
        for x0, y0, x1, y1 in truth:
            box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
            labels.append({"patientId": patient, **box, "Target": 1})
        if not truth:
            labels.append({"patientId": patient, "Target": 0})
        kind = "Lung Opacity" if truth else "No Lung Opacity / Not Normal" if index % 9 == 0 else "Normal"
        info += [{"patientId": patient, "class": kind}] * max(1, len(truth))
    write_csv(folder / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], labels)
    if detailed:
        write_csv(folder / "stage_2_detailed_class_info.csv", ["patientId", "class"], info)
    return folder
