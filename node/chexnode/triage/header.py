"""A header as the gate reads it: element by element, tolerant of padding, case and nonsense, never raising."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from functools import cached_property

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

_LONGEST_TEXT = 1024
_MOST_ITEMS = 16
_AGE = re.compile(r"(\d{1,3})\s*([DWMY]?)")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}
_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
_OLDEST = 130


class Header:
    """Robust access to the elements of ``ds``; text comes stripped and in upper case, absent elements as ``""``."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        # Under plain numbers: a lookup by pydicom's tag class costs five times as much, and there are forty.
        self._elements: dict[int, DataElement | RawDataElement] = {int(tag): element for tag, element in ds.items()}

    def _element(self, tag: int) -> DataElement | RawDataElement | None:
        element = self._elements.get(tag)
        return element if element is not None and element.value is not None else None

    def __contains__(self, tag: int) -> bool:
        return self._element(tag) is not None

    def text(self, tag: int) -> str:
        """Value of a text element; several values stay joined by backslashes."""
        element = self._element(tag)
        if element is None:
            return ""
        value: object = element.value
        if isinstance(value, bytes):  # not converted: the gate touches few elements, and conversion is what is slow
            head = value[:_LONGEST_TEXT]
            try:
                value = head.decode("utf-8")
            except UnicodeDecodeError:
                value = head.decode("latin-1")
        elif not isinstance(value, str):
            try:
                value = "\\".join(map(str, value)) if isinstance(value, Iterable) else str(value)
            except Exception:
                return ""
        return value[:_LONGEST_TEXT].strip(" \0\t\r\n").upper()

    def values(self, tag: int) -> list[str]:
        """The values of a multi-valued text element, each stripped."""
        return [value.strip(" \0") for value in self.text(tag).split("\\")]

    def unsigned(self, tag: int) -> int | None:
        """Value of an US element; None where it is absent or not one 16-bit number."""
        element = self._element(tag)
        if element is None:
            return None
        value = element.value
        if isinstance(value, bytes) and isinstance(element, RawDataElement):
            return int.from_bytes(value, "little" if element.is_little_endian else "big") if len(value) == 2 else None
        return value if isinstance(value, int) and 0 <= value <= 0xFFFF else None

    def integer(self, tag: int) -> int | None:
        """Value of an IS element; None where it is absent or no integer."""
        try:
            return int(self.text(tag))
        except ValueError:
            return None

    def items(self, tag: int) -> list[Header]:
        """The first items of a sequence."""
        if tag not in self:
            return []
        try:
            items = self._ds[BaseTag(tag)].value
            return [Header(item) for item in items[:_MOST_ITEMS] if isinstance(item, Dataset)]
        except Exception:  # parsing an unparsed sequence raises any class
            return []

    def codes(self, tag: int) -> list[tuple[str, str]]:
        """(Code Value, Code Meaning) of the items of a code sequence."""
        return [(item.text(0x00080100), item.text(0x00080104)) for item in self.items(tag)]

    @cached_property
    def age(self) -> float | None:
        """Years, from Patient's Age, else from Patient's Birth Date and the study's date; None where unknown."""
        match = _AGE.fullmatch(self.text(0x00101010))
        stated = int(match[1]) * _YEARS[match[2]] if match else None
        if stated:
            return stated if stated <= _OLDEST else None
        born = self._date(0x00100030)  # 000Y is also what is written when nobody entered an age
        taken = next(filter(None, map(self._date, (0x00080020, 0x00080022, 0x00080021, 0x00080023))), None)
        if born is None or taken is None or not 0 <= (taken - born).days <= _OLDEST * 365.25:
            return stated
        return (taken - born).days / 365.25

    def _date(self, tag: int) -> date | None:
        match = _DATE.fullmatch(self.text(tag))
        try:
            return date(int(match[1]), int(match[2]), int(match[3])) if match else None
        except ValueError:
            return None

    def spacing_is_known(self) -> bool:
        """Whether Imager Pixel Spacing or Pixel Spacing holds two positive numbers."""
        return any(_are_positive(self.values(tag)) for tag in (0x00181164, 0x00280030))


def _are_positive(values: list[str]) -> bool:
    try:
        return len(values) == 2 and all(0 < float(value) < 1e6 for value in values)
    except ValueError:
        return False
