"""Text of strangers, made so that it cannot disguise itself: in pages, messages and files for spreadsheets."""

from __future__ import annotations

import re

#: Controls and line ends; what is invisible; what turns the direction of writing (UAX #9); lone surrogates.
_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def plain(text: object) -> str:
    """``text`` with its control, invisible and direction characters written as escapes."""
    written = str(text)
    if written.isascii() and written.isprintable():
        return written
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", written)
