"""Models written one after the other are those that each file has by itself, whatever stood in the one before."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from chexmodels.dicom import passages
from chexmodels.dicom.elements import Walk
from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.file_meta import prefix
from chexmodels.dicom.part10 import ReadLimits, read
from chexnode.dicomweb.json_model import model_of, pixel_data, to_json
from chexnode.dicomweb.json_text import ModelTexts

EXPLICIT, IMPLICIT, JPEG = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), "1.2.840.10008.1.2.4.70"
LIMITS = ReadLimits()


def uri(path: str) -> str:
    return f"urn:x/{path}"


def by_itself(file: bytes) -> bytes:
    """The model as the data set makes it."""
    part10 = read(file, LIMITS)
    model = model_of(part10.whole_header(), uri)
    if part10.pixel_data is not None:
        is_of_bytes = model.get("00280100", {}).get("Value") == [8]
        model |= pixel_data(uri, is_implicit=part10.encoding.implicit, is_of_bytes=is_of_bytes)
    return to_json(model)


def file_of(data: bytes, transfer_syntax_uid: str = EXPLICIT) -> bytes:
    return prefix([(0x0002, "UI", "1.2.3"), (0x0010, "UI", transfer_syntax_uid)]) + data


def explicit(tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in ("OB", "OW", "SQ", "UN", "UT"):
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def item(value: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


#: Tag -> what may stand there in Explicit VR.
CHOICES: dict[int, list[bytes]] = {
    0x00080000: [b"", explicit(0x00080000, "UL", b"\1\0\0\0")],
    0x00080005: [b"", *(explicit(0x00080005, "CS", one) for one in (b"ISO_IR 100", b"ISO_IR 192", b"ISO_IR 144"))],
    0x00080018: [explicit(0x00080018, "UI", b"1.2.%d\0" % one) for one in (3, 4, 5)],
    0x00081140: [
        b"",
        explicit(0x00081140, "SQ", item(explicit(0x00100010, "PN", "Ä".encode()))),
        explicit(0x00081140, "SQ", item(explicit(0x00100010, "PN", b"A^B ")) * 2),
    ],
    0x00100010: [b"", explicit(0x00100010, "PN", b"\xc4\xd6"), explicit(0x00100010, "PN", b"A^B ")],
    0x00110010: [b"", explicit(0x00110010, "LO", b"SPI-P Release 1 "), explicit(0x00110010, "LO", b"GEMS_ACQU_01")],
    0x00111010: [b"", explicit(0x00111010, "UN", b"12"), explicit(0x00111010, "UN", b"\1\0\0\0")],
    0x00200013: [b"", *(explicit(0x00200013, "IS", one) for one in (b"1 ", b"17", b"x "))],
    0x00204000: [b"", explicit(0x00204000, "LT", b"a" * 5000), explicit(0x00204000, "LT", b"a\\b ")],
    0x00280100: [explicit(0x00280100, "US", b"\x10\0"), explicit(0x00280100, "US", b"\x08\0")],
    0x00280103: [b"", explicit(0x00280103, "US", b"\0\0"), explicit(0x00280103, "US", b"\1\0")],
    0x00281201: [b"", explicit(0x00281201, "OW", b"\1\2" * 9), explicit(0x00281201, "OW", b"\1\2" * 4000)],
    0x7FE00010: [b"", explicit(0x7FE00010, "OW", bytes(8)), explicit(0x7FE00010, "OB", bytes(6))],
}  # fmt: skip
#: What depends on Pixel Representation, on private creators and on the character set, in Implicit VR.
IMPLICIT_CHOICES: dict[int, list[bytes]] = {
    0x00080005: [b"", implicit(0x00080005, b"ISO_IR 100"), implicit(0x00080005, b"ISO_IR 192")],
    0x00081140: [b"", implicit(0x00081140, item(implicit(0x00280106, b"\xff\xff")))],
    0x00100010: [implicit(0x00100010, b"\xc3\x84"), implicit(0x00100010, b"A^B ")],
    0x00190010: [b"", implicit(0x00190010, b"GEMS_ACQU_01"), implicit(0x00190010, b"SIEMENS CT VA0  COAD")],
    0x00191002: [b"", implicit(0x00191002, b"12"), implicit(0x00191002, b"\1\0\0\0")],
    0x00280103: [b"", implicit(0x00280103, b"\0\0"), implicit(0x00280103, b"\1\0")],
    0x00280106: [b"", implicit(0x00280106, b"\xff\xff")],
    0x00280120: [b"", implicit(0x00280120, b"\xff\xff")],
    0x00283002: [b"", implicit(0x00283002, b"\1\0\0\0\1\0"), implicit(0x00283002, b"\2\0\0\0\1\0")],
    0x00283006: [b"", implicit(0x00283006, b"\1\0")],
    0x54001004: [b"", implicit(0x54001004, b"\x08\0"), implicit(0x54001004, b"\x10\0")],
    0x54001010: [b"", implicit(0x54001010, b"\1\2")],
    0x7FE00010: [b"", implicit(0x7FE00010, bytes(8))],
}


def nested(inner: bytes, is_delimited: bool, is_item_delimited: bool) -> bytes:
    """A sequence of two items that hold ``inner``."""
    one = item(inner)
    if is_item_delimited:
        one = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    if is_delimited:
        head = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
        return head + one * 2 + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return explicit(0x00081140, "SQ", one * 2)


INNER = [
    explicit(0x00080018, "UI", b"1.2.3\0") + explicit(0x00200013, "IS", b"1\\2 "),
    explicit(0x00080005, "CS", b"ISO_IR 100") + explicit(0x00100010, "PN", b"\xc4\xd6"),
    explicit(0x00204000, "LT", b"a" * 5000),
    explicit(0x00200013, "IS", b"1 ") + explicit(0x00080018, "UI", b"1.2.3\0"),
    explicit(0x00090010, "LO", b"GEMS_ACQU_01") + explicit(0x00091010, "UN", b"12"),
    explicit(0x00080000, "UL", bytes(4)) + explicit(0x00080018, "UI", b"1.2.3\0"),
    explicit(0x00082218, "SQ", item(explicit(0x00080100, "SH", b"A ")) + item(b"")),
    explicit(0x00082218, "SQ", b""),
    explicit(0x00880200, "SQ", item(explicit(0x00280100, "US", b"\x08\0") + explicit(0x7FE00010, "OB", bytes(4)))),
    b"",
]


@given(st.lists(st.tuples(st.sampled_from(INNER), st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_sequences_in_every_form(sequences: list[tuple[bytes, bool, bool]]) -> None:
    texts = ModelTexts(LIMITS, uri)
    for one in sequences:
        for inner in (one[0], nested(*one).replace(b"\x08\0\x40\x11", b"\x08\0\x12\x11")):
            file = file_of(explicit(0x00080018, "UI", b"1.2.3\0") + nested(inner, *one[1:]))
            assert texts.written(file) == by_itself(file)


def studies(choices: dict[int, list[bytes]]) -> st.SearchStrategy[list[bytes]]:
    one = st.tuples(*(st.sampled_from(each) for each in choices.values())).map(b"".join)
    return st.lists(one, min_size=2, max_size=6)


@given(studies(CHOICES))
def test_in_explicit_vr(data_sets: list[bytes]) -> None:
    texts = ModelTexts(LIMITS, uri)
    for data in data_sets:
        assert texts.written(file_of(data)) == by_itself(file_of(data))


@given(studies(IMPLICIT_CHOICES))
def test_in_implicit_vr(data_sets: list[bytes]) -> None:
    texts = ModelTexts(LIMITS, uri)
    for data in data_sets:
        assert texts.written(file_of(data, IMPLICIT)) == by_itself(file_of(data, IMPLICIT))


@given(st.lists(st.tuples(studies(CHOICES), studies(IMPLICIT_CHOICES), st.booleans()), min_size=2, max_size=4))
def test_transfer_syntaxes_by_turns(turns: list[tuple[list[bytes], list[bytes], bool]]) -> None:
    texts = ModelTexts(LIMITS, uri)
    for explicit_ones, implicit_ones, is_implicit in turns:
        file = file_of(implicit_ones[0], IMPLICIT) if is_implicit else file_of(explicit_ones[0])
        assert texts.written(file) == by_itself(file)


@given(st.data())
def test_what_is_cut_or_overwritten_is_what_the_walk_says(data: st.DataObject) -> None:
    texts = ModelTexts(LIMITS, uri)
    for whole in data.draw(studies(CHOICES)):
        file = bytearray(file_of(whole))
        start = len(file_of(b""))
        for at in data.draw(st.lists(st.integers(start, max(start, len(file) - 1)), max_size=2)):
            file[at : at + 1] = data.draw(st.binary(max_size=1))
        written = texts.written(bytes(file))
        if written is not None:
            assert written == by_itself(bytes(file))


SAME = explicit(0x00080018, "UI", b"1.2.3\0") + explicit(0x00280100, "US", b"\x08\0")
PIXELS = explicit(0x7FE00010, "OW", bytes(8))


@pytest.mark.parametrize(
    "file",
    [
        file_of(SAME + PIXELS[:-1]),
        file_of(SAME + PIXELS, str(ExplicitVRBigEndian)),
        file_of(SAME + PIXELS, str(DeflatedExplicitVRLittleEndian)),
        file_of(SAME + explicit(0x00280101, "??", b"\x08\0") + PIXELS),
        file_of(SAME + explicit(0x00020010, "UI", b"1.2\0") + PIXELS),
        file_of(SAME + SAME + PIXELS),
        file_of(SAME + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)),
        file_of(SAME + explicit(0x7FE00008, "OB", bytes(4)) + PIXELS),
        file_of(SAME + bytes(12)),
        file_of(SAME + PIXELS).replace(EXPLICIT.encode(), b"\0" * len(EXPLICIT)),
    ],
)
@pytest.mark.parametrize("before", [b"", SAME + PIXELS])
def test_what_breaks_a_rule_is_read_with_all_care(file: bytes, before: bytes) -> None:
    texts = ModelTexts(LIMITS, uri)
    texts.written(file_of(before))
    assert texts.written(file) is None
    assert texts.written(file_of(SAME + PIXELS)) == by_itself(file_of(SAME + PIXELS)), "and the next one is not"


def test_no_file_raises() -> None:
    with pytest.raises(DecodeError):
        ModelTexts(LIMITS, uri).written(b"no DICOM file, of whatever length it may be" * 10)


def test_limits_hold_for_what_is_not_walked_again() -> None:
    """Of elements that the file before had, and of items in them."""
    many = explicit(0x00081140, "SQ", item(b"") * 30)
    more = many + b"".join(explicit(0x00290000 + number, "US", b"\1\0") for number in range(0x1000, 0x1000 + 30))
    for data, most, is_written in ((many, 31, True), (many, 30, False), (more, 61, True), (more, 60, False)):
        texts = ModelTexts(ReadLimits(max_elements=most), uri)
        texts.written(file_of(many))
        assert (texts.written(file_of(data)) is not None) is is_written


def test_what_stands_in_both_is_walked_and_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Walk):
        seen = 0

        def element(self, at: int) -> object:  # type: ignore[override]
            Counting.seen += 1
            return super().element(at)

    monkeypatch.setattr(passages, "Walk", Counting)
    first = SAME + explicit(0x00280103, "US", b"\0\0")
    texts = ModelTexts(LIMITS, uri)
    texts.written(file_of(first))
    assert Counting.seen == 3
    texts.written(file_of(first.replace(b"1.2.3\0", b"1.2.4\0")))
    assert Counting.seen == 4


def test_of_real_files(shared: Path) -> None:
    """All that are at hand, one after the other and forth and back."""
    files = [path.read_bytes() for path in sorted(shared.rglob("*.dcm"))]
    readable = []
    for file in files:
        try:
            readable.append((file, by_itself(file)))
        except (DecodeError, ValueError):
            continue
    assert len(readable) > 20
    texts, count = ModelTexts(LIMITS, uri), 0
    for pair in pairwise(readable):
        for file, expected in (*pair, *pair[::-1]):
            written = texts.written(file)
            if written is not None:
                count += 1
                assert json.loads(written) == json.loads(expected)
                assert written == expected
    assert count > 2 * len(readable)
