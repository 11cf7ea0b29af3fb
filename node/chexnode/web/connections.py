"""TCP connections of the web role: how many one address may have, and how long one may be silent.

The HTTP server ends connections that rest between two requests and nothing else: one that never sends a whole header,
or never finishes its TLS handshake, would stay for ever. So connections are counted where they are accepted, before
TLS and before any parsing, and each is known by its peer's address and port. Event loop only, not thread safe.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chexnode.settings.web import WebSettings
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.web.addresses import is_inside, networks, subscriber

_SPARE = 16
"""Connections above ``web.max_connections``, so that a busy node can still be asked for its health."""
_SWEEP_SECONDS = 0.5
_AT_ONCE = 4
"""Connections accepted before what the others have sent is read: none is ended as silent before it could be heard."""

Peer = tuple[str, int]


class Connection(socket.socket):
    """One accepted connection; told to ``connections`` when it is closed."""

    connections: Connections
    peer: Peer

    def close(self) -> None:
        """Close it and let it no longer count."""
        self.connections.forget(self)
        super().close()

    def has_unread(self) -> bool:
        """Whether something has come that nobody has read yet."""
        try:
            return bool(self.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def hang_up(self) -> None:
        """End it from any state, a TLS handshake or an unread answer included; the event loop then closes it."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class Connections:
    """Those that are open. One that is busy has a request under way; the others wait for one, longest first."""

    def __init__(self, settings: WebSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._most_of_one = settings.max_connections, settings.max_connections_per_address
        self._header_seconds, self._idle_seconds = settings.header_seconds, settings.idle_seconds
        self._proxies, self._clock = networks(settings.proxies), clock
        self._open: dict[Peer, Connection] = {}
        self._waiting: OrderedDict[Peer, float] = OrderedDict()
        """Peer -> when its connection is ended unless a whole header has come."""
        self._counts: Counter[str] = Counter()
        self.requests = 0
        """Under way."""

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, if need be in place of the one that waited longest; False where there is no room.

        An address that has all it may have makes room among its own, and proxies of ours may have as many as there are.
        """
        who = subscriber(connection.peer[0])
        if self._counts[who] >= self._most_of_one and not is_inside(connection.peer[0], self._proxies):
            if not self._make_room(who):
                return False
        elif len(self._open) >= self._most and not self._make_room(None) and len(self._open) >= self._most + _SPARE:
            return False
        self._open[connection.peer] = connection
        self._counts[who] += 1
        self._waiting[connection.peer] = self._clock() + self._header_seconds
        return True

    def _make_room(self, who: str | None) -> bool:
        """End the connection, of ``who`` or of anybody, that is silent for longest; False if none is."""
        peers = (peer for peer in self._waiting if who is None or subscriber(peer[0]) == who)
        peer = next((peer for peer in peers if not self._open[peer].has_unread()), None)
        if peer is None:
            return False
        self._end(peer)
        return True

    def _end(self, peer: Peer) -> None:
        connection = self._open[peer]
        self.forget(connection)
        connection.hang_up()

    def forget(self, connection: Connection) -> None:
        """It is closed, or about to be."""
        peer = connection.peer
        if self._open.get(peer) is connection:
            del self._open[peer]
            self._waiting.pop(peer, None)
            who = subscriber(peer[0])
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]

    def begin(self, peer: Peer) -> None:
        """A request of this peer's is under way."""
        self.requests += 1
        self._waiting.pop(peer, None)

    def end(self, peer: Peer) -> None:
        """It is answered; the answer may still be on its way to a slow reader."""
        self.requests -= 1
        if peer in self._open:
            self._waiting[peer] = self._clock() + max(self._idle_seconds, self._header_seconds)

    def sweep(self) -> None:
        """End every connection that has waited too long."""
        now = self._clock()
        for peer in [peer for peer, until in self._waiting.items() if until <= now]:
            self._end(peer)

    async def keep_sweeping(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sweep()


class Listener(socket.socket):
    """A listening socket whose connections are admitted by :class:`Connections`."""

    connections: Connections
    _left = _AT_ONCE

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept one connection and return it with the caller's address.

        Raises what event loops pass over: BlockingIOError where others have their turn first, and
        ConnectionAbortedError where there is no room.
        """
        if self._left == 0:
            self._left = _AT_ONCE
            raise BlockingIOError
        accepted, address = super().accept()
        self._left -= 1
        connection = Connection(accepted.family, accepted.type, accepted.proto, accepted.detach())
        connection.connections, connection.peer = self.connections, (str(address[0]), int(address[1]))
        if not self.connections.admit(connection):
            connection.close()
            raise ConnectionAbortedError
        return connection, address


def listen(host: str, port: int, connections: Connections) -> Listener:
    """Bind ``host`` and ``port``, 0 for a free one. Raises BadEnvironment."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = Listener(family, kind, proto)
    except OSError as error:
        raise BadEnvironment(f"cannot listen on {host}:{port} (web.port): {error.strerror}") from error
    listener.connections = connections
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise BadEnvironment(f"cannot listen on {host}:{port} (web.port): {error.strerror}") from error
    return listener


class Tracked:
    """ASGI middleware, before all others: knows which connections have a request under way, and refuses what is too
    many at once, but never a question after the node's health."""

    def __init__(self, app: ASGIApp, connections: Connections, most: int) -> None:
        self._app, self._connections, self._most = app, connections, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer: Sequence[Any] = scope.get("client") or ("", 0)
        key = (str(peer[0]), int(peer[1]))
        self._connections.begin(key)
        try:
            if self._connections.requests > self._most and not scope["path"].startswith("/health/"):
                refusal = JSONResponse({"detail": "too many requests at once"}, 503, headers={"Retry-After": "5"})
                await refusal(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._connections.end(key)
