"""HEAD wherever there is GET (RFC 9110 section 9.3.2): the same answer without its body, and without making it."""

from __future__ import annotations

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Told(Exception):
    """All that is wanted has gone out."""


class Head:
    """ASGI middleware: a HEAD request is handled as GET until its headers are there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                raise _Told

        # Ranges are for GET alone (section 14.2).
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"range"]
        with suppress(_Told):
            await self._app({**scope, "method": "GET", "headers": headers}, receive, headers_only)
