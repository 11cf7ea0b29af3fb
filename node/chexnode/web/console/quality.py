"""How the models do here: two of them compared on the same images, and whether images or answers drift away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from chexnode.ledger.drift import FRESH_SECONDS, DriftWindow
from chexnode.node import Node
from chexnode.operate.compare import compare
from chexnode.vocabulary import filters
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.reports import DailyFigures
from chexnode.web.access import access
from chexnode.web.console.pages import Pages
from chexnode.web.console.plots import Column, Polyline, columns, over_time
from chexnode.web.console.visitor import Turned, Visitor, visiting

DAYS = 30
_MOST_DISCORDANT = 50


@dataclass(frozen=True, slots=True)
class Days:
    """What the plots of one model show, day by day."""

    days: tuple[str, ...]
    images: tuple[Column, ...]
    counts: tuple[int, ...]
    abnormal: Polyline
    """Share of the images with an answer, 0 to 1."""
    others: dict[str, Polyline]
    """Mean area of the regions, brightness and contrast, each from its lowest to its highest."""


def router(node: Node, pages: Pages) -> APIRouter:
    """The pages."""
    routes = APIRouter(prefix="/node")
    looking = Depends(visiting(node.trail))
    drifts, drift = node.ledger.drifts, node.settings.drift

    @routes.get("/compare")
    def comparison(
        request: Request, a: str = "", b: str = "", since: str = "", until: str = "", visitor: Visitor = looking
    ) -> Response:
        names = list(node.offered)
        a, b = a or names[0], b or (names[1] if len(names) > 1 else "")
        found = None
        try:
            if b:
                wanted = filters.given(None, None, None, since or None, until or None)
                found = compare(node, a, b, wanted, lambda _: None)
        except Usage as error:
            raise Turned(400, "turned.search", why=plain(error)) from error
        if found is not None and found.discordant and visitor.sees_patients:
            access().is_search = True
        values: dict[str, Any] = {"names": names, "a": a, "b": b, "since": since, "until": until, "found": found}
        return pages.page(request, visitor, "compare", most=_MOST_DISCORDANT, **values)

    @routes.get("/drift")
    def drift_page(request: Request, of: str = "", visitor: Visitor = looking) -> Response:
        now = node.ledger.clock()
        figures = drifts.daily(now - timedelta(days=DAYS), now + timedelta(seconds=1), FRESH_SECONDS)
        groups = sorted({(line.station or "", line.calling_ae_title or "") for line in figures})
        model = node.spec.model
        mine = [line for line in figures if line.model == model and (not of or _group(line) == of)]
        values: dict[str, Any] = {
            "model": model,
            "groups": [f"{station}|{caller}" for station, caller in groups],
            "of": of,
            "baseline": drifts.baseline(),
            "lines": drifts.look(DriftWindow(drift.days, drift.images, drift.psi), FRESH_SECONDS),
            "days": by_day(mine, now.date()) if mine else None,
        }
        return pages.page(request, visitor, "drift", **values)

    return routes


def _group(line: DailyFigures) -> str:
    return f"{line.station or ''}|{line.calling_ae_title or ''}"


def by_day(figures: Sequence[DailyFigures], today: date) -> Days:
    """The figures of the last days, of all stations and callers together, a mean weighing each by its images."""
    days = tuple(str(today - timedelta(days=n)) for n in reversed(range(DAYS)))
    of: dict[str, list[DailyFigures]] = defaultdict(list)
    for line in figures:
        of[line.day].append(line)
    counts = tuple(sum(line.images for line in of[day]) for day in days)
    share = [_mean([(line.abnormal, line.images) for line in of[day]]) for day in days]
    others = {
        name: over_time([_mean([(getattr(line, name), line.images) for line in of[day]]) for day in days])
        for name in ("area", "brightness", "contrast")
    }
    return Days(days, columns(counts), counts, over_time(share, 0.0, 1.0), others)


def _mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None and weight]
    return sum(value * weight for value, weight in known) / sum(w for _, w in known) if known else None
