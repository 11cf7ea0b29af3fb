"""Explicit VR Little Endian data sets as Implicit VR Little Endian, with every value as it is (PS3.5 annex A.1). Pure.

Only the headers of elements change: the bytes of values are copied, so that nothing is decoded, padded or corrected.
Lengths of sequences and items follow; those of undefined length stay so.
"""

from __future__ import annotations

import struct

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations with a length of 32 bits (PS3.5 table 7.1-1)."""

_UNDEFINED = 0xFFFFFFFF
_ITEM_END, _SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD


def to_implicit(data: bytes | memoryview) -> bytes:
    """Encode an uncompressed data set, without group 0002, as Implicit VR Little Endian.

    Raises ValueError for what is not Explicit VR Little Endian, or is encapsulated.
    """
    out = bytearray()
    try:
        _copy_elements(memoryview(data), 0, len(data), out)
    except struct.error as error:
        raise ValueError("the data set ends inside an element") from error
    return bytes(out)


def _copy_elements(data: memoryview, at: int, end: int, out: bytearray) -> int:
    """Copy elements to ``end``, or to the delimiter of their item, which is copied too; return where they end."""
    while at < end:
        group, element = struct.unpack_from("<HH", data, at)
        if group << 16 | element == _ITEM_END:
            out += data[at : at + 8]
            return at + 8
        vr = bytes(data[at + 4 : at + 6])
        if vr in _LONG:
            length, start = struct.unpack_from("<I", data, at + 8)[0], at + 12
        elif vr.isalpha() and vr.isupper():
            length, start = struct.unpack_from("<H", data, at + 6)[0], at + 8
        else:
            raise ValueError("the data set is not in Explicit VR Little Endian")
        out += data[at : at + 4]
        if vr == b"SQ":
            at = _copy_container(data, start, length, end, out, items=True)
        elif length == _UNDEFINED or start + length > end:
            raise ValueError("an element is encapsulated, or longer than the data set")
        else:
            out += struct.pack("<I", length) + data[start : start + length]
            at = start + length
    return at


def _copy_container(data: memoryview, start: int, length: int, end: int, out: bytearray, *, items: bool) -> int:
    """Copy the length and content of a sequence (``items``) or of an item; return where it ends."""
    undefined = length == _UNDEFINED
    content = bytearray()
    copy = _copy_items if items else _copy_elements
    after = copy(data, start, end if undefined else start + length, content)
    out += struct.pack("<I", _UNDEFINED if undefined else len(content)) + content
    return after


def _copy_items(data: memoryview, at: int, end: int, out: bytearray) -> int:
    while at < end:
        group, element, length = struct.unpack_from("<HHI", data, at)
        out += data[at : at + 4]
        if group << 16 | element == _SEQUENCE_END:
            out += data[at + 4 : at + 8]
            return at + 8
        at = _copy_container(data, at + 8, length, end, out, items=False)
    return at
