"""Conversations as lists of PDUs, and mutations of them: what broken stacks, scanners and attackers say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from support.senders import (
    CR_IMAGE,
    EXPLICIT_VR,
    IMPLICIT_VR,
    VERIFICATION,
    Part10,
    Sender,
    associate_rq,
    command_element,
    element,
    item,
    pdu,
    us,
)

Conversation = list[bytes]
Mutation = Callable[[Random, Conversation], Conversation]

COMMITMENT = "1.2.840.10008.1.20.1"
RELEASE, ABORT = pdu(0x05, bytes(4)), pdu(0x07, bytes(4))
TITLES = (
    *(
        "CHEXNODE",
        "chexnode",
        "",
        " " * 16,
        "\0" * 16,
        "A" * 16,
        "\x1b[2J\r\nforged=1",
        "<b>&\"'",
        "%s%n%d",
        "..\\..\\x",
    ),
    *("é" * 8, "\x7f\x80\x9f", "forged\nerror"),
)
LENGTHS = (0, 1, 2, 3, 5, 6, 7, 255, 65_535, 1 << 20, (1 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF)
FIELDS = (0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0130, 0x0FFF, 0x8001, 0x8030, 0x8100, 0, 0xFFFF)


def conversation(random: Random, image: Part10, number: int) -> Conversation:
    """A whole one, nothing wrong with it yet: echoes, stores and requests for storage commitment in some order."""
    syntaxes = (image.transfer_syntax_uid or EXPLICIT_VR,)
    said = [
        associate_rq(
            [(VERIFICATION, [IMPLICIT_VR]), (image.sop_class_uid or CR_IMAGE, syntaxes), (COMMITMENT, [IMPLICIT_VR])]
        )
    ]
    step = random.choice((64, 1000, 16_384, 1 << 20))
    for message_id in range(1, random.choice((2, 3, 4))):
        kind = random.choice(("echo", "store", "store", "commit"))
        if kind == "echo":
            said += message(1, {0x0002: VERIFICATION.encode(), 0x0100: us(0x0030), 0x0110: us(message_id)}, None, step)
        elif kind == "store":
            elements = Sender.store_elements(image) | {0x0110: us(message_id)}
            said += message(3, elements, image.data, step)
        else:
            said += message(5, _commitment(message_id), _transaction(number, image), step)
    return [*said, RELEASE]


def message(context_id: int, elements: dict[int, bytes], data: bytes | None, step: int) -> Conversation:
    """A message in fragments of at most ``step`` bytes, one a PDU."""
    elements = elements | {0x0800: us(0x0101 if data is None else 1)}
    body = b"".join(command_element(number, elements[number]) for number in sorted(elements))
    said = _fragments(context_id, command_element(0, struct.pack("<L", len(body))) + body, 0x01, step)
    return said if data is None else said + _fragments(context_id, data, 0x00, step)


def _fragments(context_id: int, content: bytes, control: int, step: int) -> Conversation:
    pieces = [content[start : start + step] for start in range(0, max(1, len(content)), step)]
    return [
        p_data((context_id, control | (0x02 if index == len(pieces) - 1 else 0), piece))
        for index, piece in enumerate(pieces)
    ]


def p_data(*values: tuple[int, int, bytes]) -> bytes:
    """A P-DATA-TF of presentation data values: (context id, message control header, bytes)."""
    return pdu(0x04, b"".join(struct.pack(">LBB", len(part) + 2, one, control) + part for one, control, part in values))


def _commitment(message_id: int) -> dict[int, bytes]:
    return {
        0x0003: COMMITMENT.encode(),
        0x0100: us(0x0130),
        0x0110: us(message_id),
        0x1001: b"1.2.840.10008.1.20.1.1",
        0x1008: us(1),
    }


def _transaction(number: int, image: Part10) -> bytes:
    reference = _implicit(0x00081150, image.sop_class_uid) + _implicit(0x00081155, image.sop_instance_uid)
    one = struct.pack("<HHL", 0xFFFE, 0xE000, len(reference)) + reference
    return _implicit(0x00081195, f"1.2.{number}") + struct.pack("<HHL", 0x0008, 0x1199, len(one)) + one


def _implicit(tag: int, uid: str) -> bytes:
    value = uid.encode("latin-1", "replace")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def mutated(random: Random, said: Conversation) -> tuple[Conversation, list[str]]:
    """``said`` after one to three mutations, and their names."""
    names = []
    for _ in range(random.choice((1, 1, 2, 3))):
        mutation = random.choice(MUTATIONS)
        said = mutation(random, list(said)) or [b""]
        names.append(mutation.__name__.strip("_"))
    return said, names


def _index(random: Random, said: Conversation) -> int:
    """Any, and often one of the first, where more is decided."""
    return random.randrange(min(len(said), 4) if random.random() < 0.6 else len(said))


def _flip(random: Random, said: Conversation) -> Conversation:
    at = _index(random, said)
    data = bytearray(said[at])
    for _ in range(random.choice((1, 2, 8)) if data else 0):
        data[random.randrange(min(len(data), 300))] = random.randrange(256)
    said[at] = bytes(data)
    return said


def _type(random: Random, said: Conversation) -> Conversation:
    at = _index(random, said)
    said[at] = bytes((random.choice((*range(9), 0x16, 0x47, 0xFF)),)) + said[at][1:]
    return said


def _pdu_length(random: Random, said: Conversation) -> Conversation:
    at = _index(random, said)
    said[at] = said[at][:2] + struct.pack(">L", random.choice(LENGTHS)) + said[at][6:]
    return said


def _value_length(random: Random, said: Conversation) -> Conversation:
    at = _index(random, said)
    said[at] = said[at][:6] + struct.pack(">L", random.choice(LENGTHS)) + said[at][10:]
    return said


def _context(random: Random, said: Conversation) -> Conversation:
    at = _index(random, said)
    said[at] = said[at][:10] + bytes((random.choice((0, 1, 2, 3, 5, 7, 99, 255)),)) + said[at][11:]
    return said


def _control(random: Random, said: Conversation) -> Conversation:
    at = _index(random, said)
    said[at] = said[at][:11] + bytes((random.choice((0, 1, 2, 3, 0xFF)),)) + said[at][12:]
    return said


def _reorder(random: Random, said: Conversation) -> Conversation:
    one, other = random.randrange(len(said)), random.randrange(len(said))
    said[one], said[other] = said[other], said[one]
    return said


def _drop(random: Random, said: Conversation) -> Conversation:
    del said[_index(random, said)]
    return said


def _repeat(random: Random, said: Conversation) -> Conversation:
    at = _index(random, said)
    return said[:at] + [said[at]] * random.choice((2, 3, 30)) + said[at + 1 :]


def _data_first(_random: Random, said: Conversation) -> Conversation:
    return said[1:2] + said[:1] + said[2:]


def _interleave(random: Random, said: Conversation) -> Conversation:
    """Two commands at once: another begins before the first has its data set."""
    echo = message(1, {0x0002: VERIFICATION.encode(), 0x0100: us(0x0030), 0x0110: us(99)}, None, 1000)
    at = random.randrange(1, len(said) + 1)
    return said[:at] + echo + said[at:]


def _many_values(random: Random, said: Conversation) -> Conversation:
    """The same values in one PDU after another, or each byte in one of its own."""
    at = _index(random, said)
    body = said[at][12:]
    context_id, control = (said[at][10], said[at][11]) if len(said[at]) > 12 else (1, 1)
    if random.random() < 0.5:
        return [
            *said[:at],
            p_data(*((context_id, control & 1, body[i : i + 1]) for i in range(min(len(body), 3000)))),
            *said[at + 1 :],
        ]
    said[at] = p_data(*((context_id, control, body[:50]),) * random.choice((2, 100)))
    return said


def _command(random: Random, said: Conversation) -> Conversation:
    """A command set that lies: field, data set type, lengths, UIDs."""
    uid = random.choice((b"", b"1.2.3", b"../..", b"\xff\xfe", b"1." * 500, b"\x1b[2J\r\n"))
    elements = {0x0100: us(random.choice(FIELDS)), 0x0110: us(7), 0x0002: uid, 0x1000: uid}
    elements |= {random.choice((0x0120, 0x0700, 0x0900, 0x1008, 0x1030, 0x1031)): random.randbytes(random.randrange(9))}
    if random.random() < 0.3:
        elements.pop(random.choice(tuple(elements)))
    body = b"".join(command_element(number, elements[number]) for number in sorted(elements))
    body += command_element(0x0800, us(random.choice((0, 1, 0x0101, 0xFFFF))))
    if random.random() < 0.3:
        body = body[: random.randrange(len(body))]
    if random.random() < 0.2:
        body += element(0x00080018, b"UI", b"1.2.3")
    at = random.randrange(1, len(said) + 1)
    return [*said[:at], p_data((random.choice((1, 3, 5)), 0x03, body)), *said[at:]]


def _titles(random: Random, said: Conversation) -> Conversation:
    calling, called = (random.choice(TITLES).encode("latin-1", "replace")[:16].ljust(16) for _ in range(2))
    if random.random() < 0.6:
        called = b"CHEXNODE".ljust(16)
    at = next((i for i, one in enumerate(said) if one[:1] == b"\x01"), None)
    if at is not None:
        said[at] = said[at][:10] + called + calling + said[at][42:]
    return said


def _contexts(random: Random, said: Conversation) -> Conversation:
    """Proposals that are too many, empty, even, doubled or huge."""
    kinds: tuple[list[tuple[str, list[str]]], ...] = (
        [(VERIFICATION, [IMPLICIT_VR])] * 128,
        [(CR_IMAGE, [f"1.2.{n}" for n in range(500)])],
        [("1." * 5000, [EXPLICIT_VR])],
        [(VERIFICATION, [])],
        [("", [""])],
        [("é\x1b[2J", ["../.."])],
        [],
    )
    return [associate_rq(random.choice(kinds)), *said[1:]]


def _oversize(random: Random, said: Conversation) -> Conversation:
    """A request for an association beyond any bound: too long, too many contexts, one identifier again and again."""
    request = random.choice(
        (
            pdu(0x01, said[0][6:] + item(0x50, bytes(60_000)) * random.choice((1, 2, 40))),
            associate_rq([(CR_IMAGE, [EXPLICIT_VR])] * 300),
            associate_rq([(CR_IMAGE, [EXPLICIT_VR] * 60)] * 128),
        )
    )
    if random.random() < 0.3:
        request = request[:2] + struct.pack(">L", random.choice((131_073, 1 << 24, 0x7FFFFFFF))) + request[6:]
    return [request, *said[1:]]


def _commitment_bomb(random: Random, said: Conversation) -> Conversation:
    """A request for storage commitment whose data set is items in items, or a million empty ones."""
    empty = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    inside = random.choice((empty * random.choice((20_001, 200_000)), b""))
    for _ in range(random.choice((0, 9, 500)) if not inside else 0):
        inside = (
            struct.pack("<HHL", 0xFFFE, 0xE000, 8 + len(inside)) + struct.pack("<HHL", 8, 0x1199, len(inside)) + inside
        )
    data = _implicit(0x00081195, "1.2.3") + struct.pack("<HHL", 0x0008, 0x1199, len(inside)) + inside
    at = random.randrange(1, len(said) + 1)
    return [*said[:at], *message(5, _commitment(9), data, 1 << 17), *said[at:]]


def _user_items(random: Random, said: Conversation) -> Conversation:
    """User information that is garbage: role selection, negotiation, identity (PS3.7 annex D.3.3)."""
    items = b""
    for _ in range(random.choice((1, 3, 40))):
        kind = random.choice((0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x00, 0xFF))
        body = random.choice(
            (
                random.randbytes(random.randrange(40)),
                struct.pack(">H", random.choice((0, 3, 17, 0xFFFF))) + CR_IMAGE.encode() + bytes((1, 1)),
                struct.pack(">BBHHH", 1, 1, 4, 0, 0) + b"\x1b[2J",
                b"A" * random.choice((0, 1, 17, 5000)),
            )
        )
        one = item(kind, body)
        items += one if random.random() < 0.8 else one[:2] + struct.pack(">H", random.choice((0, 1, 0xFFFF))) + one[4:]
    contexts = [(VERIFICATION, [IMPLICIT_VR]), (CR_IMAGE, [EXPLICIT_VR])]
    return [
        associate_rq(contexts, user_items=items, max_length=random.choice((0, 1, 7, 16_384, 0xFFFFFFFF))),
        *said[1:],
    ]


def _end_early(random: Random, said: Conversation) -> Conversation:
    at = random.randrange(len(said))
    return [*said[:at], random.choice((RELEASE, ABORT, RELEASE + RELEASE, said[at][: len(said[at]) // 2], b""))]


def _noise(random: Random, said: Conversation) -> Conversation:
    said.insert(_index(random, said), random.randbytes(random.choice((1, 5, 6, 100, 5000))))
    return said


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _flip, _type, _pdu_length, _value_length, _context, _control, _reorder, _drop, _repeat, _data_first),
    *(_interleave, _many_values, _command, _command, _titles, _contexts, _user_items, _user_items, _end_early, _noise),
    *(_oversize, _commitment_bomb),
)
