"""Which connections the web role keeps when there are too many, and how long one may be silent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count

import pytest

from chexnode.settings.web import WebSettings
from chexnode.web.connections import Connection, Connections

numbers = count(1)


class Callers:
    """Connections from addresses of a test's choice, against a clock of its own."""

    def __init__(self, **settings: float) -> None:
        self.now = 0.0
        self.connections = Connections(WebSettings(**settings), lambda: self.now)  # type: ignore[arg-type]
        self.sockets: list[socket.socket] = []

    def call(self, address: str) -> tuple[Connection, bool]:
        ours, theirs = socket.socketpair()
        connection = Connection(ours.family, ours.type, ours.proto, ours.detach())
        connection.connections, connection.peer = self.connections, (address, next(numbers))
        self.sockets += [connection, theirs]
        return connection, self.connections.admit(connection)

    def busy(self, address: str) -> Connection:
        connection, admitted = self.call(address)
        assert admitted
        self.connections.begin(connection.peer)
        return connection


@pytest.fixture
def callers() -> Iterator[Callers]:
    made = Callers(max_connections=6, max_connections_per_address=3, header_seconds=10, idle_seconds=30)
    yield made
    for one in made.sockets:
        one.close()


def is_open(connection: Connection) -> bool:
    return connection in connection.connections._open.values()


def test_an_address_makes_room_among_its_own(callers: Callers) -> None:
    other, _ = callers.call("10.0.0.2")
    first, second, third = (callers.call("10.0.0.1")[0] for _ in range(3))
    fourth, admitted = callers.call("10.0.0.1")
    assert admitted
    assert [is_open(one) for one in (other, first, second, third, fourth)] == [True, False, True, True, True]


def test_requests_under_way_are_not_ended_for_newcomers(callers: Callers) -> None:
    busy = [callers.busy("10.0.0.1") for _ in range(3)]
    assert not callers.call("10.0.0.1")[1]
    assert callers.call("10.0.0.2")[1]
    assert all(is_open(one) for one in busy)
    callers.connections.end(busy[1].peer)
    assert callers.call("10.0.0.1")[1], "it waits for another request now"
    assert [is_open(one) for one in busy] == [True, False, True]


def test_the_longest_silent_of_all_makes_room(callers: Callers) -> None:
    silent = [callers.call(f"10.0.0.{n}")[0] for n in range(6)]
    for n in range(6, 12):
        assert callers.call(f"10.0.0.{n}")[1]
    assert not any(is_open(one) for one in silent)
    assert len(callers.connections) == 6


def test_a_busy_node_still_takes_a_few(callers: Callers) -> None:
    for n in range(6):
        callers.busy(f"10.0.0.{n}")
    taken = [callers.call(f"10.0.1.{n}")[1] for n in range(30)]
    assert all(taken), "each ends the silent one before it"
    for n in range(40):
        connection, admitted = callers.call(f"10.0.2.{n}")
        if admitted:
            callers.connections.begin(connection.peer)
    assert len(callers.connections) < 30
    assert not callers.call("10.0.3.1")[1]


def test_silence_has_an_end(callers: Callers) -> None:
    silent, busy = callers.call("10.0.0.1")[0], callers.busy("10.0.0.1")
    answered = callers.busy("10.0.0.2")
    callers.connections.end(answered.peer)
    callers.now = 9.9
    callers.connections.sweep()
    assert is_open(silent)
    callers.now = 10
    callers.connections.sweep()
    assert [is_open(one) for one in (silent, busy, answered)] == [False, True, True]
    callers.now = 30
    callers.connections.sweep()
    assert [is_open(one) for one in (busy, answered)] == [True, False]


def test_one_subscriber_and_our_proxies() -> None:
    callers = Callers(max_connections=9, max_connections_per_address=2)
    for n in range(1, 4):
        callers.call(f"2001:db8::{n}")
    assert len(callers.connections) == 2
    proxied = Callers(max_connections=9, max_connections_per_address=2, proxies=["10.0.0.9"])  # type: ignore[arg-type]
    for _ in range(5):
        proxied.call("10.0.0.9")
    assert len(proxied.connections) == 5
    for one in callers.sockets + proxied.sockets:
        one.close()
    assert len(proxied.connections) == len(callers.connections) == 0, "closed ones do not count"
    assert not proxied.connections._counts
