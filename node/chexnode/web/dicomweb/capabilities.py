"""Retrieve Capabilities (PS3.18 section 8.9): what the service offers, as WADL; and which methods a path takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.sax.saxutils import quoteattr

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from chexnode.web.dicomweb.places import base_of

WADL = "application/vnd.sun.wadl+xml"


def routes(offered: Sequence[APIRoute], root: str) -> APIRouter:
    """OPTIONS on ``root`` and on each path of ``offered``, whose paths are below it."""
    router = APIRouter(prefix=root)

    @router.options("")
    def capabilities(request: Request) -> Response:
        """What the service offers, as WADL (Retrieve Capabilities)."""
        return Response(_wadl(offered, base_of(request)), 200, {"Allow": "OPTIONS"}, WADL)

    for path in dict.fromkeys(route.path for route in offered):
        methods = {method for route in offered if route.path == path for method in route.methods or ()}
        router.add_api_route(path, _telling({*methods, "OPTIONS"}), methods=["OPTIONS"], include_in_schema=False)
    return router


def _telling(methods: set[str]) -> Callable[[], Response]:
    def allowed() -> Response:
        return Response(None, 204, {"Allow": ", ".join(sorted(methods))})

    return allowed


def _wadl(offered: Sequence[APIRoute], base: str) -> str:
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<application xmlns="http://wadl.dev.java.net/2009/02">']
    lines.append(f"<resources base={quoteattr(base)}>")
    for route in offered:
        kinds = "".join(
            f"<representation mediaType={quoteattr(kind)}/>" for kind in route.responses.get(200, {}).get("content", {})
        )
        for method in sorted(route.methods or ()):
            name = f"<method name={quoteattr(method)} id={quoteattr(route.name)}>"
            path = quoteattr(route.path.lstrip("/"))
            lines.append(f"<resource path={path}>{name}<response>{kinds}</response></method></resource>")
    return "\n".join([*lines, "</resources>", "</application>", ""])
