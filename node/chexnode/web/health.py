"""``/health/live`` and ``/health/ready``: is the process there, and could the node do its work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from chexnode.ledger.migrate import check_schema
from chexnode.node import BEAT_SECONDS, Node
from chexnode.spool import identity
from chexnode.vocabulary.errors import BadEnvironment, NodeError, Transient
from chexnode.vocabulary.reports import Check
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web.auth import Doorkeeper

_THREADS = 4


def router(node: Node) -> APIRouter:
    """The two routes."""
    routes = APIRouter(prefix="/health", tags=["health"])
    ledger, data_dir = node.ledger, node.settings.node.data_dir
    # Read once: from then on a share that goes away, or another in its place, is seen without a write.
    name = identity.prove(data_dir, ledger.files)

    # Threads of their own: whoever takes all the others cannot make the node look dead.
    threads = CapacityLimiter(_THREADS)

    @routes.get("/live")
    async def live() -> dict[str, str]:
        """200 as long as the process answers."""
        return {"status": "live"}

    @routes.get("/ready", response_model=list[Check], responses={503: {"model": list[Check]}})
    async def ready(request: Request) -> Response:
        """200 if the database has this release's schema and data_dir can be written, else 503.

        Whether a receiver, workers and deliverers live is told too, and changes no status: what is stored over HTTP
        waits for them.
        Open to everybody, as whoever restarts us needs it; the details only to who may read.
        """
        return await to_thread.run_sync(look, request, limiter=threads)

    def look(request: Request) -> Response:
        checks = [
            _check("database", lambda: check_schema(ledger.database), "schema is current"),
            _check("data_dir", lambda: probe_folder(data_dir, name), "writable"),
        ]
        # A database that is away takes seconds to say so: it is not asked again for what cannot be known then.
        is_there = not isinstance(checks[0], _Away)
        checks += _duties(node) if is_there else []
        if not (is_there and _may_read(request)):
            checks = [replace(check, detail="") for check in checks]
        code = 200 if all(check.ok for check in checks[:2]) else 503
        return Response(to_json(checks), code, media_type="application/json")

    return routes


def _duties(node: Node) -> list[Check]:
    try:
        duties = node.duties()
    except Transient:
        return []
    words = {True: "alive", False: f"no sign of life for {3 * BEAT_SECONDS:g} s"}
    return [Check(duty, alive, words[alive]) for duty, alive in duties.items()]


def probe_folder(data_dir: Path, name: str) -> None:
    """Raise BadEnvironment unless ``data_dir`` is the folder called ``name`` and takes a file."""
    if identity.name_of(data_dir) != name:
        raise BadEnvironment("this is not the folder the database knows: is the share mounted?")
    try:
        with tempfile.TemporaryFile(dir=data_dir) as file:
            file.write(b"ready?")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadEnvironment(f"not writable: {error.strerror}") from error


def _may_read(request: Request) -> bool:
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    try:
        return doorkeeper.allows(request, TokenScope.READ)
    except Transient:
        return False


class _Away(Check):
    """Of something that does not answer now."""


def _check(name: str, action: Callable[[], None], well: str) -> Check:
    try:
        action()
    except Transient as error:
        return _Away(name, False, str(error))
    except NodeError as error:
        return Check(name, False, str(error))
    return Check(name, True, well)
