"""WADO-RS: metadata as JSON or XML (PS3.18 section 10.4.1.1.2), one instance after the other."""

from __future__ import annotations

import logging
from collections import OrderedDict
from hashlib import blake2b
from threading import Lock

from fastapi import APIRouter, Request
from fastapi.responses import Response

from chexmodels.dicom.part10 import DecodeError
from chexnode.dicomweb.json_model import Json, element, model_of
from chexnode.dicomweb.media_types import DICOM_JSON
from chexnode.ledger.objects import StoredObject
from chexnode.web import conditions
from chexnode.web.access import access
from chexnode.web.dicomweb.objects import ObjectStore
from chexnode.web.dicomweb.responses import (
    MODELS,
    NO_STORE,
    Descriptions,
    Gone,
    accepted_by,
    several_models,
    several_models_as,
    to_json,
)
from chexnode.web.dicomweb.routes import Resource, at_each_level, base_url, url_of

log = logging.getLogger(__name__)

_PIXEL_DATA = "7FE00010"
_BASE = "urn:chexnode:base"
"""In place of the address of the service, by which each client may call it otherwise."""
_CACHED_BYTES = 64_000_000


def routes(objects: ObjectStore) -> APIRouter:
    """Metadata at three levels."""
    router = APIRouter()
    models = _Models(objects)
    answers: Descriptions = {
        200: {"content": MODELS, "description": "One object an instance; long values as BulkDataURI."},
        206: {"description": "Of some of them: retention has deleted others."},
        304: {"description": "The caller has it already (If-None-Match)."},
        404: {"description": "Never held here."},
        410: {"description": "Deleted when its retention had passed."},
    }

    def metadata(request: Request, resource: Resource) -> Response:
        kind = several_models_as(accepted_by(request))
        located, base = objects.find(resource), base_url(request)
        if located.missing:
            content = (models.encoded(entry, base) for entry in located.objects)
            return several_models(request, content, kind, 206, NO_STORE)
        tags = [objects.tag(entry, DICOM_JSON) for entry in located.objects]
        tag = f'"{blake2b(repr((kind, base, tags)).encode(), digest_size=16).hexdigest()}"'
        # Weak: compressed or not, it is the same metadata (RFC 9110 section 8.8.1).
        headers = NO_STORE | {"ETag": f"W/{tag}"}
        if conditions.is_known(request.headers, tag):
            return Response(None, 304, headers)
        tagged = zip(located.objects, tags, strict=True)
        return several_models(request, (models.encoded(entry, base, tag) for entry, tag in tagged), kind, 200, headers)

    at_each_level(router, "/metadata", "metadata", "Metadata of all instances of {} (WADO-RS).", metadata, answers)
    return router


class _Models:
    """The JSON model of each object, made when it is asked for first and kept in memory, up to a number of bytes."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects, self._lock = objects, Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def encoded(self, entry: StoredObject, base: str, tag: str = "") -> bytes:
        """The model of ``entry``, its URLs below ``base``. ``tag``: of this state of its file; empty: not kept."""
        with self._lock:
            model = self._kept.get(tag)
            if model is not None:
                self._kept.move_to_end(tag)
        if model is None:
            model = to_json(_model(self._objects, entry))
            if tag:
                self._keep(tag, model)
        else:
            access().opened[entry.sop_instance_uid] = entry
        return model.replace(_BASE.encode(), base.encode())

    def _keep(self, tag: str, model: bytes) -> None:
        with self._lock:
            if tag not in self._kept:
                self._kept[tag] = model
                self._bytes += len(model)
            while self._bytes > _CACHED_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def _model(objects: ObjectStore, entry: StoredObject) -> Json:
    url = url_of(_BASE, entry)
    try:
        stored = objects.open(entry)
        model = model_of(stored.header, lambda path: f"{url}/bulkdata/{path}")
    except (DecodeError, Gone, OSError, ValueError) as error:
        # A quarantined data set that cannot be read is served as it came; of its metadata there is this much.
        log.warning("no metadata of a stored object: %s", type(error).__name__)
        return _identity(entry)
    if stored.part10.pixel_data is not None:
        vr = "OB" if not stored.part10.file_meta.TransferSyntaxUID.is_implicit_VR and _is_bytes(model) else "OW"
        model[_PIXEL_DATA] = {"vr": vr, "BulkDataURI": f"{url}/bulkdata/{_PIXEL_DATA}"}
    return model


def _is_bytes(model: Json) -> bool:
    return bool(model.get("00280100", {}).get("Value") == [8])


def _identity(entry: StoredObject) -> Json:
    return {
        **element("SOPClassUID", entry.sop_class_uid),
        **element("SOPInstanceUID", entry.sop_instance_uid),
        **element("StudyInstanceUID", entry.study_instance_uid),
        **element("SeriesInstanceUID", entry.series_instance_uid),
    }
