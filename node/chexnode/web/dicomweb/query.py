"""A QIDO-RS query string read (PS3.18 sections 8.3.4 and 10.6.1), and the attributes that it may name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from chexnode.ledger.instances import name_key
from chexnode.ledger.matching import AllOf, AnyOf, Between, Condition, Like, Name, OneOf
from chexnode.ledger.objects import Query
from chexnode.web.dicomweb.responses import BadRequest

MOST = 1000
"""Results of one answer; there may be more on the next page."""

SUPERSEDED = "includesuperseded"
"""Our own query parameter: also results that are valid no longer."""
_MOST_VALUES = 1000
"""Values that one attribute may be searched for at once."""
_DATE = r"\d{4}(?:\d{2}(?:\d{2})?)?"
_TIME = r"\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?"
_RANGE = {"DA": re.compile(rf"({_DATE})?-({_DATE})?"), "TM": re.compile(rf"({_TIME})?-({_TIME})?")}
_POINT = {"DA": re.compile(_DATE), "TM": re.compile(_TIME)}
_INT32 = 2**31
_SWITCHES = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching", SUPERSEDED)


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


#: Keyword -> attribute, of those that the ledger has columns for.
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

#: Made from what is in a study. Only the first can be searched for.
OF_STUDY = ("ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
#: Made by the node, at any level.
MADE = ("InstanceAvailability", "RetrieveURL", "NumberOfSeriesRelatedInstances", "AvailableTransferSyntaxUID")


def keyword_of(name: str) -> str | None:
    """The keyword of an attribute named by keyword or by tag; None if DICOM knows none."""
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return keyword_for_tag(int(name, 16)) or None
    return name if tag_for_keyword(name) is not None else None


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for, and how it is to be answered."""

    level: Level
    query: Query
    included: frozenset[str] = frozenset()
    """Keywords asked for; empty: the usual ones."""
    everything: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Reading:
    values: dict[str, list[str]] = field(default_factory=dict)
    """Keyword of an attribute that can be searched for -> the values of its parameters."""
    switches: dict[str, bool] = field(default_factory=dict)
    included: set[str] = field(default_factory=set)
    everything: bool = False
    limit: int = MOST
    offset: int = 0
    warnings: list[str] = field(default_factory=list)


def read_query(level: Level, parameters: Iterable[tuple[str, str]], path: Mapping[str, str]) -> Search:
    """Read the query ``parameters`` of a search; ``path``: the UIDs in its URL by keyword.

    Raises BadRequest. What cannot be searched for is passed over, with a warning (PS3.18 8.3.4.1). Several values of
    one attribute, be they in one list or each in a parameter of its own, match whatever matches one of them.
    """
    reading = _Reading()
    for name, value in parameters:
        _read(reading, level, name, value)
    conditions: dict[Level, dict[str, Condition]] = {one: {} for one in Level}
    modalities: Condition | None = None
    for keyword, values in reading.values.items():
        if keyword == "ModalitiesInStudy":
            modalities = _condition("CS", keyword, values, reading.switches)
            continue
        attribute = ATTRIBUTES[keyword]
        condition = _condition(attribute.vr, keyword, values, reading.switches)
        if condition is not None:
            column = "patient_name_key" if keyword == "PatientName" else attribute.column
            conditions[attribute.level][column] = condition
    for keyword, uid in path.items():
        attribute = ATTRIBUTES[keyword]
        already = conditions[attribute.level].get(attribute.column)
        if isinstance(already, OneOf) and uid not in already.values:
            uid = ""  # the path and the query name different ones: nothing matches
        conditions[attribute.level][attribute.column] = OneOf((uid,))
    query = Query(
        study=conditions[Level.STUDY],
        series=conditions[Level.SERIES],
        instance=conditions[Level.INSTANCE],
        modalities=modalities,
        offset=reading.offset,
        limit=reading.limit + 1,  # one more, to see whether there are more
        superseded=reading.switches.get(SUPERSEDED, False),
    )
    return Search(level, query, frozenset(reading.included), reading.everything, tuple(dict.fromkeys(reading.warnings)))


def _read(reading: _Reading, level: Level, name: str, value: str) -> None:
    if name == "limit":
        reading.limit = min(_count(name, value), MOST)
    elif name == "offset":
        reading.offset = min(_count(name, value), _INT32 - 1)
    elif name in _SWITCHES:
        if value.lower() not in ("true", "false"):
            raise BadRequest(f"{name} is true or false")
        reading.switches[name] = value.lower() == "true"
        if name == "emptyvaluematching" and reading.switches[name]:  # PS3.18 8.3.4.5
            reading.warnings.append(
                "The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed."
            )
    elif name == "includefield":
        for one in value.split(","):
            _include(reading, level, one.strip())
    elif name not in ("accept", "charset"):
        _match(reading, level, name, value)


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,18}", value):
        raise BadRequest(f"{name} is a whole number")
    return int(value)


