"""What was given up, by destination and error, and what waits; and sending it again."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from chexnode.node import Node
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.roles import Role
from chexnode.web.actions import Acts
from chexnode.web.console.overview import stream
from chexnode.web.console.pages import HEADERS, ROOT, Pages
from chexnode.web.console.snapshot import Snapshots
from chexnode.web.console.visitor import Turned, Visitor, form_of, inside, visiting
from chexnode.web.destinations import pause, resume

_ACTS = {"pause": pause, "resume": resume}


def router(node: Node, pages: Pages, snapshots: Snapshots, acts: Acts) -> APIRouter:
    """The two pages, and the acts."""
    routes = APIRouter()
    ledger, trail = node.ledger, node.trail
    stays = visiting(trail, is_active=False)
    looking, staying, operating = Depends(visiting(trail)), Depends(stays), Depends(visiting(trail, Role.OPERATOR))
    names = [destination.name for destination in node.settings.destination]

    def of_deliveries(visitor: Visitor) -> dict[str, Any]:
        groups = ledger.work.dead(with_comments=visitor.sees_patients)
        return {"groups": groups, "names": names, "destinations": ledger.overviews.destinations(names)}

    @routes.get("/deliveries")
    def deliveries(request: Request, visitor: Visitor = looking) -> Response:
        return pages.page(request, visitor, "deliveries", **of_deliveries(visitor))

    @routes.get("/queue")
    def queue(request: Request, visitor: Visitor = looking) -> Response:
        return pages.page(request, visitor, "queue", jobs=ledger.work.queue())

    @routes.get("/live/queue")
    async def live_queue(request: Request, visitor: Visitor = staying) -> Response:
        part = partial(pages.html, request, visitor, "_queue.html")
        return stream(node, lambda: part(jobs=ledger.work.queue()), lambda: stays(request))

    @routes.get("/live/deliveries")
    async def live_deliveries(request: Request, visitor: Visitor = staying) -> Response:
        part = partial(pages.html, request, visitor, "_deliveries.html")
        return stream(node, lambda: part(**of_deliveries(visitor)), lambda: stays(request))

    @routes.post("/deliveries/replay")
    async def replay(request: Request, visitor: Visitor = operating) -> Response:
        fields = await form_of(request)
        await run_in_threadpool(send_again, request, fields, visitor)
        return RedirectResponse(f"{request.scope.get('root_path', '')}{ROOT}/deliveries", 303, HEADERS)

    @routes.post("/destinations/{act}")
    async def pause_or_resume(request: Request, act: str, visitor: Visitor = operating) -> Response:
        fields = await form_of(request)
        name = fields.get("destination", "")
        if act not in _ACTS or name not in names:
            raise Turned(404, "turned.no_destination")
        await run_in_threadpool(_ACTS[act], node, name, visitor.who(request))
        snapshots.forget()
        return RedirectResponse(inside(request, fields.get("to", f"{ROOT}/deliveries")), 303, HEADERS)

    def send_again(request: Request, fields: dict[str, str], visitor: Visitor) -> None:
        """One group; all of a destination; or everything that was given up."""
        destination, who = fields.get("destination") or None, visitor.who(request)
        try:
            if "error" in fields and destination is not None:
                acts.replay_group(destination, fields["error"], who)
            else:
                acts.replay_dead(destination, who)
        except Usage as error:
            raise Turned(409, "turned.refused", why=plain(error)) from error
        snapshots.forget()

    return routes
