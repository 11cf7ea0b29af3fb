"""The findings as a Secondary Capture (PS3.3 A.8.1): the one result that every PACS and viewer shows.

8-bit RGB, a series of its own under the source's modality, always sent: it says "no finding" and "not evaluated" too.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from pydicom.valuerep import format_number_as_ds

from chexmodels.dicom.values import texts
from chexmodels.finding import Findings
from chexnode.encode.caption import caption
from chexnode.encode.picture import Layout, lay_out, render
from chexnode.encode.provenance import (
    COMPRESSED,
    DISCLAIMER,
    MANUFACTURER,
    RESAMPLED,
    SEGMENTED,
    SOURCE_IMAGE,
    Provenance,
    equipment,
    long_string,
    software_versions,
    stamp,
)
from chexnode.encode.source import Source, acquisition, attach
from chexnode.vocabulary.series import SeriesName
from chexnode.vocabulary.variants import ScEncoding, ScForm

_JPEG_QUALITY = 92


def encode_sc(
    source: Source, display: NDArray[np.uint8], findings: Findings, provenance: Provenance, encoding: ScEncoding
) -> Dataset:
    """Return the Secondary Capture of ``findings`` drawn on ``display``, (h, w) uint8, MONOCHROME2 sense.

    ``rgb`` is native Explicit VR Little Endian; ``jpeg`` is JPEG Baseline, a tenth of the size and lossy.
    """
    layout = lay_out(display.shape, caption(findings, provenance, source.described), source.pixel_aspect_ratio)
    return capture(
        source,
        render(display, findings, layout),
        layout,
        provenance,
        form=ScForm(encoding),
        series=provenance.series.sc,
        derivation="Radiograph with outlines and labels drawn by an algorithm",
    )


def capture(
    source: Source,
    picture: NDArray[np.uint8],
    layout: Layout,
    provenance: Provenance,
    *,
    form: ScForm,
    series: SeriesName,
    derivation: str,
) -> Dataset:
    """Return ``picture``, (rows, columns, 3) uint8 RGB, as a Secondary Capture derived from the source.

    ``form`` says how it is encoded; ``derivation`` says what was done.
    """
    ds: Dataset = SCImage(
        # highdicom copies its pixels three times; it gets one, and the ten megabytes are put in below.
        pixel_array=np.zeros((1, 1, 3), np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=source.ds.StudyInstanceUID,
        series_instance_uid=provenance.uid(form, "series"),
        series_number=source.numbered(series.number),
        sop_instance_uid=provenance.uid(form),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=long_string(provenance.model_name),
        software_versions=software_versions(provenance),
        device_serial_number=long_string(provenance.model_digest),
        series_description=provenance.series_description(series, source.mark),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        contributing_equipment=[*acquisition(source), equipment(provenance)],
    )
    ds.Modality = source.ds.Modality
    ds.ConversionType = "WSD"
    ds.ImageComments = f"{DISCLAIMER}. {provenance.model_name} {provenance.model_version}"
    _refer(ds, source, derivation, resampled=(layout.height, layout.width) != (source.rows, source.columns))
    if "BurnedInAnnotation" in source.ds:  # ours holds no identity; the source's may (PS3.3 C.7.6.1)
        ds.BurnedInAnnotation = source.ds.BurnedInAnnotation
    attach(ds, source)
    stamp(ds, provenance)
    ds.Rows, ds.Columns = picture.shape[:2]
    if form.encoding == "jpeg":
        _compress(ds, picture)
    else:
        ds.PixelData = picture.tobytes() + b"\0" * (picture.size % 2)
    return ds


def _refer(ds: Dataset, source: Source, derivation: str, *, resampled: bool) -> None:
    """Say which image this was made from and how (PS3.3 C.7.6.1, C.12.4)."""
    instance = Dataset()
    instance.ReferencedSOPClassUID = source.sop_class_uid
    instance.ReferencedSOPInstanceUID = source.ds.SOPInstanceUID
    image = Dataset()
    image.update(instance)
    image.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(SOURCE_IMAGE)]
    image.SpatialLocationsPreserved = "NO"  # there are words above it, if nothing else
    series = Dataset()
    series.SeriesInstanceUID = source.ds.SeriesInstanceUID
    series.ReferencedInstanceSequence = [instance]
    ds.SourceImageSequence = [image]
    ds.ReferencedSeriesSequence = [series]
    ds.DerivationDescription = derivation
    ds.DerivationCodeSequence = [
        CodedConcept.from_code(c) for c in ((SEGMENTED, RESAMPLED) if resampled else (SEGMENTED,))
    ]


def _compress(ds: Dataset, picture: NDArray[np.uint8]) -> None:
    """Compress by JPEG Baseline and say so (PS3.5 8.2.1, PS3.3 C.7.6.1.1.5), after what the source went through."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:2")
    ratio = format_number_as_ds(round(picture.size / buffer.tell(), 2))
    ds.PixelData = encapsulate([buffer.getvalue()])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PhotometricInterpretation = "YBR_FULL_422"
    before = zip(texts(ds, "LossyImageCompressionRatio"), texts(ds, "LossyImageCompressionMethod"), strict=True)
    steps = [*before, (ratio, "ISO_10918_1")]
    ds.DerivationCodeSequence.append(CodedConcept.from_code(COMPRESSED))
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio = [step[0] for step in steps]
    ds.LossyImageCompressionMethod = [step[1] for step in steps]
