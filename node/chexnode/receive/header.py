"""From the encoded data set as received to what the gate and the ledger need. Pure, bounded, no pixels.

Only what is asked for is decoded: the data set handed out holds raw values that pydicom converts on access.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag

from chexmodels.dicom.elements import Buffer, Element, Encoding, TooDeep, encoding_of
from chexnode.receive.scan import Scan, scan
from chexnode.settings.tree import LimitSettings
from chexnode.vocabulary.records import Attributes

#: Transfer syntaxes that deflate the whole data set (PS3.5 A.5, A.7 and the JPIP HTJ2K one).
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

#: Digits and dots only, and no more than the ledger holds: 64 is the rule, a longer one is quarantined, not lost.
_SAFE_UID = re.compile(r"[0-9.]{1,128}")

MAX_TEXT = 1024
_CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
_RAW_TEXT = 8 * MAX_TEXT
_INT32 = 2**31


class NotUnderstood(Exception):
    """Not a data set that can be stored: status 0xC000. The text is safe for logs and for Error Comment."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a data set says of itself."""

    ds: Dataset
    """Everything at the top level but pixel data and sequences that were cut off; values still raw."""
    scan: Scan
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    manufacturer: str
    study: Attributes
    series: Attributes
    instance: Attributes


def is_safe_uid(uid: str) -> bool:
    """Whether ``uid`` may go into files and rows: digits and dots, at most 128 characters."""
    return _SAFE_UID.fullmatch(uid) is not None


def read_header(data: Buffer, transfer_syntax_uid: str, limits: LimitSettings) -> Header:
    """Parse ``data``, an encoded data set (inflated already). Raises :class:`NotUnderstood`."""
    encoding = encoding_of(transfer_syntax_uid)
    try:
        found = scan(data, encoding, limits.max_elements, limits.max_nesting)
    except TooDeep as error:
        raise NotUnderstood(str(error)) from error
    text = _Text(data, found.elements)
    return Header(
        ds=_dataset(data, found, encoding),
        scan=found,
        sop_class_uid=text.uid(0x00080016),
        sop_instance_uid=text.uid(0x00080018),
        study_instance_uid=text.uid(0x0020000D),
        series_instance_uid=text.uid(0x0020000E),
        manufacturer=text.of(0x00080070) or "",
        study={name: text.of(tag) for name, tag in _STUDY.items()},
        series={name: text.of(tag) for name, tag in _SERIES.items()} | {"series_number": text.integer(0x00200011)},
        instance={name: text.of(tag) for name, tag in _INSTANCE.items()}
        | {
            "instance_number": text.integer(0x00200013),
            "rows": text.unsigned(0x00280010, encoding.little),
            "columns": text.unsigned(0x00280011, encoding.little),
            "bits_allocated": text.unsigned(0x00280100, encoding.little),
            "number_of_frames": text.integer(0x00280008),
        },
    )


def _tags(*keywords: str) -> dict[str, int]:
    """Column name (the keyword in snake case) -> tag."""
    found = {}
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        found[re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", keyword).lower()] = tag
    return found


_STUDY = _tags(
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ReferringPhysicianName",
)
_SERIES = _tags(
    "Modality",
    "SeriesDescription",
    "BodyPartExamined",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
)
_INSTANCE = _tags("ViewPosition", "PhotometricInterpretation")

#: Person names and free text are in Specific Character Set; everything else is in the default repertoire (PS3.5 6.1.2).
_CHARSET_TAGS = frozenset(
    _tags(
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "StudyID",
        "StudyDescription",
        "ReferringPhysicianName",
        "SeriesDescription",
    ).values()
)


class _Text:
    """Decoded values of top-level elements. Whatever is in them, something readable comes out."""

    def __init__(self, data: Buffer, elements: Mapping[int, Element]) -> None:
        self._data = data
        self._elements = elements

    def raw(self, tag: int) -> bytes | None:
        element = self._elements.get(tag)
        if element is None or element.undefined:
            return None
        return bytes(self._data[element.start : element.start + min(element.length, _RAW_TEXT)])

    def of(self, tag: int) -> str | None:
        """Text without control characters and outer spaces, at most 1024 characters; None if absent or empty."""
        element = self._elements.get(tag)
        if element is None or not element.length:
            return None
        raw = self.raw(tag) or b""
        if (tag in _CHARSET_TAGS and not raw.isascii()) or b"\x1b" in raw:
            names = (self.raw(0x00080005) or b"").decode("latin-1").split("\\")
            text = _decoded(raw, _encodings([name.strip() for name in names]))
        else:
            text = raw.decode("latin-1")
        return text.translate(_CONTROL).strip()[:MAX_TEXT] or None

    def uid(self, tag: int) -> str:
        """A UID without its padding; not checked."""
        return (self.raw(tag) or b"").decode("latin-1").strip("\0 ")

    def integer(self, tag: int) -> int | None:
        """An IS value that fits a column, or None."""
        try:
            value = int((self.of(tag) or "").partition("\\")[0])
        except ValueError:
            return None
        return value if -_INT32 <= value < _INT32 else None

    def unsigned(self, tag: int, little: bool) -> int | None:
        """A US value, or None."""
        raw = self.raw(tag)
        return int.from_bytes(raw[:2], "little" if little else "big") if raw and len(raw) >= 2 else None


def _encodings(names: list[str]) -> list[str]:
    """Python codecs of Specific Character Set. Unknown terms are dropped: pydicom would warn with the value."""
    known = [name for name in names if name in python_encoding]
    return convert_encodings(known) if known else [default_encoding]


def _decoded(raw: bytes, encodings: list[str]) -> str:
    delimiters = {0x0D, 0x0A, 0x09, 0x0C, 0x5E, 0x3D, 0x5C}
    try:
        return decode_bytes(raw, encodings, delimiters)
    except (LookupError, UnicodeError):
        return raw.decode("latin-1")


def _dataset(data: Buffer, found: Scan, encoding: Encoding) -> Dataset:
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for number, element in found.elements.items():
        # A large value is nothing the gate looks at, and a copy of it would be memory a stranger asked for.
        if element.length > _MAX_VALUE:
            continue
        tag = BaseTag(number)
        value = bytes(data[element.start : element.start + element.length])
        # A UN of undefined length is a sequence in Implicit VR (PS3.5 6.2.2).
        unknown = element.undefined and element.vr == "UN"
        vr = "SQ" if unknown else element.vr or None
        elements[tag] = RawDataElement(tag, vr, element.length, value, 0, encoding.implicit or unknown, encoding.little)
    return Dataset(elements)


_MAX_VALUE = 1 << 20
