"""Key Object Selections (PS3.3 A.35.4) read: what they are called and which objects they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from chexmodels.dicom import values

MOST = 100_000
"""Objects that one document may name."""


REJECTIONS = frozenset(["113001", "113037", "113038", "113039"])
"""Codes of DCM in the title of a document that rejects what it names (PS3.16 CID 7011): for quality, for patient
safety, a wrong worklist entry, the end of retention."""


@dataclass(frozen=True, slots=True)
class KeyObject:
    """One object that a document names."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True, slots=True)
class KeyObjects:
    """A document's title and its objects."""

    title: tuple[str, str]
    """Code Value and Coding Scheme Designator of Concept Name; empty strings where there is none."""
    objects: tuple[KeyObject, ...]

    @property
    def is_rejection(self) -> bool:
        """Whether it rejects its objects (IHE RAD TF-2 4.66, Rejection Note Stored)."""
        return self.title[1] == "DCM" and self.title[0] in REJECTIONS


def read_key_objects(ds: Dataset) -> KeyObjects:
    """Return what the document ``ds`` says. What is broken in it is left out."""
    titles = _items(ds, "ConceptNameCodeSequence")
    title = (_text(titles[0], "CodeValue"), _text(titles[0], "CodingSchemeDesignator")) if titles else ("", "")
    return KeyObjects(title, tuple(_named(ds)))


def _named(ds: Dataset) -> Iterator[KeyObject]:
    """Yield what Current Requested Procedure Evidence names (PS3.3 C.17.6.2): all that the content tree refers to."""
    number = 0
    for study in _items(ds, "CurrentRequestedProcedureEvidenceSequence"):
        for series in _items(study, "ReferencedSeriesSequence"):
            for item in _items(series, "ReferencedSOPSequence"):
                uids = (
                    _text(item, "ReferencedSOPClassUID"),
                    _text(item, "ReferencedSOPInstanceUID"),
                    _text(series, "SeriesInstanceUID"),
                    _text(study, "StudyInstanceUID"),
                )
                number += 1
                if number > MOST:
                    return
                if uids[1]:
                    yield KeyObject(*uids)


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    try:
        found = ds.get(keyword)
        return [item for item in found or () if isinstance(item, Dataset)]
    except Exception:  # pydicom reads the value only now, and fails as it likes
        return []


def _text(ds: Dataset, keyword: str) -> str:
    return next(iter(values.texts(ds, keyword)), "")
