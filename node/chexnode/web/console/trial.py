"""The page on which a file is tried: see :mod:`chexnode.web.dry_run`."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from chexnode.node import Node
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.roles import Role
from chexnode.web.console.pages import HEADERS, Pages
from chexnode.web.console.visitor import Turned, Visitor, check_origin, visiting
from chexnode.web.dry_run import DryRuns, NotTried


def router(node: Node, pages: Pages, dry_runs: DryRuns) -> APIRouter:
    """The page, and where its file goes."""
    routes = APIRouter()
    operating = Depends(visiting(node.trail, Role.OPERATOR))

    @routes.get("/try")
    def page(request: Request, visitor: Visitor = operating) -> Response:
        return pages.page(request, visitor, "try", model=node.spec.model)

    @routes.post("/try")
    async def try_file(request: Request, visitor: Visitor = operating) -> Response:
        await run_in_threadpool(check_origin, request, {})
        address = request.client.host if request.client else ""
        try:
            report, recipients = await dry_runs.run(request.stream(), visitor.name, address)
        except NotTried as error:
            raise Turned(error.status, f"turned.{error.cause}", why=plain(error)) from error
        values = {"report": report, "recipients": recipients}
        html = await run_in_threadpool(pages.html, request, visitor, "_try.html", **values)
        return Response(html, 200, HEADERS, "text/html; charset=utf-8")

    return routes
