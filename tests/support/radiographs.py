"""Headers and pixels of synthetic radiographs, clean or dirty as a test asks for; no image of any person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from chexmodels.finding import Box, Findings, Region
from chexnode.encode.provenance import Provenance

Kind = Literal["CR", "DX", "SC"]

PROVENANCE = Provenance(
    job_key="5f" * 32,
    model_name="CheX-Nomaly",
    model_version="1.2.3",
    model_digest="0123456789abcdef" * 4,
    operating_point="second_reader",
    threshold=0.4,
    software_version="0.1.0",
    created_at=datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC),
    image_threshold=0.5,
)

#: Attribute values of a patient geometry.
GEOMETRY: Mapping[str, Any] = {
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.4",
    "PositionReferenceIndicator": "",
    "ImagePositionPatient": [-150, -200, -180],
    "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
    "PixelSpacing": [0.2, 0.2],
    "SliceThickness": 1,
}


def radiograph(
    kind: Kind = "DX",
    shape: tuple[int, int] = (96, 80),
    photometric_interpretation: str = "MONOCHROME2",
    **attributes: Any,
) -> Dataset:
    """Return a chest radiograph that dciodvfy finds no fault in, changed by ``attributes``; None removes one."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = {
        "CR": ComputedRadiographyImageStorage,
        "DX": DigitalXRayImageStorageForPresentation,
        "SC": SecondaryCaptureImageStorage,
    }[kind]
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    ds.Modality = "DX" if kind == "DX" else "CR"
    ds.PatientName, ds.PatientID = "Müller^Jörg", "PID-1"
    ds.PatientBirthDate, ds.PatientSex = "19500102", "M"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260301", "101112", "S1", "A-1"
    ds.ReferringPhysicianName = "House^Gregory"
    ds.StudyDescription = "Chest PA"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.Manufacturer, ds.ManufacturerModelName = "Röntgen AG", "X"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.PatientOrientation = ["L", "F"]
    ds.AcquisitionDate = ds.ContentDate = "20260301"
    ds.AcquisitionTime = ds.ContentTime = "101113"
    ds.ImageType = ["ORIGINAL", "PRIMARY"] + ([""] if kind == "DX" else [])
    if kind == "SC":
        ds.ConversionType = "DI"
        del ds.ViewPosition
    if kind == "DX":
        _add_dx(ds)
    if kind != "SC":
        ds.ImagerPixelSpacing = [0.15, 0.14]
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric_interpretation
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    pixels = picture(shape)
    ds.PixelData = (255 - pixels if photometric_interpretation == "MONOCHROME1" else pixels).tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    for keyword, value in attributes.items():
        if value is None:
            ds.pop(keyword, None)
        else:
            setattr(ds, keyword, value)
    return ds


def _add_dx(ds: Dataset) -> None:
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.PresentationLUTShape = "INVERSE" if ds.get("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"
    ds.ImageLaterality = "U"
    anatomy = Dataset()
    anatomy.CodeValue, anatomy.CodingSchemeDesignator, anatomy.CodeMeaning = codes.SCT.Thorax[:3]
    ds.AnatomicRegionSequence = [anatomy]
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.AcquisitionContextSequence = []
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = codes.cid4010.PosteroAnterior[:3]
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.DetectorType = ds.PositionerType = None
    ds.WindowCenter, ds.WindowWidth = 128, 256


def picture(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a dull grey picture, (rows, columns) uint8, with nothing red or black in it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (60 + 60 * y // shape[0] + 60 * x // shape[1]).astype(np.uint8)


def lesion(shape: tuple[int, int], abnormal: bool | None = True, score: float = 0.87) -> Findings:
    """Return findings with one off-centre rectangle: rows 1/8 to 1/4, columns 5/8 to 7/8 (the image's upper right)."""
    box = Box(shape[1] * 5 // 8, shape[0] // 8, shape[1] * 7 // 8, shape[0] // 4)
    mask = np.zeros(shape, bool)
    if abnormal:
        mask[box.y0 : box.y1, box.x0 : box.x1] = True
    regions = (Region(box, box.area, 0.91, 0.7),) if abnormal else ()
    notes = ("out-of-distribution",) if abnormal is None else ()
    return Findings(None, mask, regions, score, abnormal, "CheX-Nomaly 1.2.3", notes=notes)


def hot(shape: tuple[int, int]) -> Findings:
    """Return the findings of :func:`lesion` with heat that falls off smoothly around the rectangle's centre."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = ((y + 0.5) / shape[0] - 0.1875) ** 2 + ((x + 0.5) / shape[1] - 0.75) ** 2
    return replace(lesion(shape), heat=np.exp(-distance / 0.005).astype(np.float32))


def parsed(ds: Dataset) -> Dataset:
    """Return ``ds`` as a reader would have it: written and read again, the values still undecoded."""
    return dcmread(BytesIO(part10(ds)), stop_before_pixels=True, force=True)


def part10(ds: Dataset) -> bytes:
    """Return ``ds`` as a DICOM file, however dirty it is."""
    buffer = BytesIO()
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "")
    ds.save_as(buffer, enforce_file_format="SOPClassUID" in ds and "SOPInstanceUID" in ds)
    return buffer.getvalue()
