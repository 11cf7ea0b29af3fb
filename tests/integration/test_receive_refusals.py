"""What the receiver refuses, with which code, and what hostile connections cannot do."""

from __future__ import annotations

import os
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from chexnode.settings.disk import DiskSettings
from chexnode.settings.limits import LimitSettings
from chexnode.settings.peer import PeerSettings
from chexnode.spool.spool import Incoming
from support.receivers import Node, a_settings, dcmtk, receiving, rows, spooled
from support.senders import (
    CR_IMAGE,
    EXPLICIT_VR,
    VERIFICATION,
    Aborted,
    Gone,
    Refused,
    Sender,
    an_image,
    associate_rq,
    command_element,
    element,
    pdu,
    store_file,
    us,
)
from support.servers import wait_for

DEFLATED = "1.2.840.10008.1.2.1.99"
CALLING_AE_UNKNOWN, CALLED_AE_UNKNOWN, LOCAL_LIMIT = (1, 1, 3), (1, 1, 7), (2, 3, 2)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = a_settings(tmp_path)
    with receiving(settings) as (receiver, ledger, bell):
        yield Node(settings, receiver.port, ledger, bell)


# Refusals


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"_00080016": b"1.2.840.10008.5.1.4.1.1.2"}, 0xA900),
        ({"_00080018": b"1.2.3.5"}, 0xA900),
        ({"_00080018": b""}, 0xC000),
        ({"_0020000D": b"../../etc/passwd"}, 0xC000),
        ({"_0020000E": b"1.2.%s"}, 0xC000),
    ],
)
def test_what_is_not_what_was_announced_is_refused(node: Node, change: dict[str, bytes], status: int) -> None:
    response = store_file(node.port, an_image(**change))
    assert response.status == status
    assert response.comment
    assert rows(node.ledger) == []
    assert spooled(node.settings) == []


@pytest.mark.parametrize("uid", ["../../../etc/cron.d/x", "", "1.2.3/4", "a" * 10, "1." * 100])
def test_an_announced_uid_that_is_none_is_refused(node: Node, uid: str) -> None:
    part = replace(an_image(), sop_instance_uid=uid)
    assert store_file(node.port, part).status == 0xC000
    assert spooled(node.settings) == []


def test_an_announced_class_that_was_not_negotiated_is_refused(node: Node) -> None:
    with Sender(node.port, [("1.2.840.10008.5.1.4.1.1.2", (EXPLICIT_VR,))]) as sender:
        assert sender.store(an_image()).status == 0xA900


def test_a_request_without_data_set_is_refused(node: Node) -> None:
    with Sender(node.port, [(CR_IMAGE, (EXPLICIT_VR,))]) as sender:
        assert sender.request(1, sender.store_elements(an_image()), None).status == 0xC000


def test_an_object_over_the_limit_is_refused_and_the_association_lives(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(max_object_mb=1))
    with receiving(settings) as (receiver, ledger, _), Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))]) as sender:
        response = sender.store(an_image("1.2.1", pixels=1000 * 1000))
        assert response.status == 0xA700
        assert "limit" in response.comment
        assert spooled(settings) == []
        assert sender.store(an_image("1.2.2")).status == 0
        assert len(rows(ledger)) == 1


def test_an_endless_object_ends_in_an_abort(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(max_object_mb=1))
    with receiving(settings) as (receiver, _, _):
        sender = Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))], pdu_length=1 << 20)
        sender.send_command(1, sender.store_elements(an_image()), has_data_set=True)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sender.send_data(1, bytes(40 << 20), last=False)
        sender.sock.close()
    assert spooled(settings) == []


def test_a_deflated_bomb_is_refused_before_it_is_large(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(inflate_mb=1))
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = stream.compress(an_image().data + bytes(100_000_000)) + stream.flush()
    with receiving(settings) as (receiver, ledger, _):
        response = store_file(receiver.port, replace(an_image(), data=bomb, transfer_syntax_uid=DEFLATED))
        assert (response.status, response.comment) == (0xC000, "the data set inflates beyond the limit")
        assert rows(ledger) == spooled(settings) == []


@pytest.mark.parametrize("what", ["elements", "items"])
def test_more_elements_than_the_limit_are_kept_and_not_analysed(tmp_path: Path, what: str) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(max_elements=100))
    item = b"\xfe\xff\x00\xe0" + bytes(4)
    many = {
        "elements": b"".join(element(0x7FE10000 + number, b"LO", b"x") for number in range(0x10, 0x100)),
        "items": element(0x7FE11001, b"SQ", item * 101),
    }
    part = an_image()
    with receiving(settings) as (receiver, ledger, _):
        assert store_file(receiver.port, replace(part, data=part.data + many[what])).status == 0
        (row,) = rows(ledger)
    assert (row.state, row.reason, row.detail) == ("QUARANTINED", "too-deep", f"too many {what}")


