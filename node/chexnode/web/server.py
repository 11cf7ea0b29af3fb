"""The HTTP server around the application: uvicorn, with the limits on connections that it has not."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from chexnode.settings.tree import Settings
from chexnode.tls import server_context
from chexnode.web.connections import Connections, Listener, Tracked, listen

GRACE_SECONDS = 5
"""How long requests under way may take when the server is asked to end."""

_SWITCH_SECONDS = 0.001
"""Between two threads that compute: the event loop is one of them, and waits for its turn at every connection."""

_READ = 1 << 20
"""Bytes taken from a connection at once, where so many are there. asyncio takes a quarter of it, and each time wakes
whoever reads the body."""

_PIECES, _MOST_KEPT = 4 << 20, 16 << 20
"""Allocations up to this come from memory that was used before, of which this much is kept at the end of a heap."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


class _Protocol(H11Protocol):
    """HTTP on one connection, a large body of which comes in few pieces."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a new connection."""
        transport.max_size = _READ  # type: ignore[attr-defined]  # of asyncio's own transports; others know none
        super().connection_made(transport)


class Server(uvicorn.Server):
    """Serves ``app`` on web.host and web.port, which are bound at once. Raises BadEnvironment.

    ``on_signal`` is called when a signal asks it to end.
    """

    def __init__(self, app: ASGIApp, settings: Settings, on_signal: Callable[[], None]) -> None:
        self._on_signal = on_signal
        self.connections = Connections(settings.web)
        self.listener: Listener = listen(settings.web.host, settings.web.port, self.connections)
        # Browsers have no certificate of ours to show; who they are is asked elsewhere.
        tls = settings.tls.model_copy(update={"require_certificate": False})
        super().__init__(
            uvicorn.Config(
                Tracked(app, self.connections, settings.web.max_connections),
                loop="asyncio",  # others do not accept through our socket
                http=_Protocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # web.proxies says whom to believe
                timeout_graceful_shutdown=GRACE_SECONDS,
                ssl_context_factory=(lambda *_: server_context(tls)) if tls.web else None,
            )
        )

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.listener.getsockname()[1])

    def serve_until_stopped(self) -> None:
        """Serve until a signal, or :attr:`should_exit`, ends it."""
        self.run(sockets=[self.listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Have ``on_signal`` know of the signal, then end as uvicorn does."""
        self._on_signal()
        super().handle_exit(sig, frame)

    async def main_loop(self) -> None:
        """Serve as uvicorn does, and close connections that stay idle meanwhile."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        _reuse_memory()
        # What is there from the start stays: going through all of it again and again, for an answer of hundreds of
        # files many times, finds nothing.
        gc.collect()
        gc.freeze()
        sweeping = asyncio.create_task(self.connections.keep_sweeping())
        try:
            await super().main_loop()
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping


def _reuse_memory() -> None:
    """Have the C library give the pieces of a body memory that is there already.

    glibc maps each large one anew and gives it back at once, and the kernel clears every page of it when it is
    touched: a third of the processor time that storing 10 MB took. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _PIECES)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
