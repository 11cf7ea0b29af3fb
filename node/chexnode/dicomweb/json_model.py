"""The DICOM JSON model (PS3.18 annex F): of data sets, and of what the ledger knows by itself. Pure."""

from __future__ import annotations

import json
import math
import re
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword  # type: ignore[attr-defined]
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from chexmodels.dicom.values import codecs, mended

Json = dict[str, Any]
"""Tag (8 hexadecimal digits) -> ``{"vr": ..., "Value": [...]}``."""

PIXEL_DATA = "7FE00010"
"""Key of Pixel Data."""

#: Values longer than this become bulk data.
INLINE_BYTES = 4096
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "LT", "ST", "UC", "UR", "UT", "DS", "FD", "FL", "IS"}) | {
    "SL", "SS", "SV", "UL", "US", "UV"
}  # fmt: skip
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
#: Formats of one number, of an Attribute Tag both halves.
_NUMBERS = {"AT": "HH", "FD": "d", "FL": "f", "SL": "l", "SS": "h", "SV": "q", "UL": "L", "US": "H", "UV": "Q"}
_SIZES = {vr: struct.calcsize(f"<{numbers}") for vr, numbers in _NUMBERS.items()}
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
#: VRs whose values are ASCII, and are read here as they were sent.
_PLAIN = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"})
_CHARACTERS = _PLAIN | _TEXT
#: Text that reads the same in every character set: printable ASCII, and zeros for padding.
_PRINTABLE = re.compile(rb"[ -~]*+[\0 ]*+")
_AS_SENT = _PLAIN | (_BINARY - {"UN"})
#: VRs that have one value, in which a backslash is one (PS3.5 section 6.2).
_UNDIVIDED = frozenset({"LT", "ST", "UR", "UT"})
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

BulkUri = Callable[[str], str]
"""Path of tags and item numbers inside the instance, such as ``7FE00010`` or ``00081140/0/00420011`` -> its URI."""


_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8 (PS3.18 F.2)."""
    return _encoded(value).encode("utf-8", "replace")


def vr_of(number: int) -> str:
    """VR of the tag where the data set has none (Implicit VR); empty where it is private, or not known."""
    return "" if number >> 16 & 1 else DicomDictionary.get(number, ("",))[0]


def key_of(keyword: str) -> str:
    """The tag of a keyword as the JSON model writes it."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return f"{tag:08X}"


@cache
def _known(keyword: str) -> tuple[str, str]:
    """Tag and VR, as the JSON model writes them."""
    key = key_of(keyword)
    return key, dictionary_VR(int(key, 16))


def element(keyword: str, value: object) -> Json:
    """One element of the model. ``value``: text (``\\`` separates values), a number, a list of either, or None."""
    key, vr = _known(keyword)
    values = value.split("\\") if isinstance(value, str) else value if isinstance(value, list) else [value]
    found = [_person(one) if vr == "PN" else one for one in values if one not in (None, "")]
    return {key: {"vr": vr, "Value": found} if found else {"vr": vr}}


def sequence(keyword: str, items: Iterable[Json]) -> Json:
    """One sequence of the model."""
    found = list(items)
    return {key_of(keyword): {"vr": "SQ", "Value": found} if found else {"vr": "SQ"}}


def model_of(ds: Dataset, bulk_uri: BulkUri, prefix: str = "", inherited: Sequence[str] = ()) -> Json:
    """The JSON model of ``ds`` without group 0002; long binary values become BulkDataURI.

    ``inherited``: Python codecs of what holds this item; text is read as :mod:`chexmodels.dicom.charset` says.
    What is no number where one belongs (a decimal comma, say) is given as the text that it is (F.2.3), an empty value
    among others as null, and an element without any value has no Value (F.2.5).
    """
    model: Json = {}
    declared = codecs(ds) or inherited
    # As plain numbers: pydicom's class of tags compares in Python, and there are a hundred of them.
    for number, raw in sorted(((int(tag), raw) for tag, raw in ds.items()), key=itemgetter(0)):
        if number >> 16 == 0x0002 or not number & 0xFFFF:  # group lengths are retired (PS3.5 section 7.2)
            continue
        key = f"{number:08X}"
        model[key] = _of_element(ds, number, raw, bulk_uri, prefix + key, declared)
    return model


