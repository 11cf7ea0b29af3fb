"""``/api/destinations/...``: what has a destination sent nothing for a while, and sent to again. Each is idempotent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request

from chexnode.node import Node
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web.actions import Who, ours, who_asks
from chexnode.web.api import known
from chexnode.web.auth import require

Name = Annotated[str, Path(description="The destination's name in the settings.")]


@dataclass(frozen=True, slots=True)
class Paused:
    """What became of a destination."""

    destination: str
    paused: bool
    changed: bool
    """False where it was as asked for already."""
    waiting: int
    """Deliveries that waited and go out now."""


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": asdict(Paused("pacs", True, True, 0))}}},
    404: {"description": "There is no such destination."},
}


def router(node: Node) -> APIRouter:
    """The routes."""
    needs = [Depends(require(TokenScope.ADMIN)), Depends(ours), Depends(known)]
    routes = APIRouter(prefix="/api/destinations", tags=["acts"], dependencies=needs)
    names = {destination.name for destination in node.settings.destination}

    @routes.post("/{name}/pause", responses=_RESPONSES)
    def pause_it(request: Request, name: Name) -> Paused:
        """Send nothing more to a destination, as `chexnode destinations pause`."""
        check(name)
        return pause(node, name, who_asks(request))

    @routes.post("/{name}/resume", responses=_RESPONSES)
    def resume_it(request: Request, name: Name) -> Paused:
        """Send to a paused destination again, as `chexnode destinations resume`."""
        check(name)
        return resume(node, name, who_asks(request))

    def check(name: str) -> None:
        if name not in names:
            raise HTTPException(404, f"no destination is called {name!r}")

    return routes


def pause(node: Node, name: str, who: Who) -> Paused:
    """Send nothing more to ``name``, and record who wanted it."""
    changed = node.ledger.destinations.pause(name)
    if changed:
        node.trail.acted(who.name, who.address, f"destination {name} paused")
    return Paused(name, True, changed, 0)


def resume(node: Node, name: str, who: Who) -> Paused:
    """Send to ``name`` again, and record who wanted it."""
    try:
        waiting = node.ledger.destinations.resume(name)
    except Usage:
        return Paused(name, False, False, 0)
    node.bell.ring("deliver", name)
    node.trail.acted(who.name, who.address, f"destination {name} resumed")
    return Paused(name, False, True, waiting)
