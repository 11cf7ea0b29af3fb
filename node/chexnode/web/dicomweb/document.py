"""Structured reports as text (PS3.18 table 8.7.4-1, category Text; PS3.3 section C.17.3). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pydicom.dataset import Dataset

from chexmodels.dicom.errors import DecodeError, DecodeFailure

TYPES = ("text/html", "text/plain")
"""What a report is rendered to."""
_DEEPEST = 32


def is_report(ds: Dataset) -> bool:
    """Whether there is a document's content."""
    return "ContentSequence" in ds and "ConceptNameCodeSequence" in ds


def render(ds: Dataset, media_type: str) -> bytes:
    """The document in UTF-8: title, patient, and the content tree. Raises DecodeError."""
    try:
        title = _meaning(ds, "ConceptNameCodeSequence")
        about = [str(ds.get(keyword) or "") for keyword in ("PatientName", "PatientID", "ContentDate")]
        lines = [*_lines(ds, 0)]
    except Exception as error:  # whatever a stranger's content tree makes the library raise
        raise DecodeError(DecodeFailure.UNDECODABLE, f"its content cannot be read ({type(error).__name__})") from error
    if media_type == "text/plain":
        plain = [title, " ".join(one for one in about if one), "", *("  " * depth + text for depth, text in lines)]
        return "\n".join([*plain, ""]).encode("utf-8", "replace")
    rows = "".join(f"<p>{'&emsp;' * 2 * depth}{escape(text)}</p>\n" for depth, text in lines)
    page = (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{escape(title)}</title></head><body>\n'
        f"<h1>{escape(title)}</h1>\n<p>{escape(' '.join(one for one in about if one))}</p>\n{rows}</body></html>\n"
    )
    return page.encode("utf-8", "replace")


def _lines(ds: Dataset, depth: int) -> Iterator[tuple[int, str]]:
    """(depth, text) of the content items below ``ds``."""
    for item in ds.get("ContentSequence") or []:
        name, value = _meaning(item, "ConceptNameCodeSequence"), _value(item)
        yield depth, ": ".join(one for one in (name, value) if one) or str(item.get("ValueType", ""))
        if depth < _DEEPEST:
            yield from _lines(item, depth + 1)


def _meaning(ds: Dataset, keyword: str) -> str:
    codes = ds.get(keyword) or []
    return str(codes[0].get("CodeMeaning", "")) if len(codes) else ""


def _value(item: Dataset) -> str:
    match item.get("ValueType"):
        case "CODE":
            return _meaning(item, "ConceptCodeSequence")
        case "NUM":
            measured = item.get("MeasuredValueSequence") or []
            if not len(measured):
                return ""
            return (
                f"{measured[0].get('NumericValue', '')} {_meaning(measured[0], 'MeasurementUnitsCodeSequence')}".strip()
            )
        case "TEXT":
            return str(item.get("TextValue", ""))
        case "PNAME":
            return str(item.get("PersonName", ""))
        case "DATE" | "TIME" | "DATETIME" as kind:
            keyword = {"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}[kind]
            return str(item.get(keyword, ""))
        case "UIDREF":
            return str(item.get("UID", ""))
        case "SCOORD" | "SCOORD3D":
            return f"{item.get('GraphicType', '')} of {len(item.get('GraphicData') or [])} numbers"
        case "IMAGE" | "COMPOSITE" | "WAVEFORM":
            referenced = item.get("ReferencedSOPSequence") or []
            return str(referenced[0].get("ReferencedSOPInstanceUID", "")) if len(referenced) else ""
        case _:
            return ""
