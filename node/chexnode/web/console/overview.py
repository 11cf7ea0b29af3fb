"""The overview: how the node does, live."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from chexnode.node import Node
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.states import InstanceState, JobState
from chexnode.web.console.lights import Light, lights
from chexnode.web.console.pages import HEADERS, Pages, words_of
from chexnode.web.console.snapshot import Snapshots
from chexnode.web.console.texts import Texts
from chexnode.web.console.visitor import Turned, Visitor, visiting

_EVERY_SECONDS = 2.0
_LONGEST = timedelta(minutes=10).total_seconds()
"""A stream ends after this; the browser asks again, and whether it still may is looked at anew."""

#: In the order of the bar.
_STATES = (
    JobState.DONE,
    JobState.DELIVERING,
    JobState.RUNNING,
    JobState.QUEUED,
    InstanceState.NOT_ANALYSED,
    JobState.SKIPPED,
    JobState.CANCELLED,
    JobState.REFUSED,
    InstanceState.QUARANTINED,
    JobState.FAILED,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of the bar of today's images."""

    state: str
    count: int
    x: float
    width: float
    """Of 1000."""


def router(node: Node, pages: Pages, snapshots: Snapshots) -> APIRouter:
    """The page and its stream."""
    routes = APIRouter()
    stays = visiting(node.trail, is_active=False)
    looking, staying = Depends(visiting(node.trail)), Depends(stays)
    names = {destination.name for destination in node.settings.destination}

    def values(request: Request) -> dict[str, Any]:
        look = snapshots.latest()
        words = words_of(request)
        three = lights(look)
        return {
            "look": look,
            "lights": three,
            "sentences": [sentence(light, words, look.overview.at) for light in three],
            "bars": bars(look.overview.states),
            "model": node.spec.model,
            "names": names,
        }

    @routes.get("")
    def overview(request: Request, visitor: Visitor = looking) -> Response:
        return pages.page(request, visitor, "overview", **values(request))

    @routes.get("/live/overview")
    async def live(request: Request, visitor: Visitor = staying) -> Response:
        part = partial(pages.html, request, visitor, "_overview.html")
        return stream(node, lambda: part(**values(request)), lambda: stays(request))

    return routes


def stream(node: Node, part: Callable[[], str], check: Callable[[], object]) -> Response:
    """Server-sent events: ``part`` whenever it has changed; ``over`` once ``check`` raises Turned."""

    async def events() -> AsyncIterator[str]:
        before, deadline = "", anyio.current_time() + _LONGEST
        yield "retry: 2000\n\n"
        while not node.stopping.is_set() and anyio.current_time() < deadline:
            try:
                await run_in_threadpool(check)
                now = await run_in_threadpool(part)
            except Turned:
                yield "event: over\ndata: \n\n"
                return
            except Transient:  # the database is away: the browser says that the connection is lost, and asks again
                return
            if now != before:
                before = now
                yield f"event: part\ndata: {json.dumps(now)}\n\n"
            else:
                yield ": still here\n\n"
            await anyio.sleep(_EVERY_SECONDS)

    return StreamingResponse(events(), headers=HEADERS | {"X-Accel-Buffering": "no"}, media_type="text/event-stream")


def sentence(light: Light, words: Texts, now: Any) -> str:
    """What a light says."""
    values: dict[str, object] = {}
    for name, value in light.values.items():
        if name.endswith("_at"):
            values[name.removesuffix("_at")] = words.ago(value, now)
        elif name.endswith("_seconds"):
            values[name.removesuffix("_seconds")] = words.duration(value)
        elif name == "free":
            values[name] = words.size(value)
        else:
            values[name] = plain(value) if isinstance(value, str) else value
    return words(light.key, **values)


def bars(states: dict[str, int]) -> list[Bar]:
    """The bar's parts, of all states that there are."""
    total, x, found = sum(states.values()), 0.0, []
    for state in _STATES:
        if count := states.get(state, 0):
            width = 1000 * count / total
            found.append(Bar(state, count, round(x, 2), round(width, 2)))
            x += width
    return found
