"""What this node is: its models with their cards, its interfaces, its effective settings, and who may sign in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from chexmodels.bundle import BundleError, ModelCard, find, read_card
from chexnode.node import Node
from chexnode.settings.keys import flat
from chexnode.settings.model import ModelSettings
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.roles import Role
from chexnode.web.console import plots
from chexnode.web.console.markdown import html
from chexnode.web.console.pages import Pages
from chexnode.web.console.visitor import Turned, Visitor, visiting

_BINS = 20
_LONGEST_CARD = 60_000


@dataclass(frozen=True, slots=True)
class ShownModel:
    """A model of the settings."""

    settings: ModelSettings
    card: ModelCard | None
    """None where the bundle cannot be read."""
    text: str
    """Of the card, as Markdown."""
    why: str
    """Why it cannot be read."""


def router(node: Node, pages: Pages) -> APIRouter:
    """The pages."""
    routes = APIRouter(prefix="/node")
    looking, ruling = Depends(visiting(node.trail)), Depends(visiting(node.trail, Role.ADMIN))

    @cache
    def models() -> dict[str, ShownModel]:
        """By name, as they were when somebody looked first: a model is known by its digest and does not change."""
        return {one.name: _shown(one) for one in node.settings.models}

    @routes.get("")
    def about(request: Request, visitor: Visitor = looking) -> Response:
        users = node.ledger.users.list() if visitor.may(Role.ADMIN) else []
        return pages.page(request, visitor, "node", models=list(models().values()), users=users)

    @routes.get("/models/{name}")
    def model(request: Request, name: str, visitor: Visitor = looking) -> Response:
        chosen = models().get(name)
        if chosen is None:
            raise Turned(404, "turned.no_model")
        spec = node.offered.get(name)
        scores = node.ledger.overviews.scores(spec.model_digest, spec.settings_digest) if spec is not None else []
        values: dict[str, Any] = {"model": chosen, "card_html": html(chosen.text), "spec": spec} | _plotted(
            chosen, scores
        )
        return pages.page(request, visitor, "model", **values)

    @routes.get("/settings")
    def settings(request: Request, visitor: Visitor = ruling) -> Response:
        sections: dict[str, list[tuple[str, Any, str]]] = {}
        for key, value in flat(node.settings):
            sections.setdefault(key.partition(".")[0], []).append((key, value, node.settings.source_of(key)))
        return pages.page(request, visitor, "settings", sections=sections)

    return routes


def _shown(settings: ModelSettings) -> ShownModel:
    try:
        folder = find(settings.bundle)
        file = folder / "card.md"
        text = file.read_text("utf-8", "replace")[:_LONGEST_CARD] if file.is_file() else ""
        return ShownModel(settings, read_card(folder), text, "")
    except (BundleError, OSError) as error:
        return ShownModel(settings, None, "", plain(error))


def _plotted(model: ShownModel, scores: list[float]) -> dict[str, Any]:
    """Of the plots: the model's figures on validation, and what it answered here."""
    bins = [0] * _BINS
    for score in scores:
        bins[min(_BINS - 1, max(0, int(score * _BINS)))] += 1
    card = model.card
    point = card.operating_points.get(model.settings.operating_point) if card is not None else None
    return {
        "calibration": plots.calibration(card.calibration) if card is not None else "",
        "score_columns": plots.columns(bins) if scores else (),
        "score_count": len(scores),
        "line": None if point is None else round(point.image_threshold * plots.WIDTH, 1),
    }
