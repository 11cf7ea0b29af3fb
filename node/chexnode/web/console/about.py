"""What this node is: its model's card, its effective settings, and who may sign in; read only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from chexmodels.bundle import find, read_card
from chexnode.node import Node
from chexnode.settings.keys import flat
from chexnode.vocabulary.roles import Role
from chexnode.web.console.pages import Pages
from chexnode.web.console.visitor import Visitor, visiting


def router(node: Node, pages: Pages) -> APIRouter:
    """The one page."""
    routes = APIRouter()
    looking = Depends(visiting(node.trail))

    @routes.get("/node")
    def about(request: Request, visitor: Visitor = looking) -> Response:
        folder = find(node.settings.model.bundle)
        card = folder / "card.md"
        values: dict[str, Any] = {
            "card": read_card(folder),
            "card_text": card.read_text("utf-8", "replace") if card.is_file() else "",
            "digest": node.spec.model_digest,
            "settings": flat(node.settings) if visitor.may(Role.ADMIN) else [],
            "users": node.ledger.users.list() if visitor.may(Role.ADMIN) else [],
        }
        return pages.page(request, visitor, "node", **values)

    return routes