def _of_element(
    ds: Dataset, tag: int, raw: DataElement | RawDataElement, bulk_uri: BulkUri, path: str, declared: Sequence[str]
) -> Json:
    value: Any = raw.value
    vr = raw.VR or vr_of(tag)  # of private elements in Implicit VR the library knows some
    is_encoded = isinstance(raw, RawDataElement) and isinstance(value, bytes)
    if isinstance(raw, RawDataElement) and is_encoded:
        plain = model_of_plain(tag, vr, value, bulk_uri, path, is_little=raw.is_little_endian)
        if plain is not None:
            return plain
    if (text := mended(ds, tag, declared)) is not None:
        if text[0] in _BULK and sum(map(_size, text[1])) > INLINE_BYTES:
            return {"vr": text[0], "BulkDataURI": bulk_uri(path)}
        return {"vr": text[0], "Value": [_value(text[0], each) for each in text[1]]} if text[1] else {"vr": text[0]}
    elif not (is_encoded and vr in _AS_SENT):
        try:
            converted = ds[tag]
            vr, value = converted.VR, converted.value
        except Exception:  # a value that the library cannot even hold
            vr = vr if len(vr) == 2 else "UN"
    vr = vr if len(vr) == 2 else "OW"  # "OB or OW" where the data set was implicit
    if vr == "SQ":
        items = value if isinstance(value, Iterable) and not isinstance(value, bytes) else []
        models = [model_of(item, bulk_uri, f"{path}/{number}/", declared) for number, item in enumerate(items)]
        return {"vr": "SQ", "Value": models} if models else {"vr": "SQ"}
    if tag in _PIXELS or (vr in _BULK and _size(value) > INLINE_BYTES):
        return {"vr": vr, "BulkDataURI": bulk_uri(path)}
    if vr in _BINARY:
        if isinstance(value, bytes) and value:
            return {"vr": vr, "InlineBinary": b64encode(value).decode("ascii")}
        return {"vr": vr}
    if vr in _NUMBERS and isinstance(value, bytes):  # of a length that is none of its VR
        return {"vr": vr}
    return _of_values(vr, _values(vr, value))


def model_of_plain(
    tag: int, vr: str, encoded: bytes, bulk_uri: BulkUri, path: str, *, is_little: bool = True
) -> Json | None:
    """The model of one element that means the same in every data set: numbers, and text of printable ASCII.

    None for every other element.
    """
    found: Sequence[object]
    if tag in _PIXELS:
        return None
    if vr in _NUMBERS:
        found = _unpacked(vr, encoded, is_little) if len(encoded) <= INLINE_BYTES else []
        is_bulk = len(encoded) > INLINE_BYTES or (vr in _BULK and _size(found) > INLINE_BYTES)
    elif vr in _CHARACTERS and _PRINTABLE.fullmatch(encoded):
        is_bulk = vr in _BULK and len(encoded) > INLINE_BYTES
        found = _values(vr, encoded) if not is_bulk else []
    else:
        return None
    return {"vr": vr, "BulkDataURI": bulk_uri(path)} if is_bulk else _of_values(vr, found)


def pixel_data(bulk_uri: BulkUri, *, is_implicit: bool, is_of_bytes: bool) -> Json:
    """Pixel Data in the model. ``is_of_bytes``: whether Bits Allocated is 8."""
    vr = "OB" if is_of_bytes and not is_implicit else "OW"
    return {PIXEL_DATA: {"vr": vr, "BulkDataURI": bulk_uri(PIXEL_DATA)}}


def _of_values(vr: str, found: Sequence[object]) -> Json:
    values = [_value(vr, each) for each in found]
    return {"vr": vr, "Value": values} if values and values != [None] else {"vr": vr}


def _unpacked(vr: str, value: bytes, is_little: bool) -> list[Any]:
    """The numbers of a value; none where its length is not that of its VR."""
    if len(value) % _SIZES[vr]:
        return []
    order, count = "<" if is_little else ">", len(value) // _SIZES[vr]
    numbers = struct.unpack(f"{order}{_NUMBERS[vr] * count}", value)
    return [a << 16 | b for a, b in zip(numbers[::2], numbers[1::2], strict=True)] if vr == "AT" else list(numbers)


def _values(vr: str, value: object) -> Sequence[object]:
    """The values of an element, which are not yet those of the model; none where its length is 0."""
    if isinstance(value, bytes):
        value = value.decode("latin-1").rstrip("\0 ")
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value] if vr in _UNDIVIDED else value.split("\\")
    return list(value) if isinstance(value, Sequence) else [value]


def _value(vr: str, value: object) -> object:
    """One value as PS3.18 table F.2.3-1 has it; None where it is empty."""
    if vr == "PN":
        return _person(value) or None
    if vr == "AT" and isinstance(value, int):
        return f"{value:08X}"
    if isinstance(value, float) and vr in ("FD", "FL"):
        # JSON has no numbers for these three, so they are text.
        return (
            value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        )
    if isinstance(value, int) and vr not in ("DS", "IS"):
        return value
    text = str(value) if vr in _UNDIVIDED else str(value).strip("\0 ")
    if vr == "IS" and re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if vr == "DS" and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) and math.isfinite(float(text)):
        return int(text) if re.fullmatch(r"[+-]?\d{1,15}", text) else float(text)
    return text or None


def _size(value: object) -> int:
    """Bytes, nearly."""
    if isinstance(value, bytes | str):
        return len(value)
    return 8 * len(value) if isinstance(value, Sequence) else 0


def _person(name: object) -> dict[str, str]:
    groups = str(name).split("=")
    names = ("Alphabetic", "Ideographic", "Phonetic")
    return {key: group for key, group in zip(names, groups, strict=False) if group}
