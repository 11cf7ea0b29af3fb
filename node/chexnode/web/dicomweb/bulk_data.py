"""WADO-RS: bulk data (PS3.18 section 10.4.1.1.5): one value by its URI, or all of an instance, a series, a study."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian

from chexmodels.dicom.errors import DecodeError
from chexnode.dicomweb.json_model import model_of
from chexnode.dicomweb.media_types import BYTES, MULTIPART
from chexnode.dicomweb.multipart import Part
from chexnode.ledger.objects import StoredObject
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.frames import Form, choose, parts, pieces, single_frame, with_pixels
from chexnode.web.dicomweb.objects import ObjectStore
from chexnode.web.dicomweb.responses import (
    CONDITIONAL,
    Descriptions,
    Gone,
    NotAcceptable,
    NotFound,
    Representation,
    accepted_by,
    cut,
    multipart,
    takes_multipart,
)
from chexnode.web.dicomweb.routes import INSTANCE, Instance, Resource, Series, Study, at_each_level, base_url, url_of
from chexnode.web.dicomweb.stored import Stored

log = logging.getLogger(__name__)

_PIXEL_DATA = "7FE00010"
_DECODED = Form(BYTES, ExplicitVRLittleEndian, False)


def routes(objects: ObjectStore, decoder: Decoder) -> APIRouter:
    """Bulk data, and of it the pixels only, at each level."""
    router = APIRouter()
    answers: Descriptions = {
        200: {"content": {f"{MULTIPART}": {}, BYTES: {}}, "description": "The bytes."},
        206: {"description": "The bytes asked for by Range, or what retention has left."},
        404: {"description": "Never held here, or there is no such element."},
        406: {"description": "Not to be had in any form that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
        **CONDITIONAL,
    }

    @router.get(f"{INSTANCE}/bulkdata/{{path:path}}", responses=answers)
    def bulk_data(request: Request, study: Study, series: Series, instance: Instance, path: str) -> Response:
        """The value of one element, as the metadata's BulkDataURI names it (WADO-RS)."""
        entry = objects.instance(study, series, instance)
        url = _url(request, entry, path)
        if path.upper() == _PIXEL_DATA:
            return _pixels(request, objects, entry, decoder, url)
        try:
            value = value_at(objects.open(entry).header, path)
        except DecodeError as error:
            raise NotFound(f"the instance cannot be read: {error.detail}") from error
        for one in accepted_by(request):
            if one.covers(BYTES):
                form = Form(BYTES, "", False, takes_multipart(one))
                tag = objects.tag(entry, BYTES)
                return _whole(
                    request, form, Representation(url, BYTES, tag, len(value), lambda a, b: iter([value[a:b]]))
                )
        raise NotAcceptable(f"this is to be had as {BYTES}")

    def everything(request: Request, resource: Resource, *, pixels_only: bool) -> StreamingResponse:
        if not any(one.covers(BYTES) and takes_multipart(one) for one in accepted_by(request)):
            raise NotAcceptable(f'this is to be had as {MULTIPART}; type="{BYTES}"')
        located = objects.find(resource)
        values = _values(request, objects, decoder, located.objects, pixels_only=pixels_only)
        first = next(values, None)
        if first is None:
            raise NotFound("there is no bulk data")
        return multipart(BYTES, chain([first], values), 206 if located.missing else 200)

    def bulk(request: Request, resource: Resource) -> StreamingResponse:
        return everything(request, resource, pixels_only=False)

    def pixels(request: Request, resource: Resource) -> StreamingResponse:
        return everything(request, resource, pixels_only=True)

    at_each_level(router, "/bulkdata", "bulk_data", "All bulk data of {} (WADO-RS).", bulk, answers)
    at_each_level(router, "/pixeldata", "pixel_data", "The pixels of {}, decoded (WADO-RS).", pixels, answers)
    return router


def _pixels(request: Request, objects: ObjectStore, entry: StoredObject, decoder: Decoder, url: str) -> Response:
    """Pixel Data: of one frame in the best form accepted, of several decoded, one behind the other."""
    stored = with_pixels(objects, entry)
    image = stored.image
    form = choose(accepted_by(request), image, 1)
    tag = objects.tag(entry, form.content_type)
    if not form.is_stored:
        return _whole(request, form, _decoded(stored, decoder, url, tag))
    if form.is_multipart:
        numbers = [*range(1, image.frames + 1)]
        urls = [url] if image.frames == 1 else [f"{url}/frames/{n}" for n in numbers]
        return parts(form, urls, pieces(form, stored, decoder, numbers))
    if image.frames > 1:
        raise NotAcceptable(f"stored frames are to be had as {MULTIPART}")
    return single_frame(form, stored, decoder, 1, url, tag).answer(request)


def _decoded(stored: Stored, decoder: Decoder, url: str, tag: str) -> Representation:
    """All frames."""
    image = stored.image
    numbers = [*range(1, image.frames + 1)]

    def read(start: int, end: int | None) -> Iterator[bytes]:
        return image.all_native(start, end) if image.is_native else cut(decoder.frames(stored, numbers), start, end)

    return Representation(url, _DECODED.content_type, tag, image.all_bytes, read)


def _whole(request: Request, form: Form, value: Representation) -> Response:
    """One value: as the one part of multipart, or by itself."""
    return multipart(form.media_type, [value.part()]) if form.is_multipart else value.answer(request)


def _values(
    request: Request, objects: ObjectStore, decoder: Decoder, entries: Sequence[StoredObject], *, pixels_only: bool
) -> Iterator[Part]:
    """Each value under its BulkDataURI; what cannot be read or decoded is left out."""
    for entry in entries:
        try:
            stored = objects.open(entry)
            header = stored.header
            paths: list[str] = []
            if not pixels_only:
                model_of(header, lambda path, paths=paths: paths.append(path) or path)  # type: ignore[misc]
            for path in paths:
                yield Part(BYTES, [value_at(header, path)], _url(request, entry, path))
            if stored.part10.pixel_data is not None:
                yield _decoded(stored, decoder, _url(request, entry, _PIXEL_DATA), "").part()
        except (DecodeError, Gone, NotAcceptable, NotFound, OSError) as error:
            log.warning("no bulk data of a stored object: %s", type(error).__name__)


def _url(request: Request, entry: StoredObject, path: str) -> str:
    return f"{url_of(base_url(request), entry)}/bulkdata/{quote(path)}"


def value_at(ds: Dataset, path: str) -> bytes:
    """The value at ``path``, tags and item numbers from 0 by turns, in little endian. Raises NotFound."""
    steps = path.split("/")
    found: object = ds
    try:
        for tag, item in zip(steps[:-1:2], steps[1:-1:2], strict=True):
            found = found[int(tag, 16)].value[int(item)]  # type: ignore[index]
        one = found[int(steps[-1], 16)]  # type: ignore[index]
        return _bytes_of(one.VR, one.value)
    except Exception as error:  # of any class: the path is the caller's, and the values are a stranger's
        raise NotFound("the instance has no such element, or no value that bytes can be made of") from error


_NUMBERS = {"FD": "<f8", "FL": "<f4", "SL": "<i4", "SS": "<i2", "SV": "<i8", "UL": "<u4", "US": "<u2", "UV": "<u8"}


def _bytes_of(vr: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if vr in _NUMBERS:
        return np.asarray(value).astype(_NUMBERS[vr]).tobytes()
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, MultiValue):
        return "\\".join(str(one) for one in value).encode("utf-8", "replace")
    raise TypeError(vr)
