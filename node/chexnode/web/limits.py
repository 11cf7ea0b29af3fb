"""What one caller may take: requests a second, bytes in one body, time without a byte."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chexnode.settings.web import WebSettings

_BURST_SECONDS = 4.0
"""A viewer that opens a study asks for all of it at once."""

_MOST_ADDRESSES = 10_000

_PIECE = 1 << 18
"""Bytes of an answer that are timed together: a caller who reads slowly is not one who does not read."""


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
        now, who = self._clock(), _subscriber(address)
        level, since = self._levels.pop(who, (self._size, now))
        level = min(self._size, level + (now - since) * self._rate)
        enough = level >= 1
        self._levels[who] = (level - 1 if enough else level, now)
        while len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0 if enough else (1 - level) / self._rate


def _subscriber(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Limits:
    """ASGI middleware: 429, 413 and 408, and an end to callers who neither send nor read."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        rate = settings.requests_per_second
        self._buckets = Buckets(rate) if rate else None
        self._most_bytes = settings.max_request_mb * 1_000_000
        self._idle = settings.idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        if self._buckets is not None and (wait := self._buckets.take(client[0] if client else "")):
            refusal = _refusal(429, "too many requests", {"Retry-After": str(math.ceil(wait))})
        elif _length(scope) > self._most_bytes:
            refusal = _refusal(413, "the body is too large", {"Connection": "close"})
        else:
            await _Exchange(self._app, self._most_bytes, self._idle, scope, receive, send).run()
            return
        await refusal(scope, receive, send)


class _BodyFault(Exception):
    """Told as a status where the answer has not begun."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class _Exchange:
    """One request and its answer, counted and timed."""

    def __init__(self, app: ASGIApp, most_bytes: int, idle: float, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._most_bytes, self._idle = app, most_bytes, idle
        self._scope, self._receive, self._send = scope, receive, send
        self._got, self._body_is_over, self._answered = 0, False, False
        self._fault: _BodyFault | None = None

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
            message = await asyncio.wait_for(self._receive(), self._idle)
        except TimeoutError:
            self._fault = _BodyFault(408, f"nothing more of the body within {self._idle:g} s")
            raise self._fault from None
        self._got += len(message.get("body", b""))
        self._body_is_over = not message.get("more_body", False)
        if self._got > self._most_bytes:
            self._fault = _BodyFault(413, "the body is too large")
            raise self._fault
        return message

    async def _sending(self, message: Message) -> None:
        self._answered = True
        body = message.get("body", b"")
        sent = 0
        while len(body) - sent > _PIECE:
            piece = {"type": message["type"], "body": body[sent : sent + _PIECE], "more_body": True}
            await asyncio.wait_for(self._send(piece), self._idle)
            sent += _PIECE
        await asyncio.wait_for(self._send({**message, "body": body[sent:]} if sent else message), self._idle)


def _length(scope: Scope) -> int:
    """Content-Length, 0 where it is not given; the server has refused one that is no number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _refusal(status: int, detail: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)
