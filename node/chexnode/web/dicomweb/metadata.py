"""WADO-RS: metadata as JSON or XML (PS3.18 section 10.4.1.1.2), one instance after the other."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import repeat
from threading import Lock
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from chexmodels.dicom.errors import DecodeError
from chexnode.dicomweb.json_model import Json, element, model_of, pixel_data, to_json
from chexnode.dicomweb.json_text import ModelTexts
from chexnode.dicomweb.media_types import DICOM_JSON
from chexnode.ledger.objects import StoredObject
from chexnode.web import conditions
from chexnode.web.access import note_opened
from chexnode.web.dicomweb.objects import ObjectStore
from chexnode.web.dicomweb.responses import (
    MODELS,
    NO_STORE,
    Descriptions,
    Gone,
    accepted_by,
    several_models,
    several_models_as,
)
from chexnode.web.dicomweb.routes import Resource, at_each_level, base_url, url_of
from chexnode.web.dicomweb.stored import Stored

log = logging.getLogger(__name__)

_INSTANCE = f"urn:uuid:{uuid4()}".encode()
"""In place of the address of an instance: it differs with each, and with how a client calls the service. No sender can
know it, so that it stands in no value of a data set."""
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
            content = models.of(located.objects, repeat(""), base)
            return several_models(request, content, kind, 206, NO_STORE)
        tags = objects.tags(located, DICOM_JSON)
        tag = f'"{blake2b(repr((kind, base, tags)).encode(), digest_size=16).hexdigest()}"'
        # Weak: compressed or not, it is the same metadata (RFC 9110 section 8.8.1).
        headers = NO_STORE | {"ETag": f"W/{tag}"}
        if conditions.is_known(request.headers, tag):
            return Response(None, 304, headers)
        return several_models(request, models.of(located.objects, tags, base), kind, 200, headers)

    at_each_level(router, "/metadata", "metadata", "Metadata of all instances of {} (WADO-RS).", metadata, answers)
    return router


class _Models:
    """The JSON model of each object, made when it is asked for first and kept in memory, up to a number of bytes."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects, self._lock = objects, Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def of(self, entries: Iterable[StoredObject], tags: Iterable[str], base: str) -> Iterator[bytes]:
        """The models of ``entries``, their URLs below ``base``.

        ``tags``: of the state of each one's file; empty where it is not to be kept.
        """
        texts = ModelTexts(self._objects.limits, _bulk_uri)
        for entry, tag in zip(entries, tags, strict=False):
            with self._lock:
                model = self._kept.get(tag)
                if model is not None:
                    self._kept.move_to_end(tag)
            if model is None:
                model = _model(self._objects, entry, texts)
                if tag:
                    self._keep(tag, model)
            else:
                note_opened(entry)
            yield model.replace(_INSTANCE, url_of(base, entry).encode())

    def _keep(self, tag: str, model: bytes) -> None:
        with self._lock:
            if tag not in self._kept:
                self._kept[tag] = model
                self._bytes += len(model)
            while self._bytes > _CACHED_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def _model(objects: ObjectStore, entry: StoredObject, texts: ModelTexts) -> bytes:
    """In JSON, with :data:`_INSTANCE` in place of its address."""
    try:
        written = texts.written(objects.mapped(entry))
        return written if written is not None else _read(objects.open(entry))
    except (DecodeError, Gone, OSError, ValueError) as error:
        # A quarantined data set that cannot be read is served as it came; of its metadata there is this much.
        log.warning("no metadata of a stored object: %s", type(error).__name__)
        return to_json(_identity(entry))


def _read(stored: Stored) -> bytes:
    model = model_of(stored.header, _bulk_uri)
    if stored.part10.pixel_data is not None:
        is_of_bytes = model.get("00280100", {}).get("Value") == [8]
        model |= pixel_data(_bulk_uri, is_implicit=stored.part10.encoding.implicit, is_of_bytes=is_of_bytes)
    return to_json(model)


def _bulk_uri(path: str) -> str:
    return f"{_INSTANCE.decode()}/bulkdata/{path}"


def _identity(entry: StoredObject) -> Json:
    return {
        **element("SOPClassUID", entry.sop_class_uid),
        **element("SOPInstanceUID", entry.sop_instance_uid),
        **element("StudyInstanceUID", entry.study_instance_uid),
        **element("SeriesInstanceUID", entry.series_instance_uid),
    }
