"""Retrieve Capabilities (PS3.18 section 8.9): what the service offers, as WADL in XML or JSON (annex H)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from chexnode.dicomweb.json_model import to_json
from chexnode.dicomweb.media_types import JSON
from chexnode.web.dicomweb.responses import NotAcceptable, accepted_by
from chexnode.web.dicomweb.routes import base_url

WADL = "application/vnd.sun.wadl+xml"
_ALLOW = {"Allow": "OPTIONS"}


def routes(offered: Sequence[APIRoute]) -> APIRouter:
    """OPTIONS on the root of the service, of the routes that are ``offered`` below it."""
    router = APIRouter()

    @router.options("", responses={200: {"content": {WADL: {}, JSON: {}}, "description": "The capabilities."}})
    def capabilities(request: Request) -> Response:
        """What the service offers, as WADL (Retrieve Capabilities)."""
        base, methods = base_url(request), _methods(offered)
        for one in accepted_by(request):
            if one.covers(WADL):
                return Response(_wadl(methods, base), 200, _ALLOW, WADL)
            if one.covers(JSON):
                return Response(to_json(_json(methods, base)), 200, _ALLOW, JSON)
        raise NotAcceptable(f"the capabilities are to be had as {WADL} or {JSON}")

    return router


@dataclass(frozen=True, slots=True)
class _Method:
    """One method of one path."""

    path: str
    name: str
    id: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]


def _methods(offered: Sequence[APIRoute]) -> list[_Method]:
    return [
        _Method(
            route.path,
            name,
            route.name,
            tuple((route.openapi_extra or {}).get("requestBody", {}).get("content", {})),
            tuple(route.responses.get(200, {}).get("content", {})),
        )
        for route in offered
        for name in sorted(route.methods or ())
    ]


def _wadl(methods: Sequence[_Method], base: str) -> str:
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<application xmlns="http://wadl.dev.java.net/2009/02">']
    lines.append(f"<resources base={quoteattr(base)}>")
    for one in methods:
        taken, given = (
            "".join(f"<representation mediaType={quoteattr(kind)}/>" for kind in kinds)
            for kinds in (one.takes, one.gives)
        )
        request = f"<request>{taken}</request>" if taken else ""
        method = f"<method name={quoteattr(one.name)} id={quoteattr(one.id)}>"
        content = f"{method}{request}<response>{given}</response></method>"
        lines.append(f"<resource path={quoteattr(one.path.lstrip('/'))}>{content}</resource>")
    return "\n".join([*lines, "</resources>", "</application>", ""])


def _json(methods: Sequence[_Method], base: str) -> dict[str, Any]:
    """WADL with its elements as objects and their attributes as ``@name`` (PS3.18 section H.2)."""

    def kinds(names: Sequence[str]) -> dict[str, Any]:
        return {"representation": [{"@mediaType": name} for name in names]}

    resources = [
        {
            "@path": one.path.lstrip("/"),
            "method": [{"@name": one.name, "@id": one.id, "request": kinds(one.takes), "response": kinds(one.gives)}],
        }
        for one in methods
    ]
    return {"application": {"resources": [{"@base": base, "resource": resources}]}}