def test_sequences_nested_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(max_nesting=10))
    nested = b""
    for _ in range(11):
        item = b"\xfe\xff\x00\xe0" + len(nested).to_bytes(4, "little") + nested
        nested = element(0x7FE11001, b"SQ", item)
    part = an_image()
    with receiving(settings) as (receiver, ledger, _):
        response = store_file(receiver.port, replace(part, data=part.data + nested))
        assert (response.status, response.comment) == (0xC000, "sequences nest too deep")
        assert rows(ledger) == spooled(settings) == []


def test_a_low_disk_refuses_associations_and_stores_on_open_ones(tmp_path: Path) -> None:
    settings = a_settings(tmp_path)
    with receiving(settings) as (receiver, ledger, _):
        service = receiver._service
        with Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))]) as sender:
            assert sender.store(an_image("1.2.1")).status == 0
            service.settings = a_settings(tmp_path, disk=DiskSettings(reserve_gb=1e9))
            response = sender.store(an_image("1.2.2"))
            assert (response.status, response.comment) == (0xA700, "disk low")
            with pytest.raises(Refused) as refused:
                Sender(receiver.port)
            assert refused.value.code == LOCAL_LIMIT
            service.settings = settings
            assert sender.store(an_image("1.2.2")).status == 0
        assert len(rows(ledger)) == 2
    assert len(spooled(settings)) == 2


def test_who_may_call_and_whom(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, peer=(PeerSettings(ae_title="PACS", host="127.0.0.0/8"),))
    with receiving(settings) as (receiver, _, _):
        with Sender(receiver.port, calling="PACS") as sender:
            assert sender.echo().status == 0
        for calling, called, code in (
            ("OTHER", "CHEXNODE", CALLING_AE_UNKNOWN),
            ("PACS", "ANYTHING", CALLED_AE_UNKNOWN),
            ("pacs", "CHEXNODE", CALLING_AE_UNKNOWN),
        ):
            with pytest.raises(Refused) as refused:
                Sender(receiver.port, calling=calling, called=called)
            assert refused.value.code == code
        assert dcmtk("echoscu", "-aet", "OTHER", "-aec", "CHEXNODE", "127.0.0.1", receiver.port).returncode != 0


def test_any_called_ae_where_that_is_wanted(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, node={"port": 0, "data_dir": tmp_path, "any_called_ae": True})
    with receiving(settings) as (receiver, _, _), Sender(receiver.port, called="ANYTHING") as sender:
        assert sender.echo().status == 0


@pytest.mark.parametrize("limit", ["max_associations", "max_associations_per_address"])
def test_negotiated_associations_are_limited(tmp_path: Path, limit: str) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(**{limit: 2}))
    with receiving(settings) as (receiver, _, _):
        with Sender(receiver.port), Sender(receiver.port):
            with pytest.raises(Refused) as refused:
                Sender(receiver.port)
            assert refused.value.code == LOCAL_LIMIT

        def room() -> bool:
            try:
                with Sender(receiver.port):
                    return True
            except Refused:
                return False

        wait_for(room, "a place after two were released", 10)


# Hostile connections


def test_silent_connections_lock_nobody_out(tmp_path: Path) -> None:
    """More of them than associations are allowed, from the very address of a real sender."""
    settings = a_settings(tmp_path, limits=LimitSettings(max_associations=4, max_associations_per_address=4))
    with receiving(settings) as (receiver, ledger, _):
        silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(40)]
        try:
            assert store_file(receiver.port, an_image(), timeout=5).status == 0
        finally:
            for connection in silent:
                connection.close()
        assert len(rows(ledger)) == 1


def test_a_connection_that_does_not_negotiate_is_closed(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(negotiation_seconds=0.3))
    with receiving(settings) as (receiver, _, _):
        for begin in (b"", b"\x01\x00", associate_rq([(CR_IMAGE, [EXPLICIT_VR])])[:60]):
            with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
                connection.sendall(begin)
                assert connection.recv(1) == b""


def test_a_silent_association_is_ended(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(idle_seconds=0.3))
    with receiving(settings) as (receiver, _, _):
        sender = Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))], timeout=10)
        sender.send_command(1, sender.store_elements(an_image()), has_data_set=True)
        sender.send_data(1, bytes(3_000_000), last=False)
        with pytest.raises(Gone):
            sender.read_pdu()
        sender.sock.close()
        wait_for(lambda: spooled(settings) == [], "the unfinished file to go")


