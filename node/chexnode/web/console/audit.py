"""A search in the audit trail: who looked at what, who did what, who was turned away."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from chexnode.audit.kept import KeptMessages
from chexnode.node import Node
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.roles import Role
from chexnode.web.access import access
from chexnode.web.console.pages import Pages
from chexnode.web.console.visitor import Turned, Visitor, visiting

_MOST = 200
_DAYS = 7


def router(node: Node, pages: Pages) -> APIRouter:
    """The page."""
    routes = APIRouter(prefix="/node")
    ruling = Depends(visiting(node.trail, Role.ADMIN))
    kept, settings = KeptMessages(node.settings.node.data_dir), node.settings.audit

    @routes.get("/audit")
    def audit(request: Request, q: str = "", since: str = "", until: str = "", visitor: Visitor = ruling) -> Response:
        today = node.ledger.clock().date()
        try:
            first = date.fromisoformat(since) if since else today - timedelta(days=_DAYS)
            last = date.fromisoformat(until) if until else today
        except ValueError as error:
            raise Turned(400, "turned.search", why=plain(error)) from error
        access().is_search = True
        records = kept.search(q.strip()[:200], first, last, _MOST)
        values: dict[str, Any] = {"q": q, "since": str(first), "until": str(last), "records": records, "most": _MOST}
        is_kept = bool(settings.url and settings.keep_days)
        return pages.page(request, visitor, "audit", is_kept=is_kept, days=settings.keep_days, **values)

    return routes
