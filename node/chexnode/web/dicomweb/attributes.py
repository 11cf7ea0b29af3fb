"""Which attributes a search may name (PS3.18 section 10.6): those that the ledger has columns for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword


class Level(IntEnum):
    """Of the information model, from the top."""

    STUDY = 0
    SERIES = 1
    INSTANCE = 2


@dataclass(frozen=True, slots=True)
class Attribute:
    """A searchable attribute."""

    keyword: str
    column: str
    level: Level

    @property
    def vr(self) -> str:
        """Its value representation."""
        tag = tag_for_keyword(self.keyword)
        assert tag is not None
        return dictionary_VR(tag)


def _at(level: Level, *keywords: str) -> dict[str, Attribute]:
    return {keyword: Attribute(keyword, _column(keyword), level) for keyword in keywords}


def _column(keyword: str) -> str:
    """The keyword in snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", keyword).lower()


#: Keyword -> attribute.
ATTRIBUTES: Mapping[str, Attribute] = {
    **_at(
        Level.STUDY,
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyDescription",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
    ),
    **_at(
        Level.SERIES,
        "Modality",
        "SeriesDescription",
        "BodyPartExamined",
        "SeriesInstanceUID",
        "SeriesNumber",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
    ),
    **_at(
        Level.INSTANCE,
        "SOPClassUID",
        "SOPInstanceUID",
        "InstanceNumber",
        "Rows",
        "Columns",
        "BitsAllocated",
        "NumberOfFrames",
    ),
}

#: Made from what is in a study: keyword -> VR. Only the first can be searched for.
OF_STUDY = ("ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
#: Made by the node, at any level.
MADE = ("InstanceAvailability", "RetrieveURL", "NumberOfSeriesRelatedInstances", "AvailableTransferSyntaxUID")


def keyword_of(name: str) -> str | None:
    """The keyword of an attribute named by keyword or by tag; None if DICOM knows none."""
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return keyword_for_tag(int(name, 16)) or None
    return name if tag_for_keyword(name) is not None else None
