"""``/api/reanalysis`` and ``/api/compare``: what the commands of these names do, over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from chexnode.node import Node
from chexnode.operate import compare, reanalyse
from chexnode.vocabulary import filters
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.reports import Comparison, Reanalysis
from chexnode.vocabulary.scopes import Scope
from chexnode.web.actions import ours, who_asks
from chexnode.web.api import Narrowed, answer, known
from chexnode.web.auth import require
from chexnode.web.viewer import install


class Images(BaseModel):
    """Which images; at least one of these is given."""

    model_config = ConfigDict(extra="forbid")

    accession: str | None = Field(None, description="Only of this Accession Number.")
    patient: str | None = Field(None, description="Only of this Patient ID.")
    study: str | None = Field(None, description="Only of this Study Instance UID.")
    since: str | None = Field(None, description="From then on: today, yesterday, a date or a time.")
    until: str | None = Field(None, description="Until then; a day is included.")
    dry_run: bool = Field(False, description="Only say how many it would be.")

    @property
    def wanted(self) -> Filter:
        """The same as a filter. Raises Usage."""
        return filters.given(self.accession, self.patient, self.study, self.since, self.until)


class ReanalysisOf(Images):
    """Which images are analysed again, and by which model."""

    model: str | None = Field(None, description="Its name in the settings; none: that which delivers.")
    only_done: bool = Field(False, description="Leave out images that were refused, failed or were cancelled.")


#: With a time: the OpenAPI document leaves out of an example what is null.
_EXAMPLE = Reanalysis("chexnomaly 2", 2, 0, 0, {}, datetime(2026, 1, 31, 20, tzinfo=UTC), False)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": asdict(_EXAMPLE)}}},
    400: {"description": "No such model, or no image is named."},
}


def router(node: Node) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api", dependencies=[Depends(known)])
    acting = [Depends(require(Scope.ADMIN)), Depends(ours)]

    def recorded(request: Request, done: Reanalysis, what: str) -> Response:
        if done.queued and not done.is_dry_run:
            who = who_asks(request)
            node.trail.acted(who.name, who.address, f"{done.queued} image(s) to be {what} by {done.model}")
        return answer(done)

    @routes.post("/reanalysis", tags=["acts"], response_model=Reanalysis, dependencies=acting, responses=_ANSWERS)
    def reanalysis(request: Request, images: ReanalysisOf) -> Response:
        """Analyse images again, as `chexnode reanalyse --json`."""
        options = {"only_done": images.only_done, "is_dry_run": images.dry_run}
        return recorded(request, reanalyse.reanalyse(node, images.wanted, images.model, **options), "analysed again")

    @routes.post(
        "/reanalysis/rollback", tags=["acts"], response_model=Reanalysis, dependencies=acting, responses=_ANSWERS
    )
    def rollback(request: Request, images: Images) -> Response:
        """Put the results of before back, as `chexnode reanalyse rollback --json`."""
        done = reanalyse.rollback(node, images.wanted, is_dry_run=images.dry_run)
        return recorded(request, done, "given the results of before")

    @routes.get(
        "/compare",
        tags=["api"],
        response_model=Comparison,
        dependencies=[Depends(require(Scope.READ))],
        responses={400: {"description": "No such model."}},
    )
    def comparison(
        wanted: Narrowed,
        a: Annotated[str, Query(description="A model: its name in the settings, or name and version.")],
        b: Annotated[str, Query(description="The other, likewise.")],
    ) -> Response:
        """How far two models agree, as `chexnode compare A B --json`."""
        settings = node.settings
        has_viewer = install.installed(settings.viewer_home) is not None
        return answer(
            compare.compare(
                node, a, b, wanted, lambda uid: install.study_url(settings.web_url, uid) if has_viewer else None
            )
        )

    return routes
