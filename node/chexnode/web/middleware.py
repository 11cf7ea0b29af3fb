"""What stands before every route: limits, known hosts and proxies, addresses made plain, security headers, HEAD."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote, unquote_plus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chexnode.settings.base import is_address
from chexnode.settings.web import WebSettings
from chexnode.web.addresses import is_inside, networks, subscriber

_BURST_SECONDS = 4.0
"""A viewer that opens a study asks for all of it at once."""

_MOST_ADDRESSES = 10_000

_PIECE, _MOST_PIECE = 1 << 18, 1 << 20
"""Bytes of an answer that are timed together: a caller who reads slowly is not one who does not read. Who takes one at
once is given more with the next, for each costs a turn."""
_AT_ONCE = 0.1
"""Seconds."""


T = TypeVar("T")


class Buckets:
    """A token bucket for each address, and bounded memory: the one that asked longest ago is forgotten first.

    An IPv6 caller is its /64, which is what one subscriber gets and can pick addresses from.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic, most: int = _MOST_ADDRESSES) -> None:
        self._rate, self._clock, self._most = rate, clock, most
        self._size = max(1.0, rate * _BURST_SECONDS)
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> float:
        """Take one token; return 0, or how many seconds to wait for one."""
        now, who = self._clock(), subscriber(address)
        level, since = self._levels.pop(who, (self._size, now))
        level = min(self._size, level + (now - since) * self._rate)
        enough = level >= 1
        self._levels[who] = (level - 1 if enough else level, now)
        while len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0 if enough else (1 - level) / self._rate


class Limits:
    """ASGI middleware: 429, 413 and 408, and an end to callers who neither send nor read."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        rate = settings.requests_per_second
        self._buckets = Buckets(rate) if rate else None
        self._settings, self._most_bytes = settings, settings.max_request_mb * 1_000_000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        if self._buckets is not None and (wait := self._buckets.take(client[0] if client else "")):
            refusal = _refusal(429, "too many requests", {"Retry-After": str(math.ceil(wait))})
        elif _length(scope) > self._most_bytes:
            refusal = _refusal(413, "the body is too large", {"Connection": "close"})
        else:
            await _Exchange(self._app, self._settings, scope, receive, send).run()
            return
        await refusal(scope, receive, send)


class _BodyFault(Exception):
    """Told as a status where the answer has not begun."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class _Pace:
    """Waits for one direction of an exchange: each wait ends in time, and all together keep up with a minimum rate."""

    def __init__(self, idle: float, rate: float) -> None:
        """``idle``: seconds that one wait may take, and all may fall behind ``rate``, in bytes a second."""
        self._idle, self._rate = idle, rate
        self._waited, self.count = 0.0, 0

    async def wait(self, action: Awaitable[T], turns: float = 1) -> T:
        """What ``action`` gives; only such waiting counts, not what the node itself needs. Raises TimeoutError.

        ``turns``: of how many pieces of the usual size it is, each of which may take its time.
        """
        left = self._idle + self.count / self._rate - self._waited
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.001, min(self._idle * turns, left))):
                return await action
        finally:
            self._waited += time.monotonic() - started


