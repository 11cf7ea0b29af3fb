"""QIDO-RS: search for studies, series and instances (PS3.18 section 10.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from chexnode.dicomweb.json_model import Json, element, to_json
from chexnode.dicomweb.media_types import DICOM_XML
from chexnode.ledger.objects import Objects, Query
from chexnode.web.access import access
from chexnode.web.dicomweb.query import ATTRIBUTES, Level, Search, read_query
from chexnode.web.dicomweb.responses import (
    MODELS,
    NO_STORE,
    Descriptions,
    accepted_by,
    several_models,
    several_models_as,
    warning,
)
from chexnode.web.dicomweb.routes import Series, Study, base_url, instance_url

_Row = Mapping[str, Any]

_ANSWERS: Descriptions = {
    200: {"content": MODELS, "description": "What matches; an empty list where nothing does."},
    204: {"description": "Nothing matches, and XML was asked for."},
    400: {"description": "The query cannot be read."},
}


def routes(objects: Objects) -> APIRouter:
    """The searches: of all, of a study, of a series."""
    router = APIRouter()
    by_level: Mapping[Level, Callable[[Query], Sequence[_Row]]] = {
        Level.STUDY: objects.studies,
        Level.SERIES: objects.series,
        Level.INSTANCE: objects.instances,
    }

    def search(request: Request, level: Level, **path: str) -> Response:
        access().is_search = True
        kind = several_models_as(accepted_by(request))
        wanted = read_query(level, request.query_params.multi_items(), path)
        rows, base = by_level[level](wanted.query), base_url(request)
        page, warnings = rows[: wanted.query.limit - 1], list(wanted.warnings)
        if len(rows) > len(page):
            warnings.append("There are additional results that can be requested.")
        headers = NO_STORE | warning(base, warnings)
        if not page and kind == DICOM_XML:  # a multipart body has at least one part (RFC 2046 section 5.1)
            return Response(None, 204, headers)
        return several_models(request, [to_json(_model(wanted, row, base)) for row in page], kind, 200, headers)

    @router.get("/studies", responses=_ANSWERS)
    def studies(request: Request) -> Response:
        """Search for studies (QIDO-RS)."""
        return search(request, Level.STUDY)

    @router.get("/series", responses=_ANSWERS)
    def series(request: Request) -> Response:
        """Search for series of all studies (QIDO-RS)."""
        return search(request, Level.SERIES)

    @router.get("/instances", responses=_ANSWERS)
    def instances(request: Request) -> Response:
        """Search for instances of all studies (QIDO-RS)."""
        return search(request, Level.INSTANCE)

    @router.get("/studies/{study}/series", responses=_ANSWERS)
    def series_of_study(request: Request, study: Study) -> Response:
        """Search for series of a study (QIDO-RS)."""
        return search(request, Level.SERIES, StudyInstanceUID=study)

    @router.get("/studies/{study}/instances", responses=_ANSWERS)
    def instances_of_study(request: Request, study: Study) -> Response:
        """Search for instances of a study (QIDO-RS)."""
        return search(request, Level.INSTANCE, StudyInstanceUID=study)

    @router.get("/studies/{study}/series/{series}/instances", responses=_ANSWERS)
    def instances_of_series(request: Request, study: Study, series: Series) -> Response:
        """Search for instances of a series (QIDO-RS)."""
        return search(request, Level.INSTANCE, StudyInstanceUID=study, SeriesInstanceUID=series)

    return router


def _model(search: Search, row: _Row, base: str) -> Json:
    """One match with the attributes that are usual, asked for, or all (PS3.18 table 10.6.3-3 and those after it)."""
    level = search.level
    model: Json = {}
    for attribute in ATTRIBUTES.values():
        if attribute.level <= level and attribute.column in row:
            model |= element(attribute.keyword, row[attribute.column])
    model |= element("InstanceAvailability", "ONLINE" if row.get("held", row.get("path")) else "UNAVAILABLE")
    study = row["study_instance_uid"]
    if level is Level.STUDY:
        if row["modalities"]:  # left out where it would be empty: OHIF's study list stays blank for a single one
            model |= element("ModalitiesInStudy", sorted(row["modalities"]))
        model |= element("NumberOfStudyRelatedSeries", row["series"])
        model |= element("NumberOfStudyRelatedInstances", row["instances"])
        if search.everything or "SOPClassesInStudy" in search.included:
            model |= element("SOPClassesInStudy", sorted(row["sop_classes"]))
        url = f"{base}/studies/{study}"
    elif level is Level.SERIES:
        model |= element("NumberOfSeriesRelatedInstances", row["instances"])
        url = f"{base}/studies/{study}/series/{row['series_instance_uid']}"
    else:
        model |= element("AvailableTransferSyntaxUID", row["transfer_syntax_uid"])
        url = instance_url(base, study, row["series_instance_uid"], row["sop_instance_uid"])
    model |= element("RetrieveURL", url)
    return dict(sorted(model.items()))
