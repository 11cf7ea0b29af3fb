"""From the encoded data set as received to what the gate and the ledger need. Pure, bounded, no pixels.

Only what is asked for is decoded: the data set handed out holds raw values that pydicom converts on access.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from pydicom import Dataset

from chexmodels.dicom import values
from chexmodels.dicom.elements import Buffer, Element, Scan, dataset_of, scan
from chexmodels.dicom.transfer_syntaxes import encoding_of
from chexnode.settings.limits import LimitSettings
from chexnode.vocabulary.records import Attributes

#: Digits and dots only, and no more than the ledger holds: 64 is the rule, a longer one is quarantined, not lost.
_SAFE_UID = re.compile(r"[0-9.]{1,128}")

MAX_TEXT = 1024
#: What is copied of a header, in bytes. Large values are nothing the gate looks at, and copies of them would be memory
#: that a stranger asked for, in each of his associations.
_MAX_VALUE = 1 << 20
_MAX_VALUES = 4 << 20


class NotUnderstood(Exception):
    """Not a data set that can be stored: status 0xC000. The text is safe for logs and for Error Comment."""


@dataclass(frozen=True, slots=True)
class ReceivedHeader:
    """What a data set says of itself."""

    ds: Dataset
    """Everything at the top level but pixel data and sequences that were cut off; values still raw."""
    scan: Scan
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    manufacturer: str
    study: Attributes
    series: Attributes
    instance: Attributes


def is_safe_uid(uid: str) -> bool:
    """Whether ``uid`` may go into files and rows: digits and dots, at most 128 characters."""
    return _SAFE_UID.fullmatch(uid) is not None


def read_header(data: Buffer, transfer_syntax_uid: str, limits: LimitSettings) -> ReceivedHeader:
    """Parse ``data``, an encoded data set (inflated already). Raises :class:`NotUnderstood`."""
    encoding = encoding_of(transfer_syntax_uid)
    found = scan(data, encoding, limits.max_elements, limits.max_nesting)
    if found.too_deep:
        raise NotUnderstood(found.broken)
    ds = dataset_of(data, _smallest(found.elements.values()), encoding)
    codecs = values.codecs(ds)

    def uid(tag: int) -> str:
        """Without its padding; not checked."""
        return "\\".join(values.texts(ds, tag))

    def attributes(keywords: Iterable[str]) -> Attributes:
        return {_column(keyword): _attribute(ds, keyword, codecs) for keyword in keywords}

    return ReceivedHeader(
        ds,
        found,
        uid(0x00080016),
        uid(0x00080018),
        uid(0x0020000D),
        uid(0x0020000E),
        values.text(ds, "Manufacturer", codecs, MAX_TEXT) or "",
        attributes(_STUDY),
        attributes(_SERIES),
        attributes(_INSTANCE),
    )


def _smallest(elements: Iterable[Element]) -> Iterator[Element]:
    """The elements that are copied: the shortest first, so that long ones push out nobody but each other."""
    left = _MAX_VALUES
    for element in sorted(elements, key=lambda element: element.length):
        left -= element.length
        if element.length > _MAX_VALUE or left < 0:
            return
        yield element


@cache
def _column(keyword: str) -> str:
    """The keyword in snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", keyword).lower()


def _attribute(ds: Dataset, keyword: str, codecs: list[str]) -> str | int | None:
    if keyword in _UNSIGNED:
        return values.unsigned(ds, keyword)
    if keyword in _INTEGER:
        return values.integer(ds, keyword)
    return values.text(ds, keyword, codecs, MAX_TEXT)


_STUDY = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ReferringPhysicianName",
)
_SERIES = (
    "Modality",
    "SeriesDescription",
    "BodyPartExamined",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "SeriesNumber",
)
_UNSIGNED = frozenset({"Rows", "Columns", "BitsAllocated"})
_INTEGER = frozenset({"SeriesNumber", "InstanceNumber", "NumberOfFrames"})
_INSTANCE = (
    "ViewPosition",
    "PhotometricInterpretation",
    "StationName",
    *sorted(_UNSIGNED),
    "InstanceNumber",
    "NumberOfFrames",
)
