"""What the created objects hold, read off examples that the encoders write: one of a full header, one of a bare one.

Nothing here repeats what an encoder says: an attribute that it adds or drops changes the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from chexmodels.finding import Box, Findings, Region
from chexnode.encode import verify as rules
from chexnode.encode.attributes import EQUIPMENT, OPTIONAL, TYPE_2
from chexnode.encode.not_analysed import NodeFacts, NotAnalysed, encode_not_analysed
from chexnode.encode.objects import encode, to_bytes
from chexnode.encode.provenance import Provenance
from chexnode.encode.source import Source, sanitise
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.series import SeriesName, SeriesNames
from chexnode.vocabulary.variants import GspsForm, ScForm, SegForm, SrForm, Variant

_LONGEST_VALUE = 80
_SETTINGS = ("SeriesNumber", "SeriesDescription")


@dataclass(frozen=True)
class Example:
    """One source image with what was found in it and what was made of it."""

    source: Source
    objects: Mapping[Variant, Dataset]
    report: Dataset
    """Of what was not analysed."""


@dataclass(frozen=True)
class Row:
    """One attribute of a created object."""

    depth: int
    keyword: str
    tag: str
    vr: str
    presence: str
    """ALWAYS, VNAP (always, perhaps empty), ANAP (perhaps absent), EMPTY: the words of PS3.2."""
    value: str
    """Where the value comes from, or the value itself if it is always the same."""


def examples() -> tuple[Example, Example]:
    """The results of an image whose header holds all that is ever copied, and of one that holds next to nothing."""
    return _example(1, _full_header()), _example(2, _bare_header())


def top_level(first: Dataset, second: Dataset, module: str) -> list[str]:
    """Keywords of ``module`` that stand in either data set, in the order of their tags."""
    found = {element.keyword for ds in (first, second) for element in ds}
    return sorted(found & set(rules.attributes(module)), key=lambda keyword: tag_for_keyword(keyword) or 0)


def rows(keyword: str, pair: tuple[Dataset, Dataset], sources: tuple[Source, Source]) -> Iterator[Row]:
    """The attribute and, below it, those of its items."""
    yield from _rows(0, keyword, pair, sources)


def _rows(depth: int, keyword: str, pair: Sequence[Dataset], sources: tuple[Source, Source]) -> Iterator[Row]:
    tag = keyword_tag(keyword)
    elements = [ds.get(tag) for ds in pair]
    one = next(element for element in elements if element is not None)
    copied = depth == 0 and _is_copied(keyword, elements, sources)
    items = [[] if element is None or element.VR != "SQ" else list(element.value) for element in elements]
    codes = {_code(item) for some in items for item in some}
    opened = one.VR == "SQ" and not copied and None in codes and keyword != "ContentSequence"
    if copied:
        value = "the source image's"
    elif depth == 0 and keyword in _SETTINGS:
        value = "settings: `[series]`" + (", `label` in front" if keyword == "SeriesDescription" else "")
    elif one.VR == "SQ":
        value = "" if None in codes else "; ".join(sorted(code for code in codes if code))
        value = "the content tree, below" if keyword == "ContentSequence" else value
    else:
        value = "" if all(e is None or e.is_empty for e in elements) else _fixed(elements) or "varies"
    yield Row(depth, keyword, f"({tag >> 16:04X},{tag & 0xFFFF:04X})", one.VR, _presence(elements), value)
    if opened:
        inner = {e.keyword for some in items for item in some for e in item}
        for each in sorted(inner, key=lambda k: tag_for_keyword(k) or 0):
            # The first item that has the attribute speaks for its example.
            chosen = [next((item for item in some if each in item), Dataset()) for some in items]
            yield from _rows(depth + 1, each, chosen, sources)


def _presence(elements: Sequence[DataElement | None]) -> str:
    states = {None if element is None else element.is_empty for element in elements}
    if states == {False}:
        return "ALWAYS"
    if states == {True}:
        return "EMPTY"
    return "ANAP" if None in states else "VNAP"


def _is_copied(keyword: str, elements: Sequence[DataElement | None], sources: tuple[Source, Source]) -> bool:
    if keyword in ("StudyInstanceUID", *TYPE_2, *OPTIONAL):
        return True
    pairs = [(element, source.ds.get(keyword)) for element, source in zip(elements, sources, strict=True)]
    return keyword in _OF_IMAGE and all(
        element is None or element.is_empty or element.value == value for element, value in pairs
    )


_OF_IMAGE = frozenset(
    {"Modality", "Rows", "Columns", "BurnedInAnnotation", "PatientOrientation", "LossyImageCompression",
     "LossyImageCompressionRatio", "LossyImageCompressionMethod", "FrameOfReferenceUID"}
)  # fmt: skip


def _fixed(elements: Sequence[DataElement | None]) -> str:
    """The value that both examples have."""
    texts = {
        "\\".join(str(v) for v in e.value) if e.VM > 1 else str(e.value)
        for e in elements
        if e is not None and not e.is_empty
    }
    if len(texts) != 1 or None in elements:
        return ""
    (text,) = texts
    return f"`{text}`" if len(text) <= _LONGEST_VALUE else ""


def _code(item: Dataset) -> str | None:
    if "CodeValue" not in item:
        return None
    return f'({item.CodeValue}, {item.CodingSchemeDesignator}, "{item.CodeMeaning}")'


def content(items: Sequence[Dataset], depth: int = 0) -> Iterator[tuple[str, str, str, str]]:
    """Walk a content tree: (depth and relationship, value type, concept name, value), equal neighbours once."""
    before: list[tuple[str, str, str, str]] = []
    for item in items:
        name = item.get("ConceptNameCodeSequence")
        row = (
            f"{'>' * depth} {item.get('RelationshipType', '')}".strip(),
            str(item.ValueType),
            (_code(name[0]) or "") if name else "",
            (_code(item.ConceptCodeSequence[0]) or "") if "ConceptCodeSequence" in item else "",
        )
        block = [row, *content(item.get("ContentSequence", ()), depth + 1)]
        if block != before:
            yield from block
        before = block


def _example(number: int, header: Dataset) -> Example:
    source = sanitise(header)
    shape = (source.rows, source.columns)
    key = f"{number}" * 64
    provenance = Provenance(
        job_key=key,
        model_name=f"Model {number}",
        model_version=f"{number}.0",
        model_digest=key,
        operating_point="second_reader",
        threshold=number / 10,
        software_version=f"{number}.0",
        created_at=datetime(2030, number, 2, 3 * number, 4, 5, tzinfo=UTC),
        series=_names(number),
    )
    made = encode(source, np.zeros(shape, np.uint8), _findings(number, shape), provenance, _WANTED)
    images = [NotAnalysed(source.sop_class_uid, f"1.2.{number}.9", f"1.2.{number}.8", Reason.LATERAL_VIEW)]
    facts = NodeFacts(provenance.software_version, provenance.created_at, _names(number))
    report = encode_not_analysed(source, images, key, facts)
    return Example(
        source,
        {one.variant: dcmread(BytesIO(one.data)) for one in made},
        dcmread(BytesIO(to_bytes(report))),
    )


_WANTED = (
    Variant(SegForm()),
    Variant(ScForm()),
    Variant(SrForm(seg_profile="planar")),
    Variant(GspsForm()),
)


def no_finding() -> Dataset:
    """A report of an image without a finding."""
    source = sanitise(_bare_header())
    shape = (source.rows, source.columns)
    clean = replace(_findings(1, shape), regions=(), mask=np.zeros(shape, bool), abnormal=False)
    provenance = Provenance("0" * 64, "M", "1", "0" * 64, "second_reader", 0.5, "1", datetime(2030, 1, 1, tzinfo=UTC))
    (report,) = encode(source, np.zeros(shape, np.uint8), clean, provenance, [_WANTED[2]])
    return dcmread(BytesIO(report.data))


def _names(number: int) -> SeriesNames:
    name = SeriesName(number, f"Series {number}")
    return SeriesNames(name, name, name, name, name, name)


def _findings(number: int, shape: tuple[int, int]) -> Findings:
    mask = np.zeros(shape, bool)
    box = Box(8 * number, 8, 8 * number + 9, 20 + number)
    mask[box.y0 : box.y1, box.x0 : box.x1] = True
    region = Region(box, box.area, number / 4, number / 5)
    return Findings(None, mask, (region,), number / 3, True, f"Model {number}")


def _bare_header() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.2.3", "1.2.2.2", "1.2.2.1"
    ds.Modality = "DX"
    ds.Rows, ds.Columns = 640, 800
    ds.PhotometricInterpretation = "MONOCHROME2"
    return _read(ds)


def _full_header() -> Dataset:
    """Every attribute that is ever copied, with a value of its VR."""
    ds = Dataset()
    for keyword in (*TYPE_2, *OPTIONAL, *EQUIPMENT):
        vr = dictionary_VR(keyword)
        ds.add_new(keyword_tag(keyword), vr, _VALUES.get(keyword, _VALUES[vr]))
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.1.3", "1.2.1.2", "1.2.1.1"
    ds.Modality = "CR"
    ds.Rows, ds.Columns = 96, 128
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.PatientOrientation = ["L", "F"]
    ds.ImagerPixelSpacing = [0.2, 0.1]
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "01"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = "10", "ISO_10918_1"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "2", "US"
    ds.WindowCenter, ds.WindowWidth = "128", "256"
    return _read(ds)


def keyword_tag(keyword: str) -> int:
    """The tag of a known keyword."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    assert keyword_for_tag(tag) == keyword
    return tag


def _read(ds: Dataset) -> Dataset:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.BitsAllocated = ds.BitsStored = 8
    ds.SamplesPerPixel, ds.PixelRepresentation, ds.HighBit = 1, 0, 7
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=False)
    return dcmread(BytesIO(buffer.getvalue()), force=True)


def _item() -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "A code"
    return item


#: By keyword, else by VR.
_VALUES = {
    "PatientSex": "F",
    "TimezoneOffsetFromUTC": "+0100",
    "AE": "AE", "AS": "042Y", "CS": "NO", "DA": "20300102", "DS": "1", "DT": "20300102030405", "IS": "1",
    "LO": "text", "LT": "text", "PN": "Doe^Jane", "SH": "text", "SQ": [_item()], "ST": "text", "TM": "030405",
    "UC": "text", "UI": "1.2.3", "UR": "text", "US": 1, "UT": "text",
}  # fmt: skip
