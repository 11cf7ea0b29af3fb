"""``/api/...``: what changes the node's work, for a token with the admin scope, each in the audit trail."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from pydantic import BaseModel

from chexnode.node import Node
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.scopes import Scope
from chexnode.web.access import access
from chexnode.web.api import known
from chexnode.web.auth import require

Name = Annotated[str, Path(description="The destination's name in the settings.")]

_SAME = frozenset({"same-origin", "none"})
_UNKNOWN: dict[int | str, dict[str, object]] = {
    404: {"description": "There is no such destination."},
    409: {"description": "It is not paused."},
}


class Paused(BaseModel):
    """A destination to which nothing is sent now."""

    paused: str


class Resumed(BaseModel):
    """A destination to which is sent again."""

    resumed: str
    waiting: int
    """Deliveries that waited."""


def ours(request: Request) -> None:
    """Refuse what a page of another site has a browser send: where no token is needed, nothing else would."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and origin.partition("://")[2] != host
    if foreign or request.headers.get("sec-fetch-site", "none") not in _SAME:
        raise HTTPException(403, "a page of another site may not ask for this")


def router(node: Node) -> APIRouter:
    """The routes."""
    routes = APIRouter(
        prefix="/api", tags=["acts"], dependencies=[Depends(require(Scope.ADMIN)), Depends(ours), Depends(known)]
    )
    names = {destination.name for destination in node.settings.destination}

    @routes.post("/destinations/{name}/pause", responses=_UNKNOWN)
    def pause(request: Request, name: Name) -> Paused:
        """Send nothing more to a destination, as `chexnode destinations pause`."""
        if name not in names:
            raise HTTPException(404, f"no destination is called {name!r}")
        node.ledger.destinations.pause(name)
        act(node, request, f"destination {name} paused")
        return Paused(paused=name)

    @routes.post("/destinations/{name}/resume", responses=_UNKNOWN)
    def resume(request: Request, name: Name) -> Resumed:
        """Send to a paused destination again, as `chexnode destinations resume`."""
        try:
            waiting = node.ledger.destinations.resume(name)
        except Usage as error:
            raise HTTPException(409 if name in names else 404, str(error)) from error
        node.bell.ring("deliver", name)
        act(node, request, f"destination {name} resumed")
        return Resumed(resumed=name, waiting=waiting)

    return routes


def act(node: Node, request: Request, what: str) -> None:
    """Record in the audit trail that the caller has changed the node's work."""
    node.trail.acted(access().user, request.client.host if request.client else "", what)
