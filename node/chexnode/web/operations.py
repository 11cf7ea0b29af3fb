"""What the commands ``reanalyse``, ``erase``, ``compare`` and ``drift`` do, over HTTP."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from chexnode.ledger.drift import FRESH_SECONDS, DriftWindow
from chexnode.node import Node
from chexnode.operate import compare
from chexnode.vocabulary import filters
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.reports import Comparison, DailyFigures, DriftReport, Erasure, Extent, Reanalysis
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web.actions import Acts, ours, who_asks
from chexnode.web.api import Narrowed, answer, known
from chexnode.web.auth import require
from chexnode.web.viewer import install


class ImageSelection(BaseModel):
    """Which images; at least one of these is given."""

    model_config = ConfigDict(extra="forbid")

    accession: str | None = Field(None, description="Only of this Accession Number.")
    patient: str | None = Field(None, description="Only of this Patient ID.")
    study: str | None = Field(None, description="Only of this Study Instance UID.")
    since: str | None = Field(None, description="From then on: today, yesterday, a date or a time.")
    until: str | None = Field(None, description="Until then; a day is included.")
    image: str | None = Field(None, description="Only this SOP Instance UID.")
    dry_run: bool = Field(False, description="Only say how many it would be.")

    @property
    def wanted(self) -> Filter:
        """The images as a filter of the ledger. Raises Usage."""
        named = filters.given(self.accession, self.patient, self.study, self.since, self.until)
        return replace(named, image=self.image or None)


class ReanalysisOf(ImageSelection):
    """Which images are analysed again, and by which model."""

    model: str | None = Field(None, description="Its name in the settings; none: that which delivers.")
    only_done: bool = Field(False, description="Leave out images that were refused, failed or were cancelled.")


class ErasureOf(BaseModel):
    """Whose data is erased: a patient's or a study's, exactly one of the two."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"patient": "4711"}})

    patient: str | None = Field(None, description="Patient ID.")
    issuer: str | None = Field(None, description="Of the Patient ID; empty: images that name none.")
    study: str | None = Field(None, description="Study Instance UID.")
    wait_seconds: float = Field(
        20, ge=0, le=600, description="How long destinations have to withdraw the results, before they are erased here."
    )
    dry_run: bool = Field(False, description="Only count what would go.")


#: With a time: the OpenAPI document leaves out of an example what is null.
_EXAMPLE = Reanalysis("chexnomaly 2", 2, 0, 0, {}, datetime(2026, 1, 31, 20, tzinfo=UTC), False)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": asdict(_EXAMPLE)}}},
    400: {"description": "No such model, or no image is named."},
}
_EXTENT = Extent(1, 2, 6, 6, 1)
_ERASED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": asdict(Erasure(_EXTENT, 9, 4, {"pacs": 1}, {}, True))}}},
    400: {"description": "Not exactly one of patient and study, or an ID that several issuers have given."},
    503: {"description": "The database or the disk cannot be used: nothing, or not everything, is erased; ask again."},
}


def router(node: Node, acts: Acts) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api", dependencies=[Depends(known)])
    acting = [Depends(require(TokenScope.ADMIN)), Depends(ours)]
    reading = [Depends(require(TokenScope.READ))]

    @routes.post("/reanalysis", tags=["acts"], response_model=Reanalysis, dependencies=acting, responses=_ANSWERS)
    def reanalysis(request: Request, images: ReanalysisOf) -> Response:
        """Analyse images again, as `chexnode reanalyse --json`."""
        options = {"only_done": images.only_done, "is_dry_run": images.dry_run}
        return answer(acts.reanalyse(images.wanted, images.model, who_asks(request), **options))

    @routes.post(
        "/reanalysis/rollback", tags=["acts"], response_model=Reanalysis, dependencies=acting, responses=_ANSWERS
    )
    def rollback(request: Request, images: ImageSelection) -> Response:
        """Put the results of before back, as `chexnode reanalyse rollback --json`."""
        return answer(acts.rollback(images.wanted, who_asks(request), is_dry_run=images.dry_run))

    @routes.post("/erasure", tags=["acts"], response_model=Erasure, dependencies=acting, responses=_ERASED)
    def erasure(request: Request, whose: ErasureOf) -> Response:
        """Erase a patient or a study for good, as `chexnode erase --json`; asked again it erases what came meanwhile.

        The body names whom, so that no log of addresses does.
        """
        if bool(whose.patient) == bool(whose.study):
            raise Usage("give a patient, or a study")
        wanted = Filter(patient=whose.patient or None, issuer=whose.issuer, study=whose.study or None)
        if whose.dry_run:
            return answer(acts.extent(wanted))
        return answer(acts.erase(wanted, whose.wait_seconds, who_asks(request)))

    @routes.get("/drift", tags=["api"], response_model=DriftReport, dependencies=reading)
    def drift() -> Response:
        """Recent images against the baseline, as `chexnode drift --json`; some minutes old at most."""
        window = DriftWindow(node.settings.drift.days, node.settings.drift.images, node.settings.drift.psi)
        drifts = node.ledger.drifts
        return answer(DriftReport(drifts.baseline(), drifts.look(window, FRESH_SECONDS)))

    @routes.get("/drift/daily", tags=["api"], response_model=list[DailyFigures], dependencies=reading)
    def daily(
        since: Annotated[str | None, Query(description="From then on; without it those of the last week.")] = None,
        until: Annotated[str | None, Query(description="Until then; a day is included.")] = None,
    ) -> Response:
        """The figures of each day by model, station and calling AE title, as `chexnode drift daily --json`."""
        end = filters.moment(until, end=True) if until else node.ledger.clock() + timedelta(seconds=1)
        try:
            begin = filters.moment(since) if since else end - timedelta(days=7)
        except OverflowError:
            raise Usage("there is no week before that") from None
        return answer(node.ledger.drifts.daily(begin, end))

    @routes.get(
        "/compare",
        tags=["api"],
        response_model=Comparison,
        dependencies=reading,
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
