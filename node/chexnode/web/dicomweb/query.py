"""A QIDO-RS query string read (PS3.18 sections 8.3.4 and 10.6.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from chexnode.ledger.instances import name_key
from chexnode.ledger.matching import Between, Condition, Like, Name, OneOf
from chexnode.ledger.objects import Query
from chexnode.web.dicomweb.attributes import ATTRIBUTES, MADE, OF_STUDY, Attribute, Level, keyword_of
from chexnode.web.dicomweb.errors import BadRequest

MOST = 1000
"""Results of one answer; there may be more on the next page."""

_DATE = r"\d{4}(?:\d{2}(?:\d{2})?)?"
_TIME = r"\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?"
_RANGE = {"DA": re.compile(rf"({_DATE})?-({_DATE})?"), "TM": re.compile(rf"({_TIME})?-({_TIME})?")}
_POINT = {"DA": re.compile(_DATE), "TM": re.compile(_TIME)}
_INT32 = 2**31

#: What the standard lets a server say that does not offer it (PS3.18 sections 8.3.4.2, 8.3.4.5, 8.3.4.6).
_NOT_DONE = {
    "fuzzymatching": "Only literal matching has been performed.",
    "emptyvaluematching": "Empty Value Matching has not been performed.",
    "multiplevaluematching": "Multiple Value Matching has not been performed.",
}


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
    by_level: dict[Level, dict[str, Condition]] = field(default_factory=lambda: {level: {} for level in Level})
    modalities: Condition | None = None
    included: set[str] = field(default_factory=set)
    everything: bool = False
    limit: int = MOST
    offset: int = 0
    warnings: list[str] = field(default_factory=list)


def read_query(level: Level, parameters: Iterable[tuple[str, str]], path: Mapping[str, str]) -> Search:
    """Read the query ``parameters`` of a search; ``path``: the UIDs in its URL by keyword.

    Raises BadRequest. What cannot be searched for is passed over, with a warning (PS3.18 8.3.4.1).
    """
    reading = _Reading()
    for name, value in parameters:
        _read(reading, level, name, value)
    for keyword, uid in path.items():
        attribute = ATTRIBUTES[keyword]
        already = reading.by_level[attribute.level].get(attribute.column)
        if isinstance(already, OneOf) and uid not in already.values:
            uid = ""  # the path and the query name different ones: nothing matches
        reading.by_level[attribute.level][attribute.column] = OneOf((uid,))
    query = Query(
        study=reading.by_level[Level.STUDY],
        series=reading.by_level[Level.SERIES],
        instance=reading.by_level[Level.INSTANCE],
        modalities=reading.modalities,
        offset=reading.offset,
        limit=reading.limit + 1,  # one more, to see whether there are more
    )
    return Search(level, query, frozenset(reading.included), reading.everything, tuple(dict.fromkeys(reading.warnings)))


def _read(reading: _Reading, level: Level, name: str, value: str) -> None:
    match name:
        case "limit":
            reading.limit = min(_count(name, value), MOST)
        case "offset":
            reading.offset = min(_count(name, value), _INT32 - 1)
        case "fuzzymatching" | "emptyvaluematching" | "multiplevaluematching":
            if value.lower() not in ("true", "false"):
                raise BadRequest(f"{name} is true or false")
            if value.lower() == "true":
                reading.warnings.append(f"The {name} parameter is not supported. {_NOT_DONE[name]}")
        case "includefield":
            for one in value.split(","):
                _include(reading, level, one.strip())
        case "accept" | "charset":
            pass
        case _:
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
    keyword = keyword_of(name)
    if keyword == "ModalitiesInStudy":
        if value:
            reading.modalities = _condition("CS", value, name)
        return
    attribute = ATTRIBUTES.get(keyword or "")
    if attribute is None or attribute.level > level:
        if keyword is None and not re.fullmatch(r"[0-9A-Za-z.]{1,128}", name):
            raise BadRequest("a query parameter is no attribute and none of includefield, limit, offset, fuzzymatching")
        reading.warnings.append("Some attributes of the query cannot be searched for here and were ignored.")
        return
    reading.included.add(attribute.keyword)
    if value and value != "*":  # universal matching, PS3.4 C.2.2.2.3 and C.2.2.2.4
        column, condition = _of_attribute(attribute, value)
        reading.by_level[attribute.level][column] = condition


def _of_attribute(attribute: Attribute, value: str) -> tuple[str, Condition]:
    if attribute.keyword == "PatientName":
        return "patient_name_key", Name(name_key(value))
    if attribute.vr == "PN":
        return attribute.column, Name(value)
    return attribute.column, _condition(attribute.vr, value, attribute.keyword)


def _condition(vr: str, value: str, name: str) -> Condition:
    if vr in ("IS", "US"):
        numbers = re.split(r"[\\,]", value)
        if not all(re.fullmatch(r"\s*[+-]?\d{1,12}\s*", one) for one in numbers):
            raise BadRequest(f"{name} is a whole number")
        return OneOf(tuple(min(max(int(one), -_INT32), _INT32 - 1) for one in numbers))
    if vr in _RANGE:
        return _period(vr, value.strip(), name)
    if vr == "UI":
        uids = tuple(one.strip() for one in re.split(r"[\\,]", value))
        if not all(re.fullmatch(r"[0-9.]{1,128}", one) for one in uids):
            raise BadRequest(f"{name} is a UID or a list of UIDs")
        return OneOf(uids)
    if "*" in value or "?" in value:
        return Like(value)
    return OneOf((value.strip(" "),))


def _period(vr: str, value: str, name: str) -> Condition:
    value = value.replace(":", "") if vr == "TM" else value
    if _POINT[vr].fullmatch(value):
        return Between(value, value)
    match = _RANGE[vr].fullmatch(value)
    if match is None or value == "-":
        raise BadRequest(f"{name} is a {'date' if vr == 'DA' else 'time'} or a range of two, such as A-B, A- or -B")
    return Between(match[1] or "", match[2] or "")
