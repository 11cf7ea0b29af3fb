"""``/api/...``: what the commands print with ``--json``, over HTTP, read only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Le
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from pydantic_core import to_json

from chexnode.ledger.account import Account
from chexnode.ledger.alarms import AlarmView
from chexnode.ledger.feed import FeedPage
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.views import JobDetail
from chexnode.vocabulary import filters
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import DeliveryView, JobView
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web.auth import require

Limit = Annotated[int, Query(ge=1, le=10_000, description="At most this many, newest first.")]
Offset = Annotated[int, Query(ge=0, description="Without this many of the newest; give `until` too while images come.")]
After = Annotated[
    Annotated[int, Ge(0), Le(2**63 - 1)] | Literal["latest"],
    Query(description="Events with a higher number than this; `latest`: none, only the number of the latest."),
]
States = Annotated[list[str], Query(alias="state", description="Only these states; repeatable, any case.")]


def narrowed(
    accession: Annotated[str | None, Query(description="Only of this Accession Number.")] = None,
    patient: Annotated[str | None, Query(description="Only of this Patient ID.")] = None,
    study: Annotated[str | None, Query(description="Only of this Study Instance UID.")] = None,
    since: Annotated[str | None, Query(description="From then on: today, yesterday, a date or a time.")] = None,
    until: Annotated[str | None, Query(description="Until then; a day is included.")] = None,
) -> Filter:
    """What a list is narrowed down to."""
    return filters.given(accession, patient, study, since, until)


Narrowed = Annotated[Filter, Depends(narrowed)]


def known(request: Request) -> None:
    """Refuse a parameter that the route does not have: misspelt, it would silently ask for everything."""
    route = request.scope["route"]
    fields = get_flat_params(route.dependant)
    names = {field.alias for field in fields if isinstance(field.field_info, params.Query)}
    if unknown := sorted(set(request.query_params) - names):
        raise Usage(f"unknown parameter {unknown[0]!r}; there are: {', '.join(sorted(names)) or 'none'}")


def router(ledger: Ledger) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api", tags=["api"], dependencies=[Depends(require(TokenScope.READ)), Depends(known)])

    @routes.get("/jobs", response_model=list[JobView])
    def jobs(
        request: Request,
        wanted: Narrowed,
        states: States = [],  # noqa: B006  (FastAPI copies defaults)
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> Response:
        """What was received and what became of it, as `chexnode jobs --json`."""
        found = ledger.views.jobs(filters.job_states(states), wanted, limit=limit + 1, offset=offset)
        return _page(request, found, limit, offset)

    @routes.get("/jobs/{job}", response_model=JobDetail, responses={404: {"description": "There is no such job."}})
    def job(job: str) -> Response:
        """One job with results, deliveries and history, as `chexnode jobs show ID --json`."""
        try:
            return answer(ledger.views.job(job))
        except Usage as error:
            raise HTTPException(404, str(error)) from error

    @routes.get("/account", response_model=Account)
    def account() -> Response:
        """Where every acknowledged image is, as `chexnode account --json`."""
        return answer(ledger.accounts.account())

    @routes.get("/deliveries", response_model=list[DeliveryView])
    def deliveries(
        request: Request,
        wanted: Narrowed,
        states: States = [],  # noqa: B006
        destination: Annotated[str | None, Query(description="Only to this destination.")] = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> Response:
        """What was sent where, as `chexnode deliveries --json`."""
        named = filters.delivery_states(states)
        found = ledger.views.deliveries(named, destination, limit=limit + 1, wanted=wanted, offset=offset)
        return _page(request, found, limit, offset)

    @routes.get("/alarms", response_model=list[AlarmView])
    def alarms() -> Response:
        """What is wrong now and was reported, the oldest first, as `chexnode alarms list --json`."""
        return answer(ledger.alarms.list())

    @routes.get("/events", response_model=FeedPage)
    def events(after: After = 0, limit: Limit = 1000) -> Response:
        """What happened, the oldest first: ask again with `after` = `next`, at once while there is `more`."""
        if after == "latest":
            return answer(FeedPage([], ledger.feed.end(), False))
        return answer(ledger.feed.page(after, limit))

    return routes


def _page(request: Request, found: Sequence[object], limit: int, offset: int) -> Response:
    """``found`` without the one that tells that there is more, to which a Link leads then (RFC 8288)."""
    response = answer(found[:limit])
    if len(found) > limit:
        following = request.url.include_query_params(limit=limit, offset=offset + limit)
        response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return response


def answer(value: object) -> Response:
    """``value`` as JSON."""
    # Accession numbers and UIDs: no cache may keep them.
    content = to_json(value, inf_nan_mode="null")
    return Response(content, media_type="application/json", headers={"Cache-Control": "no-store"})
