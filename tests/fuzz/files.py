"""Mutations of an encoded data set: what broken exporters, bad disks and attackers make of it.

Each takes a random generator and an image and returns another one. The damage is of the syntax (lengths, VRs,
sequences, fragments), of the values, and of what is announced about them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random

from chexmodels.dicom.elements import Element, Fault, walk
from chexmodels.dicom.transfer_syntaxes import encoding_of
from support.senders import EXPLICIT_VR, IMPLICIT_VR, LONG_VRS, Part10

Mutation = Callable[[Random, Part10], Part10]

BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
SYNTAXES = (
    *(EXPLICIT_VR, IMPLICIT_VR, BIG_ENDIAN, DEFLATED, "1.2.840.113619.5.2", "1.2.3.4", "1.2.840.10008.1.2.5"),
    *(f"1.2.840.10008.1.2.4.{tail}" for tail in (50, 51, 57, 70, 80, 81, 90, 91, 95, 100, 201, 205)),
)
VRS = (
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US", b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"UV", b"ZZ", b"\0\0"),
)
VALUES = (
    *(b"", b" ", b"\0", b"\0" * 64, b"\\" * 17, b"^" * 9, b"=" * 5, b"A" * 16, b"9" * 40, b"-1", b"1e309", b"nan"),
    *(b"-inf", b"0", b"00000000", b"99999999", b"20260230", b"999Y", b"../../../etc/passwd", b"%s%n", b"${jndi:x}"),
    *(b"<script>", b"\x1b[2J\x07", b"\r\nlevel=error", b"\xff\xfe\xfd", b"\xc3\x28", b"\x1b$B\x1b(B\x1b$)C"),
    *(
        b"ISO_IR 999",
        b"ISO 2022 IR 149\\ISO 2022 IR 87",
        b"GB18030\\GBK",
        b"MONOCHROME1 ",
        b"1.2." * 30,
        b"\xed\xa0\x80 ",
    ),
    *(struct.pack("<H", 0xFFFF), struct.pack("<HH", 0, 0), b"A\\B" * 300, b"x" * 5000, b"\\".join([b"1"] * 2000)),
)
LENGTHS = (0, 1, 2, 3, 7, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
TAGS = (0, 0x00020010, 0x00080016, 0x00080018, 0x0020000D, 0x00280010, 0x7FE00008, 0x7FE00010, 0xFFFEE000, 0xFFFEE0DD)
TAGS += (0x00080005, 0x00081140, 0x00283010, 0x00540220, 0xFFFCFFFC, 0xFFFFFFFF)

_ITEM, _ITEM_END, _SEQUENCE_END = ((0xFFFE, tail) for tail in (0xE000, 0xE00D, 0xE0DD))


def mutated(random: Random, part: Part10) -> tuple[Part10, list[str]]:
    """``part`` after one to four mutations, and their names."""
    names = []
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        mutation = random.choice(MUTATIONS)
        part = mutation(random, part)
        names.append(mutation.__name__.strip("_"))
    return part, names


def elements(part: Part10) -> list[Element]:
    """The top-level elements as far as they can be walked."""
    found: list[Element] = []
    with suppress(Fault):
        for element in walk(part.data, encoding_of(part.transfer_syntax_uid), 20_000, 400):
            found.append(element)
    return found


def _flip(random: Random, part: Part10) -> Part10:
    data = bytearray(part.data)
    for _ in range(random.choice((1, 2, 8, 40)) if data else 0):
        data[_place(random, len(data))] ^= 1 << random.randrange(8)
    return replace(part, data=bytes(data))


def _place(random: Random, size: int) -> int:
    """Anywhere, and mostly where the header is."""
    return random.randrange(min(size, 2500) if random.random() < 0.7 else size)


def _truncate(random: Random, part: Part10) -> Part10:
    return replace(part, data=part.data[: random.randrange(len(part.data) + 1)])


def _overwrite(random: Random, part: Part10) -> Part10:
    at = random.randrange(len(part.data) + 1)
    noise = random.randbytes(random.choice((1, 4, 100, 3000)))
    return replace(part, data=part.data[:at] + noise + part.data[at + len(noise) :])


def _insert(random: Random, part: Part10) -> Part10:
    at = random.randrange(len(part.data) + 1)
    return replace(part, data=part.data[:at] + random.randbytes(random.randrange(1, 20)) + part.data[at:])


def _cut_out(random: Random, part: Part10) -> Part10:
    at = random.randrange(len(part.data) + 1)
    return replace(part, data=part.data[:at] + part.data[at + random.choice((1, 2, 8, 100, 2000)) :])


def _on_element(change: Callable[[Random, Part10, Element], bytes]) -> Mutation:
    """A mutation of one top-level element, whose new encoding ``change`` returns."""

    def mutation(random: Random, part: Part10) -> Part10:
        found = elements(part)
        if not found:
            return _flip(random, part)
        element = random.choice(found)
        new = change(random, part, element)
        return replace(part, data=part.data[: element.at] + new + part.data[_end(part, element) :])

    mutation.__name__ = change.__name__
    return mutation


def _end(part: Part10, element: Element) -> int:
    return len(part.data) if element.tag == 0x7FE00010 else min(len(part.data), element.start + element.length)


def _order(part: Part10) -> str:
    return "<" if encoding_of(part.transfer_syntax_uid).little else ">"


@_on_element
def _lie_about_length(random: Random, part: Part10, element: Element) -> bytes:
    head, value = bytearray(part.data[element.at : element.start]), part.data[element.start : _end(part, element)]
    length = random.choice((*LENGTHS, len(value) + 1, max(0, len(value) - 1), len(value) + 2))
    form = "H" if element.vr and element.vr.encode() not in LONG_VRS else "L"
    size = struct.calcsize(form)
    struct.pack_into(_order(part) + form, head, len(head) - size, length & (1 << 8 * size) - 1)
    return bytes(head) + value


@_on_element
def _swap_vr(random: Random, part: Part10, element: Element) -> bytes:
    whole = bytearray(part.data[element.at : _end(part, element)])
    whole[4:6] = random.choice(VRS)
    return bytes(whole)


@_on_element
def _swap_tag(random: Random, part: Part10, element: Element) -> bytes:
    tag = random.choice((*TAGS, random.getrandbits(32)))
    head = struct.pack(_order(part) + "HH", tag >> 16, tag & 0xFFFF)
    return head + part.data[element.at + 4 : _end(part, element)]


@_on_element
def _replace_value(random: Random, part: Part10, element: Element) -> bytes:
    value = random.choice(VALUES)
    if random.random() < 0.1:
        value = random.randbytes(random.randrange(40))
    value += b" " * (len(value) % 2)
    return _head(part, element, len(value)) + value


def _head(part: Part10, element: Element, length: int) -> bytes:
    head = bytearray(part.data[element.at : element.start])
    form = "H" if element.vr and element.vr.encode() not in LONG_VRS else "L"
    struct.pack_into(_order(part) + form, head, len(head) - struct.calcsize(form), length)
    return bytes(head)


@_on_element
def _duplicate(random: Random, part: Part10, element: Element) -> bytes:
    return part.data[element.at : _end(part, element)] * random.choice((2, 2, 3, 50))


@_on_element
def _delete(_random: Random, _part: Part10, _element: Element) -> bytes:
    return b""


@_on_element
def _nest(random: Random, part: Part10, element: Element) -> bytes:
    """Sequences in sequences before the element, of undefined or false lengths, their ends there or not."""
    depth = random.choice((1, 3, 63, 64, 65, 300, 2000))
    order = _order(part)
    sequence = struct.pack(order + "HH", 0x0040, 0xA730)
    sequence += b"" if encoding_of(part.transfer_syntax_uid).implicit else random.choice((b"SQ\0\0", b"UN\0\0"))
    length = random.choice((0xFFFFFFFF, 0xFFFFFFFF, 8, 0xFFFFFFF0))
    opening = sequence + struct.pack(order + "L", length) + struct.pack(order + "HHL", *_ITEM, length)
    closing = struct.pack(order + "HHL", *_ITEM_END, 0) + struct.pack(order + "HHL", *_SEQUENCE_END, 0)
    nested = opening * depth + closing * random.choice((depth, depth, depth - 1, 0))
    return nested + part.data[element.at : _end(part, element)]


@_on_element
def _many_items(random: Random, part: Part10, element: Element) -> bytes:
    order = _order(part)
    items = struct.pack(order + "HHL", *_ITEM, 0) * random.choice((5, 20_001, 60_000))
    sequence = struct.pack(order + "HH", 0x0040, 0xA730)
    sequence += b"" if encoding_of(part.transfer_syntax_uid).implicit else b"SQ\0\0"
    return sequence + struct.pack(order + "L", len(items)) + items + part.data[element.at : _end(part, element)]


def _shuffle(random: Random, part: Part10) -> Part10:
    found = elements(part)
    whole = [part.data[element.at : _end(part, element)] for element in found]
    random.shuffle(whole)
    return replace(part, data=b"".join(whole) or part.data)


def _other_syntax(random: Random, part: Part10) -> Part10:
    return replace(part, transfer_syntax_uid=random.choice(SYNTAXES))


def _deflate(random: Random, part: Part10) -> Part10:
    """Well, as a bomb, or broken in the middle."""
    content = part.data if random.random() < 0.5 else part.data[:900] + bytes(20_000_000)
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = bytearray(stream.compress(content) + stream.flush())
    if random.random() < 0.4:
        deflated[random.randrange(len(deflated))] ^= 0xFF
    return replace(part, transfer_syntax_uid=DEFLATED, data=bytes(deflated))


def _break_pixels(random: Random, part: Part10) -> Part10:
    """Damage within Pixel Data: fragments, offset tables, codestreams."""
    at = part.data.rfind(b"\xe0\x7f\x10\x00")
    if at < 0:
        return _flip(random, part)
    data = bytearray(part.data)
    for _ in range(random.choice((1, 3, 20))):
        data[random.randrange(at, min(len(data), at + random.choice((20, 200, len(data)))))] = random.randrange(256)
    return replace(part, data=bytes(data))


def _announce_otherwise(random: Random, part: Part10) -> Part10:
    uid = random.choice(("", "1.2.3", "../../x", "1." * 100, "\x1b[2J", "1.2.840.10008.5.1.4.1.1.2", "é"))
    if random.random() < 0.5:
        return replace(part, sop_class_uid=uid or "1.2")
    return replace(part, sop_instance_uid=uid)


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _truncate, _overwrite, _insert, _cut_out, _lie_about_length, _swap_vr, _swap_tag, _duplicate, _delete),
    *(_nest, _many_items, _shuffle, _other_syntax, _deflate, _break_pixels, _announce_otherwise),
    *(_replace_value,) * 6,
)
