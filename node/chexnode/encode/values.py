"""Reading single values out of a header that nobody can be trusted to have written well. Nothing here raises."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from pydicom import charset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DataElementSequence
from pydicom.valuerep import PersonName, format_number_as_ds

_ONE_LINE = frozenset({"LO", "SH", "PN", "UC"})
_TEXT = frozenset({"ST", "LT", "UT"})
_BINARY = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "AT", "FL", "FD", "US", "SS", "UL", "SL", "UV", "SV"})

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_DATE = re.compile(r"(\d{4})([.-]?)(\d\d)\2(\d\d)", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
_UID = re.compile(r"[0-9]+(\.[0-9]+)+", re.ASCII)
_PATTERNS = {
    "AS": re.compile(r"\d{3}[DWMY]", re.ASCII),
    "CS": re.compile(r"[A-Z0-9 _]{1,16}", re.ASCII),
    "IS": re.compile(r"[+-]?\d{1,10}", re.ASCII),
    "DT": re.compile(r"\d{4}(\d\d){0,5}(\.\d{1,6})?([+-]\d{4})?", re.ASCII),
    "UR": re.compile(r"[\x21-\x7e]+"),
}

#: Characters that the longest of the copied values may have (LT, PS3.5 table 6.2-1).
_LONGEST = 10_240

#: Sequences nested deeper than this inside an identity attribute are dropped.
_DEEPEST = 4

#: Escape sequences name their own code, so text that holds one is read with all of them, declared or not.
_CODE_EXTENSIONS = charset.convert_encodings(
    ["", *(term for term in charset.python_encoding if term.startswith("ISO 2022 IR ") and term != "ISO 2022 IR 6")]
)


def encodings(header: Dataset) -> list[str]:
    """Return the Python codecs of the header's Specific Character Set; empty where it names none that is known."""
    terms = [term.strip() for term in _split(header, "SpecificCharacterSet", [])]
    known = [term for term in terms if _corrected(term) in charset.python_encoding]
    if not any(known):
        return []
    return list(charset.convert_encodings([_corrected(term) for term in terms if term in known]))


def _corrected(term: str) -> str:
    """Undo the usual misspellings: ``ISO-IR 100``, ``ISO_IR_100``, ``iso_ir 192``, ``ISO2022 IR 87``, ``UTF-8``."""
    if term in charset.python_encoding:
        return term
    number = re.search(r"(\d+)\W*$", term)
    name = term.upper()
    if number is None:
        return term
    if "2022" in name and number[1] != "2022":
        return f"ISO 2022 IR {number[1]}"
    if name.startswith("UTF"):
        return "ISO_IR 192"
    return f"ISO_IR {number[1]}" if name.startswith("ISO") and "IR" in name else term


def clean(ds: Dataset, keyword: str, codecs: Sequence[str], depth: int = 0) -> DataElement | None:
    """Return a legal copy of one element, or None where it is absent, empty or beyond repair."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return _clean(ds, tag, codecs, depth)


def _clean(ds: Dataset, tag: int, codecs: Sequence[str], depth: int) -> DataElement | None:
    vr = dictionary_VR(tag)
    value: Any
    if vr == "SQ":
        value = _items(ds, tag, codecs, depth)
    elif vr in ("US", "SS", "UL", "SL", "US or SS"):
        value = _integer(_value(ds, tag)) if vr == "US" else None
    elif vr in _BINARY or vr == "UN":
        value = None
    else:
        split = _split(ds, tag, codecs)
        found = [_legal(text, vr) for text in split] if sum(map(len, split)) <= _LONGEST else []
        if vr == "PN" and tag not in _SEVERAL_NAMES:
            found = ["^".join(text for text in found if text)]
        value = found[0] if len(found) == 1 else found if found and None not in found else None
    if value is None or value == "" or value == []:
        return None
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


_SEVERAL_NAMES = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        "OtherPatientNames",
        "ConsultingPhysicianName",
        "PhysiciansOfRecord",
        "NameOfPhysiciansReadingStudy",
    )
)


def _items(ds: Dataset, tag: int, codecs: Sequence[str], depth: int) -> DataElementSequence | None:
    """Copy the items of a sequence, each element legal by its own; None if nothing is left."""
    items = _value(ds, tag)
    if not isinstance(items, DataElementSequence) or depth >= _DEEPEST:
        return None
    copies = []
    for item in items:
        own = encodings(item) or codecs
        copy = Dataset()
        for inner in list(item.keys()):
            if inner.is_private or inner.element == 0 or inner == 0x00080005:
                continue
            try:
                element = _clean(item, inner, own, depth + 1)
            except KeyError:  # not in the dictionary
                continue
            if element is not None:
                copy.add(element)
        if len(copy):
            copies.append(copy)
    return DataElementSequence(copies) if copies else None


def texts(ds: Dataset, keyword: str) -> list[str]:
    """Return the values of an element of the default repertoire, stripped; empty if absent or unreadable."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    found = [text.strip(" \0") for text in _split(ds, tag, [])]
    return [] if found == [""] else found


def uid(ds: Dataset, keyword: str) -> str:
    """Return a UID (PS3.5 section 9.1, leading zeros tolerated), or an empty string if there is no such."""
    found = texts(ds, keyword)
    return found[0] if len(found) == 1 and len(found[0]) <= 64 and _UID.fullmatch(found[0]) else ""