def _include(reading: _Reading, level: Level, name: str) -> None:
    if name.lower() == "all":
        reading.everything = True
        return
    keyword = keyword_of(name.partition(".")[0])
    attribute = ATTRIBUTES.get(keyword or "")
    if (attribute is not None and attribute.level <= level) or keyword in (*OF_STUDY, *MADE):
        reading.included.add(keyword or "")
    elif name:
        reading.warnings.append("Some includefield attributes are not held for searches and were left out.")


def _match(reading: _Reading, level: Level, name: str, value: str) -> None:
    keyword = keyword_of(name) or ""
    attribute = ATTRIBUTES.get(keyword)
    if keyword != "ModalitiesInStudy" and (attribute is None or attribute.level > level):
        # Others' parameters, against caches or for a proxy, are passed over (PS3.18 section 8.3.1).
        reading.warnings.append("Some attributes of the query cannot be searched for here and were ignored.")
        return
    reading.included.add(keyword)
    if value and value != "*":  # universal matching, PS3.4 C.2.2.2.3 and C.2.2.2.4
        reading.values.setdefault(keyword, []).append(value)


def _condition(vr: str, keyword: str, given: list[str], switches: Mapping[str, bool]) -> Condition | None:
    """What the values of one attribute mean; None: any will do. Raises BadRequest.

    A backslash, which is inside no value, separates them; so does a comma where no value holds one (code strings, UIDs,
    numbers), or where multiplevaluematching says so (PS3.18 8.3.4.6).
    """
    by_comma = vr in ("CS", "UI", "IS", "US") or switches.get("multiplevaluematching", False)
    separator = r"[\\,]" if by_comma and vr != "PN" else r"\\"
    values = list(dict.fromkeys(one for text in given for one in re.split(separator, text)))
    values = [one for one in values if one] if vr in ("CS", "UI") else values
    if len(values) > _MOST_VALUES:
        raise BadRequest(f"{keyword} has more than {_MOST_VALUES} values")
    if not values or (vr == "CS" and "*" in values):
        return None
    conditions = [_of_value(vr, keyword, one, fuzzy=switches.get("fuzzymatching", False)) for one in values]
    if all(isinstance(one, OneOf) for one in conditions):
        return OneOf(tuple(value for one in conditions if isinstance(one, OneOf) for value in one.values))
    return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))


def _of_value(vr: str, keyword: str, value: str, *, fuzzy: bool) -> Condition:
    match vr:
        case "PN":
            return _name(name_key(value) if keyword == "PatientName" else value, fuzzy=fuzzy)
        case "IS" | "US":
            if not re.fullmatch(r"\s*[+-]?\d{1,12}\s*", value):
                raise BadRequest(f"{keyword} is a whole number")
            return OneOf((min(max(int(value), -_INT32), _INT32 - 1),))
        case "DA" | "TM":
            return _period(vr, value.strip(), keyword)
        case "UI":
            if not re.fullmatch(r"[0-9.]{1,128}", value.strip()):
                raise BadRequest(f"{keyword} is a UID or a list of UIDs")
            return OneOf((value.strip(),))
        case _:
            return Like(value) if "*" in value or "?" in value else OneOf((value.strip(" "),))


def _name(pattern: str, *, fuzzy: bool) -> Condition:
    """A component group that matches; with ``fuzzy`` also one whose components begin with each of its words."""
    literal = Name(pattern)
    words = [word for word in re.split(r"[\^=,\s*?]+", pattern) if word]
    if not fuzzy or not words:
        return literal
    begins = [AnyOf(tuple(Like(f"{before}{word}*") for before in ("", "*^", "* ", "*=", "*-"))) for word in words]
    return AnyOf((literal, AllOf(tuple(begins))))


def _period(vr: str, value: str, name: str) -> Condition:
    value = value.replace(":", "") if vr == "TM" else value
    if _POINT[vr].fullmatch(value):
        return Between(value, value)
    match = _RANGE[vr].fullmatch(value)
    if match is None or value == "-":
        raise BadRequest(f"{name} is a {'date' if vr == 'DA' else 'time'} or a range of two, such as A-B, A- or -B")
    return Between(match[1] or "", match[2] or "")
