"""The Native DICOM Model (PS3.19 section A.1): the JSON model of a data set as XML, and back. Pure.

pydicom has no XML; of what other libraries have, nothing reads and writes it without a file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from chexnode.dicomweb.json_model import Json

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
#: Characters that XML 1.0 has no way to write.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGERS = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
_DECIMALS = frozenset({"DS", "FD", "FL"})
_DEEPEST = 64
_FIRST_BLOCK = 0x10


class NotNative(ValueError):
    """Not a document of the Native DICOM Model. The text is safe to be shown to the sender."""


def to_xml(model: Json) -> bytes:
    """One data set as a document in UTF-8."""
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">\n'
    return (head + "".join(_attributes(model)) + "</NativeDicomModel>\n").encode("utf-8", "replace")


def _attributes(model: Json) -> Iterator[str]:
    for tag, one in sorted(model.items()):
        creator = _creator(model, tag)
        name = f"{tag[:4]}00{tag[6:]}" if creator else tag  # private blocks are numbered by their creator's name
        keyword = keyword_for_tag(int(tag, 16))
        said = {"tag": name, "vr": one["vr"], "keyword": keyword, "privateCreator": creator}
        attributes = "".join(f" {key}={quoteattr(_possible(value))}" for key, value in said.items() if value)
        yield f"<DicomAttribute{attributes}>{''.join(_content(one))}</DicomAttribute>\n"


def _creator(model: Json, tag: str) -> str:
    """The private creator of a private element (PS3.5 section 7.8.1)."""
    if int(tag[3], 16) % 2 == 0 or tag[4:6] == "00":
        return ""
    values = model.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value") or [""]
    return str(values[0])


def _content(one: Mapping[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in one:
        yield f"<BulkData uri={quoteattr(one['BulkDataURI'])}/>"
    elif "InlineBinary" in one:
        yield f"<InlineBinary>{one['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(one.get("Value", ()), 1):
        if one["vr"] == "SQ":
            yield f'<Item number="{number}">\n{"".join(_attributes(value))}</Item>'
        elif one["vr"] == "PN":
            yield f'<PersonName number="{number}">{"".join(_groups(value or {}))}</PersonName>'
        else:
            yield f'<Value number="{number}">{escape(_possible("" if value is None else str(value)))}</Value>'


def _groups(name: Mapping[str, str]) -> Iterator[str]:
    for group in _GROUPS:
        if group in name:
            parts = zip(_COMPONENTS, name[group].split("^"), strict=False)
            content = "".join(f"<{key}>{escape(_possible(text))}</{key}>" for key, text in parts if text)
            yield f"<{group}>{content}</{group}>"


def _possible(text: str) -> str:
    return _IMPOSSIBLE.sub("�", text)


def from_xml(document: bytes) -> Json:
    """The JSON model of one document. Raises :class:`NotNative`."""
    root = _parse(document)
    if _name(root) != "NativeDicomModel":
        raise NotNative("the document is no NativeDicomModel")
    return _data_set(root, 0)


def _parse(document: bytes) -> Element:
    """The document, without any declaration of entities: what a stranger sends must not grow while it is read."""
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise NotNative("a document type declaration is not accepted")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(document, True)
        return builder.close()
    except (expat.ExpatError, ParseError, AssertionError, LookupError, ValueError) as error:
        raise error if isinstance(error, NotNative) else NotNative("the document is not well-formed XML") from error


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _data_set(parent: Element, depth: int) -> Json:
    if depth > _DEEPEST:
        raise NotNative("sequences are nested too deep")
    children = [one for one in parent if _name(one) == "DicomAttribute"]
    found: Json = {}
    blocks: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for one in children:
        tag = one.get("tag", "").upper()
        if (
            re.fullmatch(r"[0-9A-F]{4}00[1-9A-F][0-9A-F]", tag)
            and int(tag[3], 16) % 2
            and not one.get("privateCreator")
        ):
            blocks[tag[:4]]["".join(one.itertext()).strip()] = tag[6:]
    for one in children:
        tag, vr, creator = one.get("tag", "").upper(), one.get("vr", ""), one.get("privateCreator", "").strip()
        if not re.fullmatch(r"[0-9A-F]{8}", tag) or not re.fullmatch(r"[A-Z]{2}", vr):
            raise NotNative("an attribute has no tag or VR")
        if creator:
            tag = f"{tag[:4]}{_block(found, blocks[tag[:4]], tag[:4], creator)}{tag[6:]}"
        found[tag] = {"vr": vr} | _values(one, vr, depth)
    return found


def _block(found: Json, blocks: dict[str, str], group: str, creator: str) -> str:
    """The block of a private creator, taken where none is yet; ``blocks``: those of the group, by creator."""
    if creator not in blocks:
        taken = frozenset(blocks.values())
        free = next((n for n in range(_FIRST_BLOCK, 0x100) if f"{n:02X}" not in taken), None)
        if free is None:
            raise NotNative("too many private creators")
        blocks[creator] = f"{free:02X}"
        found[f"{group}00{free:02X}"] = {"vr": "LO", "Value": [creator]}
    return blocks[creator]


def _values(attribute: Element, vr: str, depth: int) -> Json:
    """What stands in the JSON model beside ``vr``."""
    kinds = {_name(child) for child in attribute}
    if "BulkData" in kinds:
        (bulk, *_) = (child for child in attribute if _name(child) == "BulkData")
        return {"BulkDataURI": bulk.get("uri") or bulk.get("uuid") or ""}
    if "InlineBinary" in kinds:
        (binary, *_) = (child for child in attribute if _name(child) == "InlineBinary")
        return {"InlineBinary": "".join((binary.text or "").split())}
    if not kinds:
        return {}
    try:
        ordered = sorted(attribute, key=lambda child: int(child.get("number", "1")))
    except ValueError as error:
        raise NotNative("the number of a value is none") from error
    match vr:
        case "SQ":
            return {"Value": [_data_set(child, depth + 1) for child in ordered if _name(child) == "Item"]}
        case "PN":
            return {"Value": [_person(child) for child in ordered if _name(child) == "PersonName"]}
        case _:
            return {"Value": [_value(child.text or "", vr) for child in ordered if _name(child) == "Value"]}


def _person(name: Element) -> dict[str, str]:
    found = {}
    for group in name:
        parts = {_name(part): part.text or "" for part in group}
        found[_name(group)] = "^".join(parts.get(key, "") for key in _COMPONENTS).rstrip("^")
    return {key: value for key, value in found.items() if key in _GROUPS and value}


def _value(text: str, vr: str) -> str | int | float | None:
    """One value; what is no number where one belongs is the text that it is, as in the JSON model."""
    with suppress(ValueError):
        if vr in _INTEGERS and text.strip():
            return int(text)
        if vr in _DECIMALS and text.strip():
            return float(text)
    return text if text else None
