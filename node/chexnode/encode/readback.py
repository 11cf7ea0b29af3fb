"""The last look at a result before it is stored: its file is read back and compared with what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from highdicom.seg import Segmentation
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

from chexmodels.finding import Findings
from chexnode.encode import rules
from chexnode.encode.attributes import TYPE_2
from chexnode.encode.contours import outline
from chexnode.encode.invalid import InvalidResult
from chexnode.encode.not_analysed import NotAnalysed
from chexnode.encode.provenance import MANUFACTURER, Provenance, tracking_uid
from chexnode.encode.source import Source
from chexnode.encode.sr import SrVariant
from chexnode.encode.sr_check import check_not_analysed, check_sr
from chexnode.vocabulary.variants import ResultKind


def check(data: bytes, source: Source, findings: Findings, provenance: Provenance, kind: ResultKind, form: str) -> None:
    """Read the result ``data``, a DICOM file, and compare it with what it was made from.

    Raises InvalidResult, with the reason, if the file does not parse, if it lacks an attribute that PS3.3 requires, if
    study or identity differ from the source's, if it names another instance, model or source image, or if it does not
    say what was found: a Segmentation by its mask, bit for bit as highdicom reads it, a report by its groups, a
    presentation state by its outlines and polarity, a Secondary Capture by the number of its pixels or the size of its
    codestream.
    """
    try:
        ds = dcmread(BytesIO(data))
        _check_header(ds, source, provenance, kind, form)
        if kind is ResultKind.SR:
            check_sr(ds, source, findings, provenance, SrVariant.parse(form))
            return
        if _referenced(ds) != source.ds.SOPInstanceUID:
            raise InvalidResult("it does not refer to the source image")
        if kind is ResultKind.SEG:
            _check_mask(ds, source, findings)
        elif kind is ResultKind.GSPS:
            _check_outlines(ds, source, findings, provenance)
        else:
            _check_picture(ds)
    except InvalidResult:
        raise
    except Exception as error:  # whatever a reader trips over, a viewer would too
        raise InvalidResult(f"it cannot be read back: {type(error).__name__}") from error


def check_report(data: bytes, study: Source, images: Sequence[NotAnalysed]) -> None:
    """Read back the report ``data`` of what was not analysed in ``study``. Raises InvalidResult like :func:`check`."""
    try:
        ds = dcmread(BytesIO(data))
        _check_required(ds)
        _check_identity(ds, study)
        check_not_analysed(ds, images)
    except InvalidResult:
        raise
    except Exception as error:
        raise InvalidResult(f"it cannot be read back: {type(error).__name__}") from error


def _check_required(ds: Dataset) -> None:
    faults = rules.faults(ds)
    if faults:
        raise InvalidResult(f"{faults[0]}" + (f", and {len(faults) - 1} more" if len(faults) > 1 else ""))


def _check_identity(ds: Dataset, source: Source) -> None:
    for keyword in ("StudyInstanceUID", *TYPE_2):
        if ds[keyword].value != source.ds[keyword].value:
            raise InvalidResult(f"{keyword} differs from the source's")


def _check_header(ds: Dataset, source: Source, provenance: Provenance, kind: ResultKind, form: str) -> None:
    _check_required(ds)
    if not ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == provenance.uid(kind, form):
        raise InvalidResult("it is another instance")
    _check_identity(ds, source)
    ours = [item for item in ds.ContributingEquipmentSequence if item.Manufacturer == MANUFACTURER]
    if not any(provenance.model_digest in item.get("ContributionDescription", "") for item in ours):
        raise InvalidResult("it does not name the model's digest")


def _referenced(ds: Dataset) -> str:
    (series,) = ds.ReferencedSeriesSequence
    (instance,) = series.get("ReferencedInstanceSequence") or series.ReferencedImageSequence
    return str(instance.ReferencedSOPInstanceUID)


def _check_mask(ds: Dataset, source: Source, findings: Findings) -> None:
    seg = Segmentation.from_dataset(ds, copy=False)
    pixels = seg.get_pixels_by_source_instance(
        [source.ds.SOPInstanceUID],
        segment_numbers=[1],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    if findings.mask is None or not np.array_equal(pixels[0, :, :, 0], findings.mask):
        raise InvalidResult("its mask is not the mask that was found")


def _check_outlines(ds: Dataset, source: Source, findings: Findings, provenance: Provenance) -> None:
    drawn = [
        graphic
        for annotation in ds.GraphicAnnotationSequence
        for graphic in annotation.get("GraphicObjectSequence", ())
        if "TrackingUID" in graphic
    ]
    tracked = [graphic.TrackingUID for graphic in drawn]
    if tracked != [tracking_uid(provenance.job_key, number) for number, _ in enumerate(findings.regions, 1)]:
        raise InvalidResult("its outlines do not track the regions")
    for graphic, region in zip(drawn, findings.regions, strict=True):
        assert findings.mask is not None
        points = np.asarray(graphic.GraphicData, np.float32).reshape(-1, 2)
        if graphic.GraphicAnnotationUnits != "PIXEL" or not np.array_equal(points, outline(findings.mask, region)):
            raise InvalidResult("its outline is not the region's")
    if (ds.PresentationLUTShape == "INVERSE") != source.greyscale.inverse:
        raise InvalidResult("it would show the image as its negative")


def _check_picture(ds: Dataset) -> None:
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        codestream = Image.open(BytesIO(get_frame(ds.PixelData, 0, number_of_frames=1)))
        if codestream.size != (ds.Columns, ds.Rows):
            raise InvalidResult("its codestream has another size")
    elif len(ds.PixelData) < ds.Rows * ds.Columns * ds.SamplesPerPixel:
        raise InvalidResult("its pixel data is too short")
