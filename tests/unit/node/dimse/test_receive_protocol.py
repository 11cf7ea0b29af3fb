"""Command sets, presentation contexts and callers: pure parts of the protocol."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ

from chexnode.dimse.callers import Callers
from chexnode.dimse.contexts import accept
from chexnode.dimse.messages import Command, CommandError, Status, read_command, write_response
from chexnode.dimse.pdus import LOCAL_LIMIT, PduError, Rejection, read_associate_rq, write_associate_rj
from chexnode.receive.filemeta import Announced, file_prefix
from chexnode.settings.peer import PeerSettings
from support.senders import CR_IMAGE, EXPLICIT_VR, IMPLICIT_VR, VERIFICATION, associate_rq, command_element, item, us
from support.senders import read_command as read_response

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PRIVATE = "1.2.826.0.1.3680043.8.498.1"


def test_a_command_is_read() -> None:
    data = b"".join(
        command_element(number, value)
        for number, value in ((0x0002, b"1.2"), (0x0100, us(1)), (0x0110, us(7)), (0x0800, us(1)), (0x1000, b"1.2.3"))
    )
    assert read_command(data) == Command(1, 7, True, "1.2", "1.2.3")


@pytest.mark.parametrize(
    "data", [b"", b"\0", command_element(0x0100, us(1))[:-1], struct.pack("<HHL", 8, 0x16, 0), us(1) * 5]
)
def test_a_broken_command_is_told(data: bytes) -> None:
    with pytest.raises(CommandError):
        read_command(data)


def test_what_is_no_element_of_a_command_is_skipped() -> None:
    data = (
        command_element(0x0100, us(0x8010))
        + struct.pack("<HHL4s", 8, 0x58, 4, b"1.2\0")
        + command_element(0x0900, us(1))
    )
    assert read_command(data).status == 1


@given(strategies.binary(max_size=200))
def test_any_bytes_are_a_command_or_an_error(data: bytes) -> None:
    with suppress(CommandError):
        read_command(data)


def test_a_response_reads_back() -> None:
    command = Command(1, 7, True, CR_IMAGE, "1.2.3")
    response = read_response(write_response(command, Status.OUT_OF_RESOURCES, "x" * 100))
    assert response.status == 0xA700
    assert response.comment == "x" * 64
    assert response.elements[0x0100] == us(0x8001)
    assert response.elements[0x0120] == us(7)
    assert response.elements[0x1000].rstrip(b"\0") == b"1.2.3"
    encoded = write_response(command, 0)
    assert struct.unpack_from("<L", encoded, 8)[0] == len(encoded) - 12


def test_storage_of_any_kind_is_accepted_with_the_first_syntax_offered() -> None:
    contexts = [
        (CR_IMAGE, [EXPLICIT_VR, IMPLICIT_VR]),
        (CR_IMAGE, ["1.2.840.10008.1.2.4.90"]),
        (PRIVATE, ["1.2.3.99"]),
        (VERIFICATION, [EXPLICIT_VR, IMPLICIT_VR]),
        (VERIFICATION, ["1.2.840.10008.1.2.4.50"]),
        (STORAGE_COMMITMENT, [IMPLICIT_VR]),
        (PATIENT_ROOT_FIND, [IMPLICIT_VR]),
    ]
    accepted, answer = accept(read_associate_rq(associate_rq(contexts)))
    assert {number: (c.abstract_syntax, c.transfer_syntax) for number, c in accepted.items()} == {
        1: (CR_IMAGE, EXPLICIT_VR),
        3: (CR_IMAGE, "1.2.840.10008.1.2.4.90"),
        5: (PRIVATE, "1.2.3.99"),
        7: (VERIFICATION, IMPLICIT_VR),
        11: (STORAGE_COMMITMENT, IMPLICIT_VR),
    }
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer)
    assert [c.result for c in pdu.presentation_context] == [0, 0, 0, 0, 4, 0, 3]


def role(uid: str, scu: int, scp: int) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))


@pytest.mark.parametrize(("scu", "scp", "accepted"), [(1, 0, True), (1, 1, True), (0, 1, False)])
def test_this_node_is_scp_whatever_roles_are_proposed(scu: int, scp: int, accepted: bool) -> None:
    request = read_associate_rq(associate_rq([(CR_IMAGE, [EXPLICIT_VR])], user_items=role(CR_IMAGE, scu, scp)))
    contexts, answer = accept(request)
    assert bool(contexts) == accepted
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer)
    roles = pdu.user_information.role_selection
    assert [(r.scu_role, r.scp_role) for r in roles.values()] == ([(True, False)] if accepted else [])


def test_only_one_operation_at_a_time_is_agreed() -> None:
    _, answer = accept(
        read_associate_rq(associate_rq([(CR_IMAGE, [EXPLICIT_VR])], user_items=item(0x53, struct.pack(">HH", 0, 0))))
    )
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer)
    window = pdu.user_information.async_ops_window
    assert window.maximum_number_operations_invoked == 1
    assert window.maximum_number_operations_performed == 1


@pytest.mark.parametrize(("odd", "result"), [((CR_IMAGE, []), 4), (("", [EXPLICIT_VR]), 3), ((CR_IMAGE, [""]), 4)])
def test_an_odd_context_is_refused_alone(odd: tuple[str, list[str]], result: int) -> None:
    contexts, answer = accept(read_associate_rq(associate_rq([(CR_IMAGE, [EXPLICIT_VR]), odd])))
    assert list(contexts) == [1]
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer)
    assert [c.result for c in pdu.presentation_context] == [0, result]


@given(strategies.data())
def test_any_bytes_are_a_request_or_an_error(data: strategies.DataObject) -> None:
    content = bytearray(associate_rq([(CR_IMAGE, [EXPLICIT_VR])], user_items=role(CR_IMAGE, 1, 0)))
    for _ in range(data.draw(strategies.integers(1, 6))):
        content[data.draw(strategies.integers(0, len(content) - 1))] = data.draw(strategies.integers(0, 255))
    try:
        request = read_associate_rq(bytes(content))
    except PduError:
        return
    accept(request)


def test_a_rejection_carries_its_code() -> None:
    for rejection in (LOCAL_LIMIT, Rejection(1, 1, 3)):
        pdu = A_ASSOCIATE_RJ()
        pdu.decode(write_associate_rj(rejection))
        assert (pdu.result, pdu.source, pdu.reason_diagnostic) == (
            rejection.result,
            rejection.source,
            rejection.reason,
        )


@pytest.mark.parametrize(
    ("host", "address", "allowed"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("10.1.0.0/16", "10.1.200.4", True),
        ("10.1.0.0/16", "10.2.0.4", False),
        ("10.1.2.3", "::ffff:10.1.2.3", True),
        ("fd00::/8", "fd12::1", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "10.1.2.3", False),
        ("no-such-host.invalid", "127.0.0.1", False),
    ],
)
def test_callers_are_known_by_title_and_address(host: str, address: str, allowed: bool) -> None:
    callers = Callers([PeerSettings(ae_title="PACS", host=host)])
    assert callers.allows("PACS", address) == allowed
    assert not callers.allows("OTHER", address)


@pytest.mark.parametrize(
    ("address", "allowed"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("10.0.0.1", False)]
)
def test_without_peers_only_loopback_may_call(address: str, allowed: bool) -> None:
    assert Callers([]).allows("ANY", address) == allowed


def test_file_meta_information_is_read_by_pydicom() -> None:
    from io import BytesIO

    import pydicom

    prefix = file_prefix(Announced(CR_IMAGE, "1.2.3", EXPLICIT_VR), "SENDER")
    ds = pydicom.dcmread(BytesIO(prefix))
    assert ds.preamble == bytes(128)
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT_VR
    assert ds.file_meta.SourceApplicationEntityTitle == "SENDER"
    assert ds.file_meta.FileMetaInformationGroupLength == len(prefix) - 132 - 12
