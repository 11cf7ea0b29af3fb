"""The DICOM JSON model (PS3.18 annex F): of data sets, and of what the ledger knows by itself. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from chexmodels.dicom.values import codecs, mended

Json = dict[str, Any]
"""Tag (8 hexadecimal digits) -> ``{"vr": ..., "Value": [...]}``."""

#: Values longer than this become bulk data.
INLINE_BYTES = 4096
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "LT", "ST", "UC", "UR", "UT", "DS", "FD", "FL", "IS"}) | {
    "SL", "SS", "SV", "UL", "US", "UV"
}  # fmt: skip
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

BulkUri = Callable[[str], str]
"""Path of tags and item numbers inside the instance, such as ``7FE00010`` or ``00081140/0/00420011`` -> its URI."""


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

    ``inherited``: Python codecs of what holds this item. Text is read as everywhere, by
    :mod:`chexmodels.dicom.charset`. What pydicom cannot convert (a DS that is no number, say) is given as text, for
    nothing may be lost on the way.
    """
    found: Json = {}
    declared = codecs(ds) or inherited
    for tag in sorted(ds.keys()):
        if tag.group == 0x0002 or tag.element == 0x0000:  # group lengths are retired (PS3.5 section 7.2)
            continue
        found[f"{tag:08X}"] = _of_element(ds, tag, bulk_uri, f"{prefix}{tag:08X}", declared)
    return found


def _of_element(ds: Dataset, tag: BaseTag, bulk_uri: BulkUri, path: str, declared: Sequence[str]) -> Json:
    text = mended(ds, tag, declared)
    if text is not None:
        vr, values = text
        return {"vr": vr, "Value": [_person(each) if vr == "PN" else each for each in values]}
    try:
        one = ds[tag]
    except Exception:  # a value that the library cannot even hold
        return _raw(ds.get_item(tag))
    if one.VR == "SQ":
        items = [model_of(item, bulk_uri, f"{path}/{number}/", declared) for number, item in enumerate(one.value or [])]
        return {"vr": "SQ", "Value": items}  # of none, pydicom says []
    if tag in _PIXELS or (one.VR in _BULK and _size(one) > INLINE_BYTES):
        return {"vr": _vr(one), "BulkDataURI": bulk_uri(path)}
    try:
        return _finite(one.to_json_dict(None, INLINE_BYTES))
    except Exception:
        return _raw(one)


def _vr(one: DataElement) -> str:
    return one.VR if len(one.VR) == 2 else "OW"  # "OB or OW" where the data set was implicit


def _size(one: DataElement) -> int:
    value = one.value
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, Iterable):
        return 8 * one.VM
    return 0


def _raw(one: Any) -> Json:
    """As text, whatever it is."""
    vr = str(getattr(one, "VR", None) or "UN")
    value = getattr(one, "value", None)
    if isinstance(value, bytes):
        value = value.decode("latin-1").strip("\0 ")
    if vr in ("UN", "OB", "OW", "OD", "OF", "OL", "OV", "SQ"):
        return {"vr": vr}
    values = value if isinstance(value, list | tuple) else str(value).split("\\")
    return {"vr": vr, "Value": [str(one) for one in values if one not in (None, "")]}


def _finite(converted: Mapping[str, Any]) -> Json:
    """PS3.18 F.2.3: JSON has no numbers for these three, so they are text."""
    values = converted.get("Value")
    if converted["vr"] in ("FD", "FL", "DS") and values:
        names = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return {
            **converted,
            "Value": [names.get(v, "NaN") if isinstance(v, float) and not math.isfinite(v) else v for v in values],
        }
    return dict(converted)


def _person(name: object) -> dict[str, str]:
    groups = str(name).split("=")
    names = ("Alphabetic", "Ideographic", "Phonetic")
    return {key: group for key, group in zip(names, groups, strict=False) if group}
