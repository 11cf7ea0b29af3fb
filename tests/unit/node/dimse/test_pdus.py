"""Association PDUs as strangers write them: what PS3.8 says to skip is skipped, what bounds them is kept."""

from __future__ import annotations

import struct

import pytest
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification

from chexnode.dimse.contexts import accept, is_storage
from chexnode.dimse.messages import Command, Messages, write_response
from chexnode.dimse.pdus import (
    MAX_CONTEXTS,
    PduError,
    ProposedContext,
    RoleSelection,
    read_associate_ac,
    read_associate_rq,
    read_titles,
    write_associate_rq,
)
from chexnode.dimse.upper import Upper
from support.senders import CR_IMAGE, EXPLICIT_VR, IMPLICIT_VR, VERIFICATION, associate_rq, item

CONTEXTS = [(VERIFICATION, [IMPLICIT_VR])]


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"MODALITY        ", "MODALITY"),
        (b"MODALITY".ljust(16, b"\0"), "MODALITY"),
        (b"MODALITY\0earlier", "MODALITY"),
        (b" " * 16, ""),
        ("RÖNTGEN".encode("latin-1").ljust(16), "RÖNTGEN"),
    ],
)
def test_a_title_ends_at_its_first_nul(field: bytes, title: str) -> None:
    data = associate_rq(CONTEXTS)
    data = data[:10] + field + field + data[42:]
    titles = read_titles(data)
    assert (titles.called_ae_title, titles.calling_ae_title) == (title, title)
    _, answer = accept(read_associate_rq(data))
    assert answer[10:42] == field * 2, "the acceptance repeats the titles as they came"


@pytest.mark.parametrize(
    "extra",
    [
        item(0x5A, b"vendor"),
        item(0x58, b"\6\0\0\4user\0\0"),
        item(0x55, b"A" * 20),
        item(0x54, b"\0"),
    ],
    ids=["unknown", "identity-6", "long-version", "short-role"],
)
def test_odd_user_items_are_skipped(extra: bytes) -> None:
    contexts, _ = accept(read_associate_rq(associate_rq(CONTEXTS, user_items=extra)))
    assert list(contexts) == [1]


def test_more_contexts_than_identifiers_are_refused() -> None:
    many = associate_rq([(CR_IMAGE, [EXPLICIT_VR])] * MAX_CONTEXTS)
    assert len(read_associate_rq(many).contexts) == MAX_CONTEXTS
    twice = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, CR_IMAGE.encode()) + item(0x40, EXPLICIT_VR.encode()))
    with pytest.raises(PduError):
        read_associate_rq(many + twice)
    with pytest.raises(PduError):
        read_associate_rq(associate_rq(CONTEXTS) + twice)


def test_what_we_ask_is_read_by_another() -> None:
    rows = [ProposedContext(1, CR_IMAGE, (EXPLICIT_VR,)), ProposedContext(3, VERIFICATION, (IMPLICIT_VR,))]
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(write_associate_rq("CALLED", "CALLING", rows, {CR_IMAGE: RoleSelection(scu=False, scp=True)}))
    asked = pdu.to_primitive()
    assert (asked.called_ae_title, asked.calling_ae_title) == ("CALLED", "CALLING")
    proposed = [
        (c.context_id, c.abstract_syntax, c.transfer_syntax)
        for c in pdu.to_primitive().presentation_context_definition_list
    ]
    assert proposed == [(1, CR_IMAGE, [EXPLICIT_VR]), (3, VERIFICATION, [IMPLICIT_VR])]
    (role,) = pdu.user_information.role_selection.values()
    assert (role.sop_class_uid, role.scu_role, role.scp_role) == (CR_IMAGE, False, True)


def test_an_acceptance_of_another_is_read() -> None:
    accepted, refused = build_context(CR_IMAGE, EXPLICIT_VR), build_context(VERIFICATION, IMPLICIT_VR)
    accepted.context_id, accepted.result, refused.context_id, refused.result = 1, 0, 3, 4
    answer = A_ASSOCIATE()
    answer.application_context_name = "1.2.840.10008.3.1.1.1"
    answer.calling_ae_title, answer.called_ae_title = "A", "B"
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = [accepted, refused]
    length = MaximumLengthNotification()
    length.maximum_length_received = 16384
    answer.user_information = [length]
    read = read_associate_ac(A_ASSOCIATE_AC(answer).encode())
    assert read.max_length == 16384
    assert [(r.context_id, r.result, r.transfer_syntax) for r in read.results.values()] == [
        (1, 0, EXPLICIT_VR),
        (3, 4, ""),
    ]


def acceptance(*items: bytes) -> bytes:
    return bytes((2, 0)) + struct.pack(">L", 68) + bytes(68) + b"".join(items)


def test_a_refused_context_needs_no_transfer_syntax() -> None:
    read = read_associate_ac(
        acceptance(item(0x21, bytes((1, 0, 3, 0))), item(0x60, b"vendor"), item(0x21, b"\3\0\4\0"))
    )
    assert [(one.context_id, one.result) for one in read.results.values()] == [(1, 3), (3, 4)]


def test_an_acceptance_of_nothing_is_none() -> None:
    with pytest.raises(PduError):
        read_associate_ac(acceptance())


@pytest.mark.parametrize(
    ("uid", "stored"),
    [
        (CR_IMAGE, True),
        ("1.2.826.0.1.3680043.8.498.1", True),
        ("1.2.840.10008.5.1.4.1.1.66.4", True),
        ("1.2.840.10008.5.1.4.1.2.2.1", False),
        ("1.2.840.10008.1.20.1", False),
        ("1.2.840.10008.5.1.4.38.1", False),
        (EXPLICIT_VR, False),
    ],
)
def test_what_is_a_storage_class(uid: str, stored: bool) -> None:
    assert is_storage(uid) == stored


class Counted(Upper):
    """Takes what is sent, and how often."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))


def test_an_answer_to_a_peer_that_reads_a_byte_at_a_time_is_sent_in_pieces() -> None:
    upper = Counted()
    command = Command(1, 7, True, CR_IMAGE, "1.2.3")
    Messages(upper, 7).send(1, write_response(command, 0), bytes(200_000))
    assert len(upper.sent) > 5, "it is not put together as a whole"
    assert max(map(len, upper.sent)) < 300_000
    assert b"".join(upper.sent).count(b"\x04\0\0\0\0\x07") >= 200_000
