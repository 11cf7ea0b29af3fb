"""Phantoms as DICOM files: DX and CR, as a PACS would send a chest radiograph, with the truth. Nobody sat for them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from chextrain.data.phantom import Chest, boxes, make_chest, render

LESIONS = (1, 2, 0, 3)
"""How many lesions the phantoms of a series of files have, in turn."""
KINDS = (("DX", "MONOCHROME2"), ("CR", "MONOCHROME1"), ("DX", "MONOCHROME1"), ("CR", "MONOCHROME2"))
"""Modality and Photometric Interpretation of the phantoms of a series of files, in turn."""
HIGHEST = 4095
"""12 bits stored."""


def to_dataset(
    chest: Chest, rows: int, columns: int, modality: str = "DX", photometric: str = "MONOCHROME2"
) -> Dataset:
    """``chest`` as a 12 bit image ``(rows, columns)`` with file meta; the same values give the same UIDs.

    The pixels are 0.143 mm apart at 3000 rows, and further at fewer: a chest keeps its size.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    of_whom = ("chexnode phantom", repr(chest), f"{rows}x{columns}", modality, photometric)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (
        generate_uid(entropy_srcs=[*of_whom, level]) for level in ("study", "series", "instance")
    )
    ds.PatientName, ds.PatientID = f"Phantom^{chest.seed}", f"PHANTOM-{chest.seed}"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19660101", "O", "060Y"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "120000"
    ds.StudyID, ds.AccessionNumber = str(chest.seed), f"PHANTOM{chest.seed}"
    ds.StudyDescription, ds.ReferringPhysicianName = "Phantom chest", ""
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.Modality = modality
    ds.Manufacturer, ds.ManufacturerModelName = "Drawn", "Phantom chest"
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", "PA", ["L", "F"]
    ds.ImagerPixelSpacing = [round(429 / rows, 4)] * 2
    ds.BurnedInAnnotation = "NO"
    if modality == "DX":
        _digital_x_ray(ds, photometric)
    else:
        ds.SOPClassUID = ComputedRadiographyImageStorage
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    values = np.rint(render(chest, rows, columns) * HIGHEST).astype("<u2")
    ds.PixelData = (values if photometric == "MONOCHROME2" else HIGHEST - values).tobytes()
    return ds


def _digital_x_ray(ds: Dataset, photometric: str) -> None:
    """What PS3.3 A.26 asks of a DX image beyond what a CR image has."""
    ds.SOPClassUID, ds.PresentationIntentType = DigitalXRayImageStorageForPresentation, "FOR PRESENTATION"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.AnatomicRegionSequence = [_code(codes.SCT.Thorax)]
    view = _code(codes.cid4010.PosteroAnterior)
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence, ds.ImageLaterality = [view], "U"
    ds.AcquisitionContextSequence = []
    ds.DetectorType = ds.PositionerType = None
    ds.LossyImageCompression = "00"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1 if photometric == "MONOCHROME2" else 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    # PS3.3 C.8.11.3.1.2: MONOCHROME1 goes with INVERSE
    ds.PresentationLUTShape = "IDENTITY" if photometric == "MONOCHROME2" else "INVERSE"


def write_files(folder: Path, count: int, first_seed: int = 0, rows: int = 1500, columns: int = 1280) -> list[Path]:
    """Write ``count`` phantoms as Part 10 files into ``folder``, which is made; return them in the order of seeds.

    They have 1, 2, 0, 3, 1 ... lesions, and each a study of its own; ``phantoms.csv`` says where the lesions are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with (folder / "phantoms.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "sop_instance_uid", "rows", "columns", "lesions", "boxes"])
        for seed in range(first_seed, first_seed + count):
            lesions = LESIONS[seed % len(LESIONS)]
            chest = make_chest(seed, lesions)
            ds = to_dataset(chest, rows, columns, *KINDS[seed % len(KINDS)])
            path = folder / f"phantom-{seed}-{lesions}-lesion{'s' * (lesions != 1)}.dcm"
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
            truth = [[round(value, 1) for value in box] for box in boxes(chest, rows, columns)]
            table.writerow([path.name, ds.SOPInstanceUID, rows, columns, lesions, json.dumps(truth)])
    return paths


def _code(code: object) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code[:3]  # type: ignore[index]
    return item
