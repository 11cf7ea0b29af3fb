"""Specific Character Set (PS3.5 section 6.1), read as real senders write it: one reading for all that shows text.

A term that is missing, misspelt or contradicted by the bytes falls back to UTF-8, then to Latin-1, which takes any.
ISO 2022 escape sequences name their own code and are followed whether declared or not.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence

from pydicom import charset

_DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C, 0x5C, 0x5E, 0x3D}
#: Part of ISO 8859 -> number of the ISO_IR term (PS3.3 table C.12-2).
_ISO_8859 = {"1": "100", "2": "101", "3": "109", "4": "110", "5": "144", "6": "127", "7": "126", "8": "138", "9": "148"}
_ISO_8859 |= {"11": "166", "15": "203"}
#: Every code that an escape sequence may name.
_EXTENSIONS = charset.convert_encodings(
    ["", *(term for term in charset.python_encoding if term.startswith("ISO 2022 IR ") and term != "ISO 2022 IR 6")]
)


def python_codecs(terms: Iterable[str]) -> list[str]:
    """Return the Python codecs of the values of Specific Character Set; empty where none of them is known."""
    known = [name for name in (_corrected(term.strip(" \0")) for term in terms) if name is not None]
    named = [name for name in known if name not in charset.python_encoding]  # as Python calls it, not DICOM
    if named or not any(known):
        return named[:1]
    return list(charset.convert_encodings(known))


def _corrected(term: str) -> str | None:
    """Undo misspellings: ``ISO-IR 100``, ``iso_ir 192``, ``ISO2022 IR 87``, ``UTF-8``, ``ISO 8859-5``, ``latin1``."""
    if term in charset.python_encoding:
        return term
    name = re.sub(r"[\W_]", "", term.upper())
    number = re.search(r"\d+$", name)
    if name.startswith("ISO8859"):
        number = re.fullmatch(r"ISO8859(\d+)", name)
        return f"ISO_IR {_ISO_8859[number[1]]}" if number and number[1] in _ISO_8859 else None
    if number and name.startswith("ISO") and "IR" in name:
        found = f"ISO 2022 IR {number[0]}" if "2022" in name and number[0] != "2022" else f"ISO_IR {number[0]}"
        return found if found in charset.python_encoding else None
    try:
        found = codecs.lookup(term).name
        is_text = "A".encode(found) == b"A"  # neither base64 nor UTF-16
    except (LookupError, ValueError, TypeError):
        return None
    return {"utf-8": "ISO_IR 192", "ascii": "ISO_IR 6"}.get(found, found) if is_text else None


def decode(raw: bytes, declared: Sequence[str] = ()) -> str:
    """Decode bytes by the first ``declared`` codec, else as UTF-8, else as Latin-1. Never raises."""
    raw = raw.rstrip(b"\0 ")
    if raw.isascii() and charset.ESC not in raw and "shift_jis" not in declared[:1]:
        return raw.decode("ascii")
    if charset.ESC in raw:
        return charset.decode_bytes(raw, [*declared, *_EXTENSIONS[1:]] if declared else _EXTENSIONS, _DELIMITERS)
    for codec in (*declared[:1], "utf-8"):
        try:
            # What pydicom calls the default is Latin-1, to be lenient; here ASCII, so that UTF-8 is tried next.
            return raw.decode("ascii" if codec == charset.default_encoding else codec)
        except (UnicodeError, LookupError):
            continue
    return raw.decode("latin-1")