class _Exchange:
    """One request and its answer, counted and timed."""

    def __init__(self, app: ASGIApp, settings: WebSettings, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._most_bytes = app, settings.max_request_mb * 1_000_000
        self._scope, self._receive, self._send = scope, receive, send
        self._body_is_over, self._answered = False, False
        self._size = _PIECE
        """Bytes of the next piece."""
        self._fault: _BodyFault | None = None
        rate = settings.min_kb_per_second * 1000
        self._in, self._out = _Pace(settings.idle_seconds, rate), _Pace(settings.idle_seconds, rate)

    async def run(self) -> None:
        try:
            await self._app(self._scope, self._receiving, self._sending)
        except TimeoutError:
            if self._fault is None:  # the caller does not read its answer: hang up
                raise
        except _BodyFault:
            pass
        if self._fault is not None and not self._answered:
            refusal = _refusal(self._fault.status, str(self._fault), {"Connection": "close"})
            await refusal(self._scope, self._receive, self._send)

    async def _receiving(self) -> Message:
        if self._body_is_over:  # what comes now is the end of the connection, whenever that is
            return await self._receive()
        try:
            message = await self._in.wait(self._receive())
        except TimeoutError:
            self._fault = _BodyFault(408, "the body does not come, or too slowly")
            raise self._fault from None
        self._in.count += len(message.get("body", b""))
        self._body_is_over = not message.get("more_body", False)
        if self._in.count > self._most_bytes:
            self._fault = _BodyFault(413, "the body is too large")
            raise self._fault
        return message

    async def _sending(self, message: Message) -> None:
        self._answered = True
        if len(body := message.get("body", b"")) > 2 * self._size:  # what is not much more goes out without a copy
            left = memoryview(body)
            while len(left) > self._size:
                piece, left = left[: self._size], left[self._size :]
                await self._piece({"type": message["type"], "body": piece, "more_body": True})
            message = {**message, "body": left}
        await self._piece(message)

    async def _piece(self, message: Message) -> None:
        started = time.monotonic()
        size = len(message.get("body", b""))
        await self._out.wait(self._send(message), max(1, size / _PIECE))
        is_quick = time.monotonic() - started < _AT_ONCE
        self._size = min(2 * self._size, _MOST_PIECE) if is_quick else _PIECE
        self._out.count += size


def _length(scope: Scope) -> int:
    """Content-Length, 0 where it is not given; the server has refused one that is no number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _refusal(status: int, detail: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


#: C0 and C1 controls and DEL, NUL among them: no name, number or UID has one, and databases refuse some.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


class NoControls:
    """ASGI middleware: 400 for control characters in the path or the query, written as they are or percent-encoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            query = unquote_plus(scope["query_string"].decode("utf-8", "replace"))
            if _CONTROLS.search(scope["path"]) or _CONTROLS.search(query):
                await _refusal(400, "there are control characters in the address", {})(scope, receive, send)
                return
        await self._app(scope, receive, send)


class PlainPaths:
    """ASGI middleware: below ``root``, ``//`` is ``/`` and a slash at the end means nothing.

    DICOMweb clients put a base URL that ends in a slash and a path that begins with one together.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("//" in scope["path"] or scope["path"].endswith("/")):
            path = re.sub("/{2,}", "/", scope["path"]).rstrip("/")
            if path == self._root or path.startswith(f"{self._root}/"):
                scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        await self._app(scope, receive, send)


class BehindProxy:
    """ASGI middleware: what a proxy of ``proxies`` says of the request that it passes on is believed, nobody else's.

    X-Forwarded-For gives the caller's address, -Proto the scheme, -Host the name by which we were called, and -Prefix
    the path that the proxy took away from the beginning.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str]) -> None:
        """``proxies``: addresses and networks."""
        self._app, self._proxies = app, networks(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") and is_inside(scope["client"][0], self._proxies):
            scope = self._forwarded(scope)
        await self._app(scope, receive, send)

    def _forwarded(self, scope: Scope) -> Scope:
        headers, changed = Headers(scope=scope), dict(scope)
        # Each proxy adds whom it was called by at the end: the last who is none of ours is the caller.
        chain = [one.strip() for one in ",".join(headers.getlist("x-forwarded-for")).split(",") if one.strip()]
        caller = next((one for one in reversed(chain) if not is_inside(one, self._proxies)), None)
        if caller is not None and is_address(caller):
            changed["client"] = (caller, 0)
        if (scheme := _last(headers, "x-forwarded-proto")) in ("http", "https"):
            changed["scheme"] = scheme
        if re.fullmatch(r"[\w.:\[\]-]+", host := _last(headers, "x-forwarded-host"), re.ASCII):
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            changed["headers"] = [(b"host", host.encode("ascii")), *others]
        prefix = _last(headers, "x-forwarded-prefix").rstrip("/")
        if re.fullmatch(r"(/[\w.~%-]+)+", prefix, re.ASCII):
            changed["root_path"] = prefix
        return changed


def _last(headers: Headers, name: str) -> str:
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()


class KnownHosts:
    """ASGI middleware: 400 for a Host that is none of ``names``.

    A page of a stranger's, in a browser on this machine, could otherwise reach us under a name of its own choice.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = re.sub(r":\d*$", "", Headers(scope=scope).get("host", "")).lower().rstrip(".")
            if host not in self._names:
                await _refusal(400, "this node has no such name: web.names lists those that it has", {})(
                    scope, receive, send
                )
                return
        await self._app(scope, receive, send)


#: A route that serves pages sets its own policy; one that forgets to serves pages that can do nothing.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_YEAR = 31_536_000


class SecurityHeaders:
    """ASGI middleware: adds :data:`HEADERS` where a route has not set its own."""

    def __init__(self, app: ASGIApp, https: bool) -> None:
        self._app = app
        self._headers = HEADERS | ({"Strict-Transport-Security": f"max-age={_YEAR}"} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class _HeadersSent(Exception):
    """All that is wanted has gone out."""


class Head:
    """ASGI middleware: a HEAD request is handled as GET until its headers are there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                raise _HeadersSent

        # Ranges are for GET alone (section 14.2).
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"range"]
        with suppress(_HeadersSent):
            await self._app({**scope, "method": "GET", "headers": headers}, receive, headers_only)
