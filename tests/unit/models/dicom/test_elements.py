"""What breaks the rules of encoding beside the image is read past and named; what touches the image is a fault."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from chexmodels.dicom.elements import Scan, fragments, scan
from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.file_meta import prefix
from chexmodels.dicom.part10 import ReadLimits, read
from chexmodels.dicom.transfer_syntaxes import encoding_of

EXPLICIT, IMPLICIT, JPEG, RLE = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.5",
)
UNKNOWN_VR = "an element of unknown value representation"
MISPLACED = "an element of a group that no data set may have"
TRAILING = "bytes behind Pixel Data that are no data element"
DELIMITERS = "fragments that are not delimited as they should be"


def short(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def long(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, len(value) if length is None else length) + value


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def item(value: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
HEAD, MIDDLE = short(0x00080018, b"UI", b"1.2.3\0"), short(0x0020000D, b"UI", b"1.2.4\0")
PIXELS = long(0x7FE00010, b"OW", bytes(range(8)))


def walked(data: bytes, transfer_syntax_uid: str = EXPLICIT) -> Scan:
    return scan(data, encoding_of(transfer_syntax_uid), 1000, 10)


ODD: dict[str, Callable[[int, bytes], bytes]] = {
    "length of 16 bits": lambda tag, value: short(tag, b"??", value),
    "two spaces": lambda tag, value: short(tag, b"  ", value),
    "two NULs": lambda tag, value: short(tag, b"\0\0", value),
    "length of 32 bits": lambda tag, value: long(tag, b"ZZ", value),
    "no VR": implicit,
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("value", [b"", b"X1", b"A value of some length. "])
@pytest.mark.parametrize("tag", [0x00081010, 0x00091001])
def test_an_element_of_unknown_vr_is_read_past(odd: str, value: bytes, tag: int) -> None:
    data = HEAD + ODD[odd](tag, value) + MIDDLE + PIXELS
    found = walked(data)
    assert (found.broken, found.flaws) == ("", (UNKNOWN_VR,))
    assert [*found.elements] == [0x00080018, tag, 0x0020000D]
    element = found.elements[tag]
    assert element.vr == "UN"
    assert data[element.start : element.start + element.length] == value


@pytest.mark.parametrize("odd", ODD)
def test_it_may_stand_in_an_item_beside_another_or_last(odd: str) -> None:
    inner = ODD[odd](0x00080100, b"CODE") + ODD[odd](0x00080102, b"DCM ") + short(0x00080104, b"LO", b"Chest ")
    for sequence in (
        long(0x00081140, b"SQ", item(inner)),
        long(0x00081140, b"SQ", struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + ITEM_END + END, 0xFFFFFFFF),
        long(0x00081140, b"SQ", item(ODD[odd](0x00080100, b"CODE"))),
    ):
        found = walked(HEAD + sequence + MIDDLE + PIXELS)
        assert (found.broken, found.flaws, len(found.elements)) == ("", (UNKNOWN_VR,), 3)
    assert walked(HEAD + ODD[odd](0x00081010, b"X1")).broken == ""


def test_what_leads_nowhere_is_broken() -> None:
    for wrong in (short(0x00081010, b"??", b"X1")[:-2], struct.pack("<HH2sH", 8, 0x1010, b"??", 7) + b"X1"):
        found = walked(HEAD + wrong + MIDDLE)
        assert found.broken == "an unknown value representation"
        assert [*found.elements] == [0x00080018]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("tag", [0x00100010, 0x00100020, 0x00280010, 0x0020000E])
def test_whose_image_it_is_and_its_pixels_are_not_guessed(odd: str, tag: int) -> None:
    found = walked(HEAD + ODD[odd](tag, b"A value of some length. ") + PIXELS)
    assert (found.broken, [*found.elements]) == ("an unknown value representation", [0x00080018])


@pytest.mark.parametrize("tag", [0x00020010, 0x00000002, 0x00020000])
def test_a_group_of_no_data_set_is_left_out(tag: int) -> None:
    for syntax, one in ((EXPLICIT, lambda t: short(t, b"UI", b"1.2\0")), (IMPLICIT, lambda t: implicit(t, b"1.2\0"))):
        data = one(tag) + one(0x00080018) + one(tag) + one(0x0020000D)
        found = walked(data, syntax)
        assert (found.broken, found.flaws, [*found.elements]) == ("", (MISPLACED,), [0x00080018, 0x0020000D])
        size = len(one(tag))
        assert found.misplaced == ((0, size), (2 * size, 3 * size))


@pytest.mark.parametrize("tail", [b"\0", b"\0\0", bytes(7), bytes(8), bytes(4000)])
def test_zeros_at_the_end_are_padding(tail: bytes) -> None:
    for data in (HEAD + MIDDLE, HEAD + MIDDLE + PIXELS):
        found = walked(data + tail)
        assert (found.broken, found.flaws) == ("", ())


@pytest.mark.parametrize("tail", [b"\1", b"junk", b"\0\0\1", bytes(9) + b"\1", b"much more junk than an element has"])
def test_what_stands_behind_pixel_data_does_not_touch_it(tail: bytes) -> None:
    found = walked(HEAD + MIDDLE + PIXELS + tail)
    assert (found.broken, found.flaws) == ("", (TRAILING,))
    found = walked(HEAD + MIDDLE + PIXELS + long(0xFFFCFFFC, b"OB", b"12345678")[:-2])
    assert (found.broken, found.flaws) == ("", (TRAILING,))
    assert walked(HEAD + MIDDLE + tail).broken
    assert walked(HEAD + MIDDLE + PIXELS[:-1]).broken == "the pixel data goes past the end"


def test_zeros_before_an_element_are_walked_once() -> None:
    assert walked(bytes(1_000_000) + HEAD).broken == "zeros where an element should start"


CODESTREAM = b"\xff\xd8codestream\xff\xd9"
ENCAPSULATED = {
    "zeros before": item(b"") + bytes(4) + item(CODESTREAM) + END,
    "zeros between": item(b"") + item(CODESTREAM[:6]) + bytes(16) + item(CODESTREAM[6:]) + END,
    "odd length, padded": item(b"") + item(CODESTREAM[:5]) + b"\0" + item(CODESTREAM[5:]) + END,
    "zeros behind": item(b"") + item(CODESTREAM) + bytes(10) + END,
    "no delimiter": item(b"") + item(CODESTREAM),
    "zeros and no delimiter": item(b"") + item(CODESTREAM) + bytes(20),
    "an element and no delimiter": item(b"") + item(CODESTREAM) + long(0xFFFCFFFC, b"OB", b"12"),
}


@pytest.mark.parametrize("what", ENCAPSULATED)
def test_fragments_are_found_whatever_delimits_them(what: str) -> None:
    data = HEAD + MIDDLE + long(0x7FE00010, b"OB", ENCAPSULATED[what], 0xFFFFFFFF)
    found = walked(data, JPEG)
    assert (found.broken, found.flaws) == ("", (DELIMITERS,))
    meta = prefix(((2, "UI", "1.2.840.10008.5.1.4.1.1.1"), (3, "UI", "1.2.3"), (0x10, "UI", JPEG)))
    value = bytes(read(meta + data, ReadLimits()).dataset().PixelData)
    spans, end, is_regular = fragments(value, 0)
    assert (is_regular, end) == (True, len(value))
    assert b"".join(value[first:last] for first, last in spans) == CODESTREAM


def test_where_more_may_be_missing_than_a_delimiter_the_codestream_says_so() -> None:
    cut = HEAD + MIDDLE + long(0x7FE00010, b"OB", item(b"") + item(CODESTREAM[:-2]), 0xFFFFFFFF)
    meta = prefix(((2, "UI", "1.2.840.10008.5.1.4.1.1.1"), (3, "UI", "1.2.3"), (0x10, "UI", JPEG)))
    with pytest.raises(DecodeError, match="breaks off"):
        read(meta + cut, ReadLimits()).dataset()


@pytest.mark.parametrize("bad", [b"", item(b"abcd")[:-1], item(b"ab") + b"junk of bytes", item(b"ab") + b"xyz"])
def test_what_is_no_fragment_is_a_fault(bad: bytes) -> None:
    assert walked(HEAD + long(0x7FE00010, b"OB", bad, 0xFFFFFFFF), RLE).broken
