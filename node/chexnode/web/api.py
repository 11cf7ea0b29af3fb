"""``/api/...``: what the commands print with ``--json``, over HTTP, read only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from pydantic_core import to_json

from chexnode.ledger.account import Account
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.views import JobDetail
from chexnode.vocabulary import filters
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.records import DeliveryView, JobView
from chexnode.vocabulary.scopes import Scope
from chexnode.web.auth import require

Limit = Annotated[int, Query(ge=1, le=10_000, description="At most this many, newest first.")]
States = Annotated[list[str], Query(alias="state", description="Only these states; repeatable, any case.")]


def router(ledger: Ledger) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api", tags=["api"], dependencies=[Depends(require(Scope.READ))])

    @routes.get("/jobs", response_model=list[JobView])
    def jobs(
        states: States = [],  # noqa: B006  (FastAPI copies defaults)
        study: Annotated[str | None, Query(description="Only images of this Study Instance UID.")] = None,
        limit: Limit = 100,
    ) -> Response:
        """What was received and what became of it, as `chexnode jobs --json`."""
        return _answer(ledger.views.jobs(filters.job_states(states), study, limit=limit))

    @routes.get("/jobs/{job}", response_model=JobDetail, responses={404: {"description": "There is no such job."}})
    def job(job: str) -> Response:
        """One job with results, deliveries and history, as `chexnode jobs show ID --json`."""
        try:
            return _answer(ledger.views.job(job))
        except Usage as error:
            raise HTTPException(404, str(error)) from error

    @routes.get("/account", response_model=Account)
    def account() -> Response:
        """Where every acknowledged image is, as `chexnode account --json`."""
        return _answer(ledger.accounts.account())

    @routes.get("/deliveries", response_model=list[DeliveryView])
    def deliveries(
        states: States = [],  # noqa: B006
        destination: Annotated[str | None, Query(description="Only to this destination.")] = None,
        limit: Limit = 100,
    ) -> Response:
        """What was sent where, as `chexnode deliveries --json`."""
        found = ledger.views.deliveries(filters.delivery_states(states), destination, limit=limit)
        return _answer(found)

    return routes


def _answer(value: object) -> Response:
    # Accession numbers and UIDs: no cache may keep them.
    content = to_json(value, inf_nan_mode="null")
    return Response(content, media_type="application/json", headers={"Cache-Control": "no-store"})
