"""The last look at a result before it is stored: its file is read back and compared with what it was made from.

What PS3.3 requires is taken from the tables of modules and attributes that highdicom ships. Conditions (Types 1C and
2C) are prose in the standard and so in no table: the tests judge them, by dciodvfy. What a report or a presentation
state says is proven by the tests too; here its identity and its required attributes are looked at, and a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from highdicom.seg import Segmentation
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from chexmodels.finding import Findings
from chexnode.encode.attributes import OPTIONAL, TYPE_2
from chexnode.encode.provenance import MANUFACTURER, Provenance
from chexnode.encode.source import Source
from chexnode.vocabulary.variants import ResultForm, ResultKind

#: Hold what Annex A's macro tables and no module table requires of them: any of their groups may be absent here.
_GROUPS = frozenset({"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"})
#: Its table describes any content item, not the root; the templates are read back instead.
_UNTABLED = frozenset({"sr-document-content"})


class InvalidResult(Exception):
    """An encoded object does not read back as what it was made from. A bug: it is not sent."""


def verify(data: bytes, source: Source, findings: Findings, provenance: Provenance, form: ResultForm) -> None:
    """Read the result ``data``, a DICOM file, and compare it with what it was made from.

    Raises InvalidResult, with the reason, if the file does not parse, if it lacks an attribute that PS3.3 requires, if
    study or identity differ from the source's, if it names another instance, model or source image, or if it is a
    Segmentation whose mask, as highdicom reads it, is not bit for bit ``findings.mask``.
    """
    try:
        ds = dcmread(BytesIO(data))
        _verify_identity(ds, source)
        if not ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == provenance.uid(form):
            raise InvalidResult("it is another instance")
        ours = [item for item in ds.ContributingEquipmentSequence if item.Manufacturer == MANUFACTURER]
        if not any(provenance.model_digest in item.get("ContributionDescription", "") for item in ours):
            raise InvalidResult("it does not name the model's digest")
        if source.ds.SOPInstanceUID not in _referenced(ds):
            raise InvalidResult("it does not refer to the source image")
        if form.kind is ResultKind.SEG:
            _verify_mask(ds, source, findings)
        if form.kind in (ResultKind.SEG, ResultKind.SC) and not ds.PixelData:
            raise InvalidResult("it has no pixels")
    except InvalidResult:
        raise
    except Exception as error:  # whatever a reader trips over, a viewer would too
        raise InvalidResult(f"it cannot be read back: {type(error).__name__}") from error


def verify_report(data: bytes, study: Source) -> None:
    """Read back the report ``data`` of what was not analysed in ``study``.

    Raises InvalidResult if it does not parse, lacks a required attribute or is of another study or patient.
    """
    try:
        _verify_identity(dcmread(BytesIO(data)), study)
    except InvalidResult:
        raise
    except Exception as error:
        raise InvalidResult(f"it cannot be read back: {type(error).__name__}") from error


def verify_rejection(data: bytes) -> None:
    """Read back the rejection note ``data``. Raises InvalidResult if it does not parse or lacks an attribute."""
    try:
        absent = faults(dcmread(BytesIO(data)))
    except Exception as error:
        raise InvalidResult(f"it cannot be read back: {type(error).__name__}") from error
    if absent:
        raise InvalidResult(absent[0])


def _verify_identity(ds: Dataset, source: Source) -> None:
    absent = faults(ds)
    if absent:
        raise InvalidResult(f"{absent[0]}" + (f", and {len(absent) - 1} more" if len(absent) > 1 else ""))
    for keyword in ("StudyInstanceUID", *TYPE_2):
        if ds[keyword].value != source.ds[keyword].value:
            raise InvalidResult(f"{keyword} differs from the source's")


def _referenced(ds: Dataset) -> set[str]:
    """Return the SOP Instance UIDs of an image's or presentation state's references, or of a report's evidence."""
    studies = ds.get("CurrentRequestedProcedureEvidenceSequence") or [ds]
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in studies
        for series in study.ReferencedSeriesSequence
        for keyword in ("ReferencedInstanceSequence", "ReferencedImageSequence", "ReferencedSOPSequence")
        for instance in series.get(keyword) or ()
    }


def _verify_mask(ds: Dataset, source: Source, findings: Findings) -> None:
    seg = Segmentation.from_dataset(ds, copy=False)
    pixels = seg.get_pixels_by_source_instance(
        [source.ds.SOPInstanceUID],
        segment_numbers=[1],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    if findings.mask is None or not np.array_equal(pixels[0, :, :, 0], findings.mask):
        raise InvalidResult("its mask is not the mask that was found")


@dataclass(frozen=True, slots=True)
class Module:
    """One module of an IOD (PS3.3 annex A)."""

    name: str
    """As highdicom's tables call it, such as ``general-study``."""
    usage: str
    """M, C or U."""


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """What a module says of one attribute."""

    type: str
    """1, 1C, 2, 2C or 3."""
    items: dict[str, AttributeRule]


def modules(sop_class_uid: str) -> tuple[Module, ...]:
    """Return the modules of a SOP class's IOD. Raises KeyError for one without a table."""
    rows = get_iod_module_map()[get_sop_class_iod_map()[sop_class_uid]]
    return tuple(Module(row["key"], row["usage"]) for row in rows)


def faults(ds: Dataset) -> list[str]:
    """Return a sentence for each required attribute that ``ds`` lacks, in the order of the tables.

    What was copied from the source is not judged: its faults are the source's.
    """
    if not ds.get("SOPClassUID"):
        return [f"SOPClassUID (Type 1) is {'empty' if 'SOPClassUID' in ds else 'absent'}"]
    found: dict[str, str] = {}
    for module in modules(ds.SOPClassUID):
        if module.name not in _UNTABLED:
            # An optional module's own attributes say nothing of whether it is there; items of its sequences do.
            for attribute, fault in _lacking(ds, attributes(module.name), "", is_present=module.usage == "M"):
                found[attribute] = min(fault, found.get(attribute, fault))  # Type 1, where two modules differ
    return list(found.values())


def _lacking(
    ds: Dataset, rules: Mapping[str, AttributeRule], path: str, *, is_present: bool
) -> Iterator[tuple[str, str]]:
    """Yield (attribute, sentence)."""
    for keyword, rule in rules.items():
        if keyword in OPTIONAL:
            continue
        if keyword not in ds:
            if is_present and rule.type in ("1", "2"):
                yield path + keyword, f"{path}{keyword} (Type {rule.type}) is absent"
            continue
        element = ds[keyword]
        if is_present and rule.type == "1" and element.is_empty:
            yield path + keyword, f"{path}{keyword} (Type 1) is empty"
        if element.VR == "SQ":
            for item in element.value:
                yield from _lacking(item, rule.items, f"{path}{keyword}.", is_present=keyword not in _GROUPS)


@cache
def attributes(module: str) -> Mapping[str, AttributeRule]:
    """Return keyword -> rule of a module's attributes; those of a sequence's items are inside its rule."""
    rules: dict[str, AttributeRule] = {}
    for row in get_module_attribute_map()[module]:
        if tag_for_keyword(row["keyword"]) is None:  # of a repeating group, such as overlays
            continue
        place = rules
        for keyword in row["path"]:
            place = place[keyword].items
        place.setdefault(row["keyword"], AttributeRule(row["type"], {}))
    return rules
