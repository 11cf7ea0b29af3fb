"""What PS3.3 requires of an object: Type 1 attributes with a value, Type 2 attributes at least empty.

The tables of modules and attributes are those that highdicom ships and checks its sources with. Conditions (Types 1C
and 2C) are prose in the standard and so in no table: they are judged by dciodvfy, in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from chexnode.encode.attributes import OPTIONAL

#: Hold what Annex A's macro tables and no module table requires of them: any of their groups may be absent here.
_GROUPS = frozenset({"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"})
#: Its table describes any content item, not the root; the templates are read back instead.
_UNTABLED = frozenset({"sr-document-content"})


@dataclass(frozen=True, slots=True)
class Module:
    """One module of an IOD (PS3.3 annex A)."""

    name: str
    """As highdicom's tables call it, such as ``general-study``."""
    usage: str
    """M, C or U."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a module says of one attribute."""

    type: str
    """1, 1C, 2, 2C or 3."""
    items: dict[str, Rule]


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


def _lacking(ds: Dataset, rules: Mapping[str, Rule], path: str, *, is_present: bool) -> Iterator[tuple[str, str]]:
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
def attributes(module: str) -> Mapping[str, Rule]:
    """Return keyword -> rule of a module's attributes; those of a sequence's items are inside its rule."""
    rules: dict[str, Rule] = {}
    for row in get_module_attribute_map()[module]:
        if tag_for_keyword(row["keyword"]) is None:  # of a repeating group, such as overlays
            continue
        place = rules
        for keyword in row["path"]:
            place = place[keyword].items
        place.setdefault(row["keyword"], Rule(row["type"], {}))
    return rules