def test_a_sender_that_trickles_is_ended_however_alive_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = a_settings(tmp_path, limits=LimitSettings(idle_seconds=1, min_kb_per_second=10))
    part = an_image(pixels=256 * 256)
    with receiving(settings) as (receiver, ledger, _):
        slow = Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))], timeout=30)
        slow.send_command(1, slow.store_elements(part), has_data_set=True)
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            for byte in fragment(1, 0x00, bytes(20_000)):  # in time, every time
                slow.sock.sendall(bytes((byte,)))
                sent += 1
                time.sleep(0.05)
        slow.sock.close()
        assert 12 < sent < 1000
        assert "a message comes too slowly" in [getattr(record, "why", "") for record in caplog.records]
        with Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))]) as faster:  # more than 10 kB a second, for 3 seconds
            faster.send_command(1, faster.store_elements(part), has_data_set=True)
            for start in range(0, len(part.data), 8000):
                faster.send_data(1, part.data[start : start + 8000], last=start + 8000 >= len(part.data))
                time.sleep(0.18)
            assert faster.read_response().status == 0
        assert len(rows(ledger)) == len(spooled(settings)) == 1


def test_a_sender_that_waits_for_our_disk_is_not_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, stalls = Incoming.write, iter([3.0])

    def stalling(incoming: Incoming, data: bytes) -> None:
        time.sleep(next(stalls, 0.0))
        write(incoming, data)

    settings = a_settings(tmp_path, limits=LimitSettings(idle_seconds=1, min_kb_per_second=10_000))
    with receiving(settings) as (receiver, _, _):
        monkeypatch.setattr(Incoming, "write", stalling)
        assert store_file(receiver.port, an_image(pixels=1024 * 1024)).status == 0
        assert next(stalls, None) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(100),
        pdu(0x01, b""),
        pdu(0x01, os.urandom(500)),
        b"\x01\x00\xff\xff\xff\xff",
        pdu(0x05, bytes(4)),
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_no_association_request_is_aborted(node: Node, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(data)
        assert connection.recv(100)[:1] in (b"\x07", b"\x03"), "the titles in it may be nobody's"
    with Sender(node.port) as sender:
        assert sender.echo().status == 0


def fragment(context_id: int, control: int, data: bytes, length: int | None = None) -> bytes:
    size = len(data) + 2 if length is None else length
    return pdu(0x04, size.to_bytes(4, "big") + bytes((context_id, control)) + data)


ECHO = (
    command_element(0x0002, VERIFICATION.encode()) + command_element(0x0100, us(0x30)) + command_element(0x110, us(1))
)


@pytest.mark.parametrize(
    "data",
    [
        pdu(0x04, b"\0"),
        pdu(0x09, bytes(4)),
        pdu(0x01, bytes(100)),
        fragment(1, 0x03, ECHO, length=1 << 31),
        fragment(1, 0x03, ECHO, length=1),
        fragment(99, 0x03, ECHO),
        fragment(1, 0x00, b"a data set first"),
        fragment(1, 0x03, b"\x08\x00\x05\x00\xff\xff\xff\xff"),
        fragment(1, 0x01, ECHO) + fragment(1, 0x02, b"data within the command"),
        fragment(1, 0x01, ECHO) + pdu(0x05, bytes(4)),
        fragment(1, 0x01, bytes(70_000)),
        fragment(1, 0x03, command_element(0x0100, us(0x8030))),
    ],
)
def test_a_broken_message_is_aborted_and_nothing_else(node: Node, data: bytes) -> None:
    sender = Sender(node.port, timeout=10)
    sender.sock.sendall(data)
    with pytest.raises(Aborted), closing(sender.sock):
        sender.read_pdu()
    with Sender(node.port) as other:
        assert other.echo().status == 0


def test_a_peer_that_aborts_or_vanishes_leaves_nothing(node: Node) -> None:
    for end in (pdu(0x07, bytes(4)), b""):
        sender = Sender(node.port, [(CR_IMAGE, (EXPLICIT_VR,))])
        sender.send_command(1, sender.store_elements(an_image()), has_data_set=True)
        sender.send_data(1, bytes(2_000_000), last=False)
        sender.sock.sendall(end)
        sender.sock.close()
    with Sender(node.port) as other:
        assert other.echo().status == 0
    wait_for(lambda: spooled(node.settings) == [], "the unfinished files to go")
    assert rows(node.ledger) == []
