"""Single values of a header that nobody can be trusted to have written well, read one way by everything that asks.

Values come from a parsed data set whose elements may still be raw. A key is a keyword of PS3.6 or a tag. Nothing here
raises, whatever the data set holds. What is read tolerantly is also what results, search and tables say:

* text is decoded as :mod:`chexmodels.dicom.charset` says, each run of control characters inside a one-line value
  becomes one space, at its ends it is padding and goes;
* ``2026-01-02``, ``2026.01.02`` and ``10:15:00`` lose their separators; other impossible dates and times are none;
* code strings are in upper case; several values stay several, but in a person's name a backslash is read as ``^``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date as Date
from functools import lru_cache
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DataElementSequence
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName, format_number_as_ds

from chexmodels.dicom import charset
from chexmodels.dicom.transfer_syntaxes import LOSSY, PERHAPS_LOSSY

Key = str | int

_ONE_LINE = frozenset({"LO", "SH", "PN", "UC"})
_TEXT = frozenset({"ST", "LT", "UT"})
_BINARY = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "AT", "FL", "FD", "US", "SS", "UL", "SL", "UV", "SV"})

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]+")
_UNUSUAL = re.compile(rb"[^\x20-\x7e]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_DATE = re.compile(r"(\d{4})([.\-/]?)(\d\d)\2(\d\d)", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
_UID = re.compile(r"[0-9]+(\.[0-9]+)+", re.ASCII)
_PATTERNS = {
    "AS": re.compile(r"\d{3}[DWMY]", re.ASCII),
    "CS": re.compile(r"[A-Z0-9 _]{1,16}", re.ASCII),
    "IS": re.compile(r"[+-]?\d{1,10}", re.ASCII),
    "DT": re.compile(r"\d{4}(\d\d){0,5}(\.\d{1,6})?([+-]\d{4})?", re.ASCII),
    "UR": re.compile(r"[\x21-\x7e]+"),
}
#: Stricter than their VR is.
_ALLOWED = {
    0x00100040: re.compile(r"[MFO]"),  # Patient's Sex
    0x00280301: re.compile(r"YES|NO"),  # Burned In Annotation
    0x00080201: re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII),  # Timezone Offset From UTC
}

#: Characters that the longest of the copied values may have (LT, PS3.5 table 6.2-1).
_LONGEST = 10_240
#: Sequences nested deeper than this inside an attribute that is copied are dropped.
_DEEPEST = 4
#: Items of a sequence that are looked at.
_MOST_ITEMS = 16
#: Names with several values: Other Patient Names, Consulting Physician, Physicians of Record, and Reading Study.
_SEVERAL_NAMES = frozenset({0x00101001, 0x0008009C, 0x00081048, 0x00081060})


@lru_cache(maxsize=4096)
def base_tag(tag: int) -> BaseTag:
    """Return ``tag`` as pydicom's data sets have it, mostly the same object each time.

    Two objects would be compared by a function in Python at every look into a data set, and the gate looks fifty times.
    """
    return BaseTag(tag)


@lru_cache(maxsize=4096)
def _base_tag(key: Key) -> BaseTag:
    return base_tag(_tag(key))


@lru_cache(maxsize=4096)
def _tag(key: Key) -> int:
    tag = tag_for_keyword(key) if isinstance(key, str) else key
    assert tag is not None, key
    return tag


def element(ds: Dataset, key: Key) -> DataElement | RawDataElement | None:
    """Return an element as it is held, raw or converted; None where it is absent or damaged."""
    try:
        # The table itself: a lookup by pydicom's tag class costs five times as much, and the gate makes forty.
        return ds._dict.get(_base_tag(key))
    except Exception:  # no data set
        return None


def value(ds: Dataset, key: Key) -> Any:
    """Return pydicom's own reading of an element, whatever its type; None where it is absent or unreadable."""
    try:
        return ds[_tag(key)].value if element(ds, key) is not None else None
    except Exception:  # pydicom's converters raise whatever the bytes provoke
        return None


def codecs(ds: Dataset) -> list[str]:
    """Return the Python codecs of Specific Character Set; empty where it names none that is known."""
    return charset.python_codecs(strings(ds, 0x00080005))