def count(ds: Dataset, keyword: str) -> int:
    """Return an unsigned 16-bit value such as Rows; 0 if absent or unreadable."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return _integer(_value(ds, tag)) or 0


def value(ds: Dataset, keyword: str) -> Any:
    """Return pydicom's own reading of an element, whatever its type; None if absent or unreadable."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return _value(ds, tag)


def integers(ds: Dataset, keyword: str) -> list[int]:
    """Return the values of a binary integer element such as LUT Descriptor; empty if absent or unreadable."""
    found = value(ds, keyword)
    found = [found] if isinstance(found, int) else found
    if not isinstance(found, MultiValue | list | tuple) or not all(isinstance(number, int) for number in found):
        return []
    return [int(number) for number in found]


def first_item(ds: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence, or None."""
    items = value(ds, keyword)
    return items[0] if isinstance(items, DataElementSequence) and len(items) else None


def first_number(ds: Dataset, keyword: str) -> float | None:
    """Return the first of several finite decimal values such as Window Center, or None."""
    found = texts(ds, keyword)
    number = numbers(ds, keyword, len(found))
    return number[0] if number else None


def numbers(ds: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    """Return exactly ``length`` finite decimal values, or None."""
    found = []
    for text in texts(ds, keyword):
        try:
            found.append(float(text))
        except ValueError:
            return None
    return tuple(found) if len(found) == length and all(map(math.isfinite, found)) else None


def spacing(ds: Dataset, keyword: str) -> tuple[float, float] | None:
    """Return two positive distances in mm (between rows, between columns), or None: ``0\\0`` and text are real."""
    found = numbers(ds, keyword, 2)
    if found is None or min(found) < 1e-6 or max(found) > 1e6:
        return None
    return found[0], found[1]


def decimals(found: Sequence[float]) -> list[str]:
    """Format numbers as Decimal Strings of at most 16 characters (PS3.5 table 6.2-1)."""
    return [format_number_as_ds(float(number)) for number in found]


def is_orthonormal(cosines: Sequence[float]) -> bool:
    """Whether six direction cosines are two perpendicular unit vectors (PS3.3 C.7.6.2.1.1), to a thousandth."""
    row, column = cosines[:3], cosines[3:]
    return (
        abs(math.hypot(*row) - 1) < 1e-3
        and abs(math.hypot(*column) - 1) < 1e-3
        and abs(sum(r * c for r, c in zip(row, column, strict=True))) < 1e-3
    )


def _value(ds: Dataset, tag: int) -> Any:
    """Return pydicom's own reading of an element, or None where there is none."""
    try:
        return ds[tag].value if tag in ds else None
    except Exception:  # pydicom's converters raise whatever the bytes provoke
        return None


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and 0 <= value <= 0xFFFF else None


def _split(ds: Dataset, tag: int | str, codecs: Sequence[str]) -> list[str]:
    """Return the values of a text element, decoded but not cleaned; empty if there is none or it is no text."""
    number = tag_for_keyword(tag) if isinstance(tag, str) else tag
    assert number is not None
    item: Any
    try:
        item = ds.get_item(number)
    except Exception:  # a deferred or damaged element
        return []
    vr = dictionary_VR(number)
    if item is None or item.VR in _BINARY:
        return []
    value = item.value
    if isinstance(item, RawDataElement) and isinstance(value, bytes):
        text = _decode(value, codecs if vr in _ONE_LINE | _TEXT else [])
        return [text] if vr in _TEXT or vr == "UR" else text.split("\\")
    if isinstance(value, str | PersonName | int | float):
        return [str(value)]
    if isinstance(value, MultiValue | list | tuple):
        return [str(each) for each in value]
    return []


def _decode(raw: bytes, codecs: Sequence[str]) -> str:
    """Decode bytes by the declared codec, else as UTF-8, else as Latin-1, which takes anything."""
    raw = raw.rstrip(b"\0 ")
    if charset.ESC in raw:
        return charset.decode_bytes(
            raw, list(codecs) + _CODE_EXTENSIONS[1:] if codecs else _CODE_EXTENSIONS, _DELIMITERS
        )
    for codec in (*codecs[:1], "utf-8"):
        try:
            # What pydicom calls the default is Latin-1, to be lenient; here ASCII, so that UTF-8 is tried next.
            return raw.decode("ascii" if codec == charset.default_encoding else codec)
        except (UnicodeError, LookupError):
            continue
    return raw.decode("latin-1")


_DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C, 0x5C, 0x5E, 0x3D}


def _legal(text: str, vr: str) -> str | None:
    """Return the value in a form that its VR allows (PS3.5 table 6.2-1), or None where there is none."""
    if vr in _ONE_LINE or vr in _TEXT:
        text = _SURROGATE.sub("\ufffd", text).rstrip(" \0")
        tidy = (_CONTROL if vr in _ONE_LINE else _CONTROL_IN_TEXT).sub(" ", text)
        return tidy if tidy == text else tidy.strip()
    text = text.strip(" \0\t\r\n")
    if vr == "DA":
        return _date(text)
    if vr == "TM":
        found = _TIME.fullmatch(text)
        return "".join(part for part in found.groups() if part) if found else None
    if vr == "DS":
        return _decimal(text)
    if vr == "UI":
        return text if len(text) <= 64 and _UID.fullmatch(text) else None
    if vr == "CS":
        text = text.upper()
    pattern = _PATTERNS.get(vr)
    return text if pattern is not None and pattern.fullmatch(text) else None


def _date(text: str) -> str | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    try:
        date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None
    return found[1] + found[3] + found[4]


def _decimal(text: str) -> str | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or "_" in text:
        return None
    return text if len(text) <= 16 else format_number_as_ds(number)
