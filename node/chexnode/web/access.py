"""Requests as the audit trail records them (PS3.15 A.5): who came, what was searched, whose objects went out or in.

Whoever handles a request notes what it does in :func:`access`; when the answer has gone out, one message records it, or
one for each study of what was stored. An answer of DICOM files is DICOM Instances Transferred; metadata, frames and
pictures are DICOM Instances Accessed, because something of the instances was seen and none was handed over.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chexnode.audit.trail import Trail
from chexnode.audit.transfers import Transfers
from chexnode.ledger.objects import StoredObject


@dataclass(slots=True)
class Access:
    """One request. Written by the threads that answer it, one after the other."""

    address: str
    user: str = ""
    """The name of its token."""
    is_search: bool = False
    opened: dict[str, StoredObject] = field(default_factory=dict)
    """SOP Instance UID -> the object, of what was read for the answer."""
    stored: Transfers = field(default_factory=Transfers)


_current: ContextVar[Access | None] = ContextVar("access", default=None)


def access() -> Access:
    """The request that is being answered; outside of one, or where nobody wants to know, one that is forgotten."""
    return _current.get() or Access("")


def note_opened(entry: StoredObject) -> None:
    """``entry`` is read for the answer."""
    if (seen := _current.get()) is not None:
        seen.opened[entry.sop_instance_uid] = entry


class Audited:
    """ASGI middleware: has ``trail`` record every access when it is over."""

    def __init__(self, app: ASGIApp, trail: Trail) -> None:
        self._app, self._trail = app, trail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record its access in the audit trail once it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        answer = _Answer(send)
        seen = Access(client[0] if client else "")
        token = _current.set(seen)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            _current.reset(token)
            if seen.is_search or seen.opened or seen.stored:
                with CancelScope(shield=True):
                    await run_in_threadpool(self._record, scope, seen, answer)

    def _record(self, scope: Scope, seen: Access, answer: _Answer) -> None:
        self._trail.stored_by(seen.user, seen.address, seen.stored)
        if seen.is_search:
            path, parameters = scope["path"], scope["query_string"]
            self._trail.searched(seen.user, seen.address, path, parameters, understood=answer.status < 400)
        if seen.opened and answer.has_begun and answer.status < 300:
            got = Transfers()
            for entry in seen.opened.values():
                got.add(entry.subject, entry.sop_class_uid, None)
            self._trail.retrieved(seen.user, seen.address, got, whole=answer.is_files, complete=answer.is_over)


class _Answer:
    """Watches what goes out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500
        self.is_files = self.has_begun = self.is_over = False

    async def send(self, message: Message) -> None:
        """Pass on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kind = next((value for name, value in message["headers"] if name.lower() == b"content-type"), b"")
            self.is_files = kind.startswith(b"application/dicom;") or b'type="application/dicom"' in kind
            self.is_files = self.is_files or kind == b"application/dicom"
        else:
            self.has_begun = True
        await self._send(message)  # raises once the headers are out where no more is wanted: HEAD
        self.is_over = message["type"] == "http.response.body" and not message.get("more_body", False)
