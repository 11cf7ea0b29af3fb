"""The source image's header, made safe to copy from: identity and study as they are, everything else legal or gone.

Real headers are dirty. Identity and study attributes are copied in meaning and never cut, because a shortened Patient
ID is another patient; what no legal data set can hold is changed as little as possible, as
:mod:`chexmodels.dicom.values` says. Text is written again as UTF-8. A value of more than 10240 characters, the longest
of any of these (LT), is no value; an absent Type 2 attribute is empty, an invalid Type 3 one is dropped, private
elements are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from typing import Literal

from highdicom import ContributingEquipment
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from chexmodels.dicom import values
from chexmodels.dicom.greyscale import Choice, Greyscale, Window, offered
from chexmodels.dicom.shutter import declared
from chexnode.encode.attributes import EQUIPMENT, IMAGE, OPTIONAL, TYPE_2
from chexnode.encode.provenance import derived_uid
from chexnode.vocabulary.notes import Note

#: The SOP classes that highdicom is told of; any other one is described to it as a Secondary Capture.
_KNOWN_CLASSES = frozenset(
    {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        SecondaryCaptureImageStorage,
    }
)
_CALIBRATED = (["GEOMETRY"], ["FIDUCIAL"])
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True, slots=True)
class Source:
    """What the results copy from and refer to. Never changed once made."""

    ds: Dataset
    """Sanitised header without pixels, private elements or group lengths; ISO_IR 192. Holds Image Position, Image
    Orientation and Pixel Spacing only where the whole patient geometry is there."""
    sop_class_uid: str
    """SOP Class UID of the source itself; ``ds.SOPClassUID`` is one that highdicom knows."""
    rows: int
    columns: int
    spacing: tuple[float, float] | None
    """Distance in mm between rows, and between columns, at the detector where known. None: unknown."""
    spacing_kind: Literal["imager", "pixel"] | None
    """Which attribute gave the spacing: Imager Pixel Spacing or Pixel Spacing."""
    calibrated_spacing: tuple[float, float] | None
    """Pixel Spacing where the source says that it is calibrated to the size of what was imaged (PS3.3 10.7.1.3): the
    only one that lengths and areas in the patient may be told from. At the detector everything is magnified."""
    pixel_aspect_ratio: tuple[int, int]
    """Height to width of a pixel, as whole numbers: from the spacing, else from Pixel Aspect Ratio; 1, 1 if unknown."""
    greyscale: Greyscale
    """How the stored values become grey."""
    overlays: tuple[int, ...]
    """Groups (60xx) of the overlay planes that viewers draw."""
    shutter: Dataset
    """Elements of the Display Shutter module (PS3.3 C.7.6.11) that are complete; perhaps none."""
    view: str
    """View Position; empty where there is none."""
    series_number: int | None
    instance_number: int | None
    notes: tuple[Note, ...]

    @property
    def identity(self) -> Iterable[DataElement]:
        """Patient and study elements that every result carries unchanged."""
        return (self.ds[keyword] for keyword in ("StudyInstanceUID", *TYPE_2, *OPTIONAL) if keyword in self.ds)

    @property
    def has_geometry(self) -> bool:
        """Whether the image is placed in the patient (PS3.3 C.7.6.2), which hardly any radiograph is."""
        return "ImagePositionPatient" in self.ds

    @property
    def described(self) -> str:
        """Which image of the study it is, for a reader: date, view, series and instance, as far as they are known."""
        date = str(self.ds.StudyDate or "")
        said = (
            f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 else "",
            self.view,
            "" if self.series_number is None else f"series {self.series_number}",
            "" if self.instance_number is None else f"image {self.instance_number}",
        )
        return ", ".join(filter(None, said))

    @property
    def mark(self) -> str:
        """What tells results of this image from those of others of its study in Series Description.

        Empty for the first image of the first series, which most studies are.
        """
        series, instance = self._place
        return "" if (series, instance) == (1, 1) else f"S{series} I{instance}"

    def numbered(self, series_number: int) -> int:
        """Return Series Number of a result: ``series_number``, and behind it the source's series and image of several.

        Two digits each; never more than an IS holds (PS3.5 section 6.2).
        """
        series, instance = self._place
        number = (series_number * 100 + series % 100) * 100 + instance % 100
        return series_number if (series, instance) == (1, 1) or number >= 2**31 else number

    @property
    def _place(self) -> tuple[int, int]:
        return max(1, self.series_number or 1), max(1, self.instance_number or 1)

    def template(self) -> Dataset:
        """Return the header with its identity blank, for highdicom, which warns about and refuses real-life names."""
        ds = Dataset()
        ds.update({element.tag: element for element in self.ds if element.keyword not in OPTIONAL})
        for keyword in TYPE_2:
            ds.add(_empty(keyword))
        return ds


def sanitise(
    header: Dataset, choice: Choice | None = None, window: Window | None = None, overlays: tuple[int, ...] = ()
) -> Source:
    """Make a safe copy of ``header``, a parsed data set with or without pixels. Never raises on a parseable one.

    ``choice``: which of its grey-scale transformations served the pixels; None: nobody has seen them. ``window``: that
    shows the pixels where the header has none that serves. ``overlays``: groups of the planes that viewers draw.

    A Study, Series or SOP Instance UID that is none is replaced by one derived from the others, so that a result of
    such a file can at least be written.
    """
    encodings = values.codecs(header)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    sop_class_uid = values.uid(header, "SOPClassUID") or SecondaryCaptureImageStorage
    ds.SOPClassUID = sop_class_uid if sop_class_uid in _KNOWN_CLASSES else SecondaryCaptureImageStorage
    uids = [values.uid(header, k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    for keyword, value in zip(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), uids, strict=True):
        setattr(ds, keyword, value or derived_uid(sha256(repr((keyword, uids)).encode()).digest()))
    for keyword in (*TYPE_2, *OPTIONAL, *EQUIPMENT, *IMAGE):
        element = values.clean(header, keyword, encodings)
        if element is not None:
            ds.add(element)
        elif keyword in TYPE_2:
            ds.add(_empty(keyword))
    for keyword, length in EQUIPMENT.items():
        if keyword in ds:
            value = ds[keyword].value
            # highdicom refuses a backslash even in ST, and an empty name of the equipment
            named = (text.replace("\\", " ").strip() for text in ([value] if isinstance(value, str) else value))
            if text := next(filter(None, named), ""):
                setattr(ds, keyword, text[:length])
            else:
                del ds[keyword]
    if "Modality" not in ds:
        ds.Modality = "OT"
    _copy_orientation(header, ds)
    _copy_lossy(header, ds)
    rows, columns = (values.unsigned(header, keyword) or 0 for keyword in ("Rows", "Columns"))
    ds.Rows, ds.Columns = rows, columns
    imager = values.spacing(header, "ImagerPixelSpacing")
    pixel = values.spacing(header, "PixelSpacing")
    _copy_geometry(header, ds, pixel)
    spacing = imager or pixel
    greyscale = offered(header).pick(choice)
    return Source(
        ds=ds,
        sop_class_uid=str(sop_class_uid),
        rows=rows,
        columns=columns,
        spacing=spacing,
        spacing_kind=None if spacing is None else "imager" if imager else "pixel",
        calibrated_spacing=pixel if values.texts(header, "PixelSpacingCalibrationType") in _CALIBRATED else None,
        pixel_aspect_ratio=_aspect_ratio(spacing or values.spacing(header, "PixelAspectRatio") or (1, 1)),
        greyscale=greyscale if greyscale.voi or not window else replace(greyscale, voi=window),
        overlays=overlays,
        shutter=declared(header),
        view=(values.texts(header, "ViewPosition") or [""])[0].upper()[:16],
        series_number=values.integer(header, "SeriesNumber"),
        instance_number=values.integer(header, "InstanceNumber"),
        notes=() if spacing else (Note.SPACING_UNKNOWN,),
    )


def acquisition(source: Source) -> list[ContributingEquipment]:
    """Return the Contributing Equipment item of what took the radiograph (PS3.3 C.12.1), where the source names it."""
    return [ContributingEquipment.for_image_acquisition(source.ds)] if "Manufacturer" in source.ds else []


def identify(ds: Dataset, source: Source) -> None:
    """Give ``ds``, as highdicom built it from the blank template, the patient and study of ``source``; in place."""
    for element in source.identity:
        ds.add(element)
    if source.sop_class_uid != source.ds.SOPClassUID:
        _name_class(ds, source.ds.SOPInstanceUID, source.sop_class_uid)


def attach(ds: Dataset, source: Source) -> None:
    """Make ``ds``, an image as highdicom built it from the blank template, a result of ``source``; in place."""
    identify(ds, source)
    # What was analysed. The source's own word is often none of the standard's (PS3.16 annex L), or absent.
    ds.BodyPartExamined = "CHEST"
    # Type 2C: required for an image that no position places, possibly empty.
    ds.PatientOrientation = source.ds.get("PatientOrientation", "")
    for keyword in _LOSSY:
        if keyword in source.ds:
            setattr(ds, keyword, source.ds[keyword].value)  # not the element: a compressed result adds to it


def _name_class(ds: Dataset, sop_instance_uid: str, sop_class_uid: str) -> None:
    """Say the real SOP class wherever the source image is referred to."""
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                if item.get("ReferencedSOPInstanceUID") == sop_instance_uid:
                    item.ReferencedSOPClassUID = sop_class_uid
                _name_class(item, sop_instance_uid, sop_class_uid)


def _empty(keyword: str) -> DataElement:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return DataElement(tag, dictionary_VR(tag), "", validation_mode=config.IGNORE)


def _aspect_ratio(sides: tuple[float, float]) -> tuple[int, int]:
    """Return the nearest ratio of small whole numbers; 1, 1 for pixels more oblong than any detector's."""
    ratio = Fraction(sides[0] / sides[1]).limit_denominator(1000)
    return (ratio.numerator, ratio.denominator) if Fraction(1, 4) <= ratio <= 4 else (1, 1)