def strings(ds: Dataset, key: Key, declared: Sequence[str] = ()) -> list[str]:
    """Return the values of a text element, decoded but not cleaned; empty where there is none or it is no text.

    ``declared``: what :func:`codecs` says of the data set; only needed of VRs that it applies to.
    """
    item = element(ds, key)
    if item is None or item.VR in _BINARY:
        return []
    found: Any = item.value
    if isinstance(found, bytes):
        vr = _vr(_tag(key))
        text = charset.decode(found, declared if vr in _ONE_LINE or vr in _TEXT or vr == "UN" else ())
        return [text] if vr in _TEXT or vr == "UR" else text.split("\\")
    if isinstance(found, str | PersonName | int | float):
        return [str(found)]
    if isinstance(found, MultiValue | list | tuple):
        return [str(each) for each in found]
    return []


@lru_cache(maxsize=4096)  # a stranger's header may name any tag
def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def texts(ds: Dataset, key: Key) -> list[str]:
    """Return the values of an element of the default repertoire, stripped; empty where absent or unreadable."""
    found = [text.strip(" \0\t\r\n") for text in strings(ds, key)]
    return [] if found == [""] else found


def upper(ds: Dataset, key: Key) -> str:
    """Return the values in upper case, still joined by backslashes; empty where there are none."""
    return "\\".join(texts(ds, key)).upper()[:1024]


def uid(ds: Dataset, key: Key) -> str:
    """Return a UID (PS3.5 section 9.1, leading zeros tolerated), or an empty string where there is no such."""
    found = texts(ds, key)
    return found[0] if len(found) == 1 and len(found[0]) <= 64 and _UID.fullmatch(found[0]) else ""


def unsigned(ds: Dataset, key: Key) -> int | None:
    """Return one unsigned 16-bit value such as Rows; None where absent or unreadable."""
    item = element(ds, key)
    if isinstance(item, RawDataElement) and isinstance(item.value, bytes) and item.VR in ("US", None):
        return int.from_bytes(item.value, "little" if item.is_little_endian else "big") if item.length == 2 else None
    found = value(ds, key)
    return int(found) if isinstance(found, int) and 0 <= found <= 0xFFFF else None


def integer(ds: Dataset, key: Key) -> int | None:
    """Return the first of several values of an IS element; None where it is absent or no integer of 32 bits."""
    found = texts(ds, key)
    try:
        number = int(found[0]) if found else None
    except ValueError:
        return None
    return number if number is not None and -(2**31) <= number < 2**31 else None


def integers(ds: Dataset, key: Key) -> list[int]:
    """Return the values of a binary integer element such as LUT Descriptor; empty where absent or unreadable."""
    found = value(ds, key)
    found = [found] if isinstance(found, int) else found
    if not isinstance(found, MultiValue | list | tuple) or not all(isinstance(number, int) for number in found):
        return []
    return [int(number) for number in found]


def numbers(ds: Dataset, key: Key, length: int | None = None) -> tuple[float, ...] | None:
    """Return finite numbers, exactly ``length`` where given, or None."""
    found = []
    for text in texts(ds, key) or map(str, integers(ds, key)):
        try:
            found.append(float(text))
        except ValueError:
            return None
    return tuple(found) if found and length in (None, len(found)) and all(map(math.isfinite, found)) else None


def spacing(ds: Dataset, key: Key) -> tuple[float, float] | None:
    """Return two positive distances in mm (between rows, between columns), or None: ``0\\0`` and text are real."""
    found = numbers(ds, key, 2)
    if found is None or min(found) < 1e-6 or max(found) > 1e6:
        return None
    return found[0], found[1]


def date(ds: Dataset, key: Key) -> Date | None:
    """Return a date, with or without separators; None where it is absent or impossible."""
    found = texts(ds, key)
    text = _date(found[0]) if found else None
    return Date(int(text[:4]), int(text[4:6]), int(text[6:])) if text else None


def items(ds: Dataset, key: Key) -> list[Dataset]:
    """Return the first items of a sequence."""
    found = value(ds, key)
    return list(found[:_MOST_ITEMS]) if isinstance(found, DataElementSequence) else []


