"""WADO-RS: metadata as JSON or XML (PS3.18 section 10.4.1.1.2), one instance after the other."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request
from fastapi.responses import Response

from chexmodels.dicom.part10 import DecodeError
from chexnode.dicomweb.json_model import Json, element, model_of
from chexnode.ledger.objects import Held
from chexnode.web.dicomweb import models
from chexnode.web.dicomweb.errors import Gone
from chexnode.web.dicomweb.places import NO_STORE, Instance, Series, Study, accepted_by, base_of, url_of
from chexnode.web.dicomweb.shelf import Shelf

log = logging.getLogger(__name__)

_PIXEL_DATA = "7FE00010"


def routes(shelf: Shelf) -> APIRouter:
    """Metadata at three levels."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": models.CONTENT, "description": "One object an instance; long values as BulkDataURI."},
        206: {"description": "Of some of them: retention has deleted others."},
        404: {"description": "Never held here."},
        410: {"description": "Deleted when its retention had passed."},
    }

    def metadata(request: Request, study: str, series: str | None = None, instance: str | None = None) -> Response:
        kind = models.model_type(accepted_by(request))
        found = shelf.find(study, series, instance)
        base = base_of(request)
        content = (_model(shelf, held, base) for held in found.objects)
        return models.answer(content, kind, 206 if found.missing else 200, NO_STORE)

    @router.get("/studies/{study}/metadata", responses=answers)
    def of_study(request: Request, study: Study) -> Response:
        """Metadata of all instances of a study (WADO-RS)."""
        return metadata(request, study)

    @router.get("/studies/{study}/series/{series}/metadata", responses=answers)
    def of_series(request: Request, study: Study, series: Series) -> Response:
        """Metadata of all instances of a series (WADO-RS)."""
        return metadata(request, study, series)

    @router.get("/studies/{study}/series/{series}/instances/{instance}/metadata", responses=answers)
    def of_instance(request: Request, study: Study, series: Series, instance: Instance) -> Response:
        """Metadata of an instance (WADO-RS)."""
        return metadata(request, study, series, instance)

    return router


def _model(shelf: Shelf, held: Held, base: str) -> Json:
    url = url_of(base, held)
    try:
        stored = shelf.open(held)
        model = model_of(stored.header, lambda path: f"{url}/bulkdata/{path}")
    except (DecodeError, Gone, OSError, ValueError) as error:
        # A quarantined data set that cannot be read is served as it came; of its metadata there is this much.
        log.warning("no metadata of a stored object: %s", type(error).__name__)
        return _identity(held)
    if stored.part10.pixel_data is not None:
        vr = "OB" if not stored.part10.file_meta.TransferSyntaxUID.is_implicit_VR and _is_bytes(model) else "OW"
        model[_PIXEL_DATA] = {"vr": vr, "BulkDataURI": f"{url}/bulkdata/{_PIXEL_DATA}"}
    return model


def _is_bytes(model: Json) -> bool:
    return bool(model.get("00280100", {}).get("Value") == [8])


def _identity(held: Held) -> Json:
    return {
        **element("SOPClassUID", held.sop_class_uid),
        **element("SOPInstanceUID", held.sop_instance_uid),
        **element("StudyInstanceUID", held.study_instance_uid),
        **element("SeriesInstanceUID", held.series_instance_uid),
    }