def _copy_orientation(header: Dataset, ds: Dataset) -> None:
    """Patient Orientation (PS3.3 C.7.6.1.1.1): two directions, each of letters that do not contradict each other."""
    row_column = values.texts(header, "PatientOrientation")
    if len(row_column) == 2 and all(
        0 < len(direction) <= 3 and all(len(set(direction) & set(axis)) <= 1 for axis in ("LR", "AP", "HF"))
        and len(set(direction)) == len(direction) and set(direction) <= set("LRAPHF")
        for direction in row_column
    ):  # fmt: skip
        ds.PatientOrientation = row_column


def _copy_lossy(header: Dataset, ds: Dataset) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5); the codestream itself may say so where the header forgets to."""
    meta = getattr(header, "file_meta", Dataset())
    lossy = values.is_lossy(header, values.uid(meta, "TransferSyntaxUID"))
    ds.LossyImageCompression = "01" if lossy else "00"
    ratios, methods = (values.texts(ds, keyword) for keyword in _LOSSY[1:])
    if not lossy or len(ratios) != len(methods):
        for keyword in _LOSSY[1:]:
            ds.pop(keyword, None)


def _copy_geometry(header: Dataset, ds: Dataset, pixel_spacing: tuple[float, float] | None) -> None:
    """Frame of Reference where valid; position, orientation and spacing only all together."""
    frame_of_reference = values.uid(header, "FrameOfReferenceUID")
    if not frame_of_reference:
        return
    ds.FrameOfReferenceUID = frame_of_reference
    ds.PositionReferenceIndicator = ""
    position = values.numbers(header, "ImagePositionPatient", 3)
    orientation = values.numbers(header, "ImageOrientationPatient", 6)
    if position is None or orientation is None or pixel_spacing is None or not values.is_orthonormal(orientation):
        return
    ds.ImagePositionPatient = values.decimals(position)
    ds.ImageOrientationPatient = values.decimals(orientation)
    ds.PixelSpacing = values.decimals(pixel_spacing)
    ds.SliceThickness = 1  # of no meaning in a projection, but Pixel Measures cannot be without (PS3.3 C.7.6.16.2.1)