def is_lossy(ds: Dataset, transfer_syntax_uid: str) -> bool:
    """Whether the image went through lossy compression: once lossy, always lossy (PS3.3 C.7.6.1.1.5).

    The codestream may say so where the header forgets to; JPEG 2000 only where the header does not deny it.
    """
    said = upper(ds, 0x00282110)
    return said == "01" or transfer_syntax_uid in LOSSY or (transfer_syntax_uid in PERHAPS_LOSSY and said != "00")


def text(ds: Dataset, key: Key, declared: Sequence[str], longest: int) -> str | None:
    """Return one line of text for tables and search: the legal form of an attribute, several values joined by ``\\``.

    Code strings that are not legal are shown as they are. At most ``longest`` characters; None where there are none.
    """
    if element(ds, key) is None:
        return None
    tag = _tag(key)
    vr = _vr(tag)
    found = _legal_value(ds, tag, declared)
    if found is not None:
        values = [found] if isinstance(found, str) else found
    elif vr in ("CS", "LO", "SH", "PN") and tag not in _ALLOWED:
        values = [each.upper() if vr == "CS" else each for each in strings(ds, tag, declared)]
    else:
        return None
    return _CONTROL.sub(" ", _SURROGATE.sub("\ufffd", "\\".join(map(str, values)))).strip()[:longest].strip() or None


def mended(ds: Dataset, key: Key, declared: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return VR and values of a short text element that pydicom might read otherwise: one not of printable ASCII only.

    None for every other element.
    """
    item = element(ds, key)
    raw = item.value if item is not None else None
    if not isinstance(raw, bytes) or len(raw) > _LONGEST or not _UNUSUAL.search(raw.rstrip(b"\0 ")):
        return None
    vr = item.VR if item is not None and item.VR not in (None, "UN") else _vr(_tag(key))
    if vr not in _ONE_LINE and vr not in _TEXT:
        return None
    text = charset.decode(raw, declared)
    legal = [_legal(each, vr) or "" for each in ([text] if vr in _TEXT else text.split("\\"))]
    return vr, [each for each in legal if each]


def clean(ds: Dataset, key: Key, declared: Sequence[str], depth: int = 0) -> DataElement | None:
    """Return a legal copy of one element, or None where it is absent, empty or beyond repair."""
    tag = _tag(key)
    found = _legal_value(ds, tag, declared, depth)
    return None if found is None else DataElement(tag, _vr(tag), found, validation_mode=config.IGNORE)


def _legal_value(ds: Dataset, tag: int, declared: Sequence[str], depth: int = 0) -> Any:
    """One legal value, or a list of several; None where :func:`clean` returns none."""
    vr = _vr(tag)
    found: Any = None
    if vr == "SQ":
        found = _clean_items(ds, tag, declared, depth)
    elif vr == "US":
        found = unsigned(ds, tag)
    elif vr not in _BINARY and vr not in ("UN", "US or SS"):
        split = strings(ds, tag, declared)
        legal = [_legal(each, vr) for each in split] if sum(map(len, split)) <= _LONGEST else []
        if vr == "PN" and tag not in _SEVERAL_NAMES:
            legal = ["^".join(each for each in legal if each)]
        found = legal[0] if len(legal) == 1 else legal if legal and None not in legal else None
    allowed = _ALLOWED.get(tag)
    if found is None or found == "" or found == [] or (allowed and not allowed.fullmatch(str(found))):
        return None
    return found


def _clean_items(ds: Dataset, tag: int, declared: Sequence[str], depth: int) -> DataElementSequence | None:
    """Copy the items of a sequence, each element legal by its own; None if nothing is left."""
    found = value(ds, tag)
    if not isinstance(found, DataElementSequence) or depth >= _DEEPEST:
        return None
    copies = []
    for item in found:
        own = codecs(item) or declared
        copy = Dataset()
        for inner in list(item.keys()):
            if inner.is_private or inner.element == 0 or inner == 0x00080005:
                continue
            legal = clean(item, int(inner), own, depth + 1)
            if legal is not None:
                copy.add(legal)
        if len(copy):
            copies.append(copy)
    return DataElementSequence(copies) if copies else None


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
    try:
        if found is None or found[1] < "1000" or not Date(int(found[1]), int(found[3]), int(found[4])):
            return None
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
