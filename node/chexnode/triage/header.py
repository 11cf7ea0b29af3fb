"""A header as the gate reads it: the tolerant values of :mod:`chexmodels.dicom.values`, and what they say together."""

from __future__ import annotations

import re
from functools import cached_property

from pydicom.dataset import Dataset

from chexmodels.dicom import values

_LONGEST_TEXT = 1024
_AGE = re.compile(r"(\d{1,3})\s*([DWMY]?)")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}
_OLDEST = 130


class Header:
    """Access to the elements of ``ds`` by tag; text comes stripped and in upper case, absent elements as ``""``."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._texts: dict[int, str] = {}

    @cached_property
    def _codecs(self) -> list[str]:
        return values.codecs(self._ds)

    def __contains__(self, tag: int) -> bool:
        return values.element(self._ds, tag) is not None

    def text(self, tag: int) -> str:
        """Value of a text element; several values stay joined by backslashes."""
        found = self._texts.get(tag)
        if found is None:  # the rules ask for the same ones again and again
            found = self._texts[tag] = "\\".join(self.values(tag))[:_LONGEST_TEXT]
        return found

    def values(self, tag: int) -> list[str]:
        """The values of a multi-valued text element, each stripped."""
        texts = values.strings(self._ds, tag, self._codecs) or [""]
        return [text.strip(" \0\t\r\n").upper() for text in texts]

    def unsigned(self, tag: int) -> int | None:
        """Value of an US element; None where it is absent or not one 16-bit number."""
        return values.unsigned(self._ds, tag)

    def integer(self, tag: int) -> int | None:
        """Value of an IS element; None where it is absent or no integer."""
        return values.integer(self._ds, tag)

    def items(self, tag: int) -> list[Header]:
        """The first items of a sequence."""
        return [Header(item) for item in values.items(self._ds, tag)]

    def codes(self, tag: int) -> list[tuple[str, str]]:
        """(Code Value, Code Meaning) of the items of a code sequence."""
        return [(item.text(0x00080100), item.text(0x00080104)) for item in self.items(tag)]

    def is_lossy(self, transfer_syntax_uid: str) -> bool:
        """Whether the image went through lossy compression."""
        return values.is_lossy(self._ds, transfer_syntax_uid)

    @cached_property
    def age(self) -> float | None:
        """Years, from Patient's Age, else from Patient's Birth Date and the study's date; None where unknown."""
        match = _AGE.fullmatch(self.text(0x00101010))
        stated = int(match[1]) * _YEARS[match[2]] if match else None
        if stated:
            return stated if stated <= _OLDEST else None
        born = values.date(self._ds, 0x00100030)  # 000Y is also what is written when nobody entered an age
        dates = (values.date(self._ds, tag) for tag in (0x00080020, 0x00080022, 0x00080021, 0x00080023))
        taken = next(filter(None, dates), None)
        if born is None or taken is None or not 0 <= (taken - born).days <= _OLDEST * 365.25:
            return stated
        return (taken - born).days / 365.25

    def spacing_is_known(self) -> bool:
        """Whether Imager Pixel Spacing or Pixel Spacing holds two positive numbers."""
        return any(values.spacing(self._ds, tag) for tag in (0x00181164, 0x00280030))
