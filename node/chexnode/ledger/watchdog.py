"""A PostgreSQL server that no longer answers, though its machine still acknowledges: frozen, or behind a black hole.

No time-out of the server's own helps then, and the driver waits for ever. Whoever waits longer than a moment has the
server asked for a new connection; if that fails, the waiting connections are cut, and their callers get Transient.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError, TimeoutError

PATIENCE_SECONDS = 1.0
"""A statement that takes longer has the server looked at."""
_LOOK_SECONDS = 0.25


class Watchdog:
    """Watches every statement and commit on ``engine``; ``probe`` opens a connection, or raises, within two seconds."""

    def __init__(self, engine: Engine, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._waiting: dict[int, tuple[Any, float]] = {}
        self._changed = threading.Condition()
        self._silent_until = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        event.listen(engine, "before_cursor_execute", lambda conn, *_: self._begin(conn.connection.driver_connection))
        event.listen(engine, "after_cursor_execute", lambda conn, *_: self._end(conn.connection.driver_connection))
        event.listen(engine, "handle_error", self._failed)
        event.listen(engine, "commit", lambda conn: self._begin(conn.connection.driver_connection))
        event.listen(engine.pool, "checkin", lambda connection, _: self._end(connection))
        event.listen(engine.pool, "checkout", self._checkout)

    def stop(self) -> None:
        """Watch no more; the thread ends."""
        with self._changed:
            self._stop.set()
            self._changed.notify()

    def _begin(self, connection: Any) -> None:
        with self._changed:
            self._waiting[id(connection)] = connection, time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="database-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _end(self, connection: Any) -> None:
        with self._changed:
            self._waiting.pop(id(connection), None)

    def _failed(self, context: Any) -> None:
        if context.connection is not None and not context.connection.invalidated:
            self._end(context.connection.connection.driver_connection)

    def _checkout(self, connection: Any, *_: Any) -> None:
        """Instead of the pool's own ping, which nobody would watch."""
        self._begin(connection)
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            if time.monotonic() < self._silent_until:  # a new connection would not come either
                raise TimeoutError("the server does not answer") from error
            raise DisconnectionError from error
        finally:
            self._end(connection)

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stop.is_set())
            if not self._late():
                continue
            try:
                self._probe()
                self._silent_until = 0.0
                self._stop.wait(PATIENCE_SECONDS)  # it is only slow
            except Exception:
                self._silent_until = time.monotonic() + PATIENCE_SECONDS
                for connection in self._late():
                    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as wire:
                        wire.shutdown(socket.SHUT_RDWR)

    def _late(self) -> list[Any]:
        limit = time.monotonic() - PATIENCE_SECONDS
        with self._changed:
            return [connection for connection, since in self._waiting.values() if since < limit]
