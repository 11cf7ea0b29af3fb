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

from chexmodels.dicom.part10 import DecodeError
from chexnode.dicomweb.json_model import model_of
from chexnode.dicomweb.media_types import BYTES, MULTIPART
from chexnode.dicomweb.multipart import closing, new_boundary, part_head
from chexnode.ledger.objects import Held
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.errors import Gone, NotAcceptable, NotFound
from chexnode.web.dicomweb.frames import Form, answer, choose, one_frame, pieces, with_pixels
from chexnode.web.dicomweb.places import NO_STORE, Instance, Series, Study, accepted_by, base_of, url_of
from chexnode.web.dicomweb.shelf import Shelf
from chexnode.web.dicomweb.single import ANSWERS, Single, cut
from chexnode.web.dicomweb.stored import Stored

log = logging.getLogger(__name__)

_PIXEL_DATA = "7FE00010"
_DECODED = Form(BYTES, ExplicitVRLittleEndian, False)


def routes(shelf: Shelf, decoder: Decoder) -> APIRouter:
    """Bulk data, and of it the pixels only, at each level."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": {f"{MULTIPART}": {}, BYTES: {}}, "description": "The bytes."},
        206: {"description": "The bytes asked for by Range, or what retention has left."},
        404: {"description": "Never held here, or there is no such element."},
        406: {"description": "Not to be had in any form that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
        **ANSWERS,
    }

    @router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path:path}", responses=answers)
    def bulk_data(request: Request, study: Study, series: Series, instance: Instance, path: str) -> Response:
        """The value of one element, as the metadata's BulkDataURI names it (WADO-RS)."""
        held = shelf.one(study, series, instance)
        url = _url(request, held, path)
        if path.upper() == _PIXEL_DATA:
            return _pixels(request, shelf, held, decoder, url)
        try:
            value = value_at(shelf.open(held).header, path)
        except DecodeError as error:
            raise NotFound(f"the instance cannot be read: {error.detail}") from error
        for one in accepted_by(request):
            if one.covers(BYTES):
                form = Form(BYTES, "", False, one.is_multipart or one.essence == "*/*")
                tag = shelf.tag(held, BYTES)
                return _whole(request, form, Single(url, BYTES, tag, len(value), lambda a, b: iter([value[a:b]])))
        raise NotAcceptable(f"this is to be had as {BYTES}")

    def everything(request: Request, pixels_only: bool, *uids: str) -> StreamingResponse:
        if not any(one.covers(BYTES) and (one.is_multipart or one.essence == "*/*") for one in accepted_by(request)):
            raise NotAcceptable(f'this is to be had as {MULTIPART}; type="{BYTES}"')
        found = shelf.find(*uids)
        values = _values(request, shelf, decoder, found.objects, pixels_only=pixels_only)
        first = next(values, None)
        if first is None:
            raise NotFound("there is no bulk data")
        boundary = new_boundary()
        kind = f'{MULTIPART}; type="{BYTES}"; boundary={boundary}'
        body = _parts(boundary, chain([first], values))
        return StreamingResponse(body, 206 if found.missing else 200, NO_STORE, kind)

    @router.get("/studies/{study}/bulkdata", responses=answers)
    def bulk_data_of_study(request: Request, study: Study) -> StreamingResponse:
        """All bulk data of a study (WADO-RS)."""
        return everything(request, False, study)

    @router.get("/studies/{study}/series/{series}/bulkdata", responses=answers)
    def bulk_data_of_series(request: Request, study: Study, series: Series) -> StreamingResponse:
        """All bulk data of a series (WADO-RS)."""
        return everything(request, False, study, series)

    @router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata", responses=answers)
    def bulk_data_of_instance(request: Request, study: Study, series: Series, instance: Instance) -> StreamingResponse:
        """All bulk data of an instance (WADO-RS)."""
        return everything(request, False, study, series, instance)

    @router.get("/studies/{study}/pixeldata", responses=answers)
    def pixel_data_of_study(request: Request, study: Study) -> StreamingResponse:
        """The pixels of a study, decoded (WADO-RS)."""
        return everything(request, True, study)

    @router.get("/studies/{study}/series/{series}/pixeldata", responses=answers)
    def pixel_data_of_series(request: Request, study: Study, series: Series) -> StreamingResponse:
        """The pixels of a series, decoded (WADO-RS)."""
        return everything(request, True, study, series)

    @router.get("/studies/{study}/series/{series}/instances/{instance}/pixeldata", responses=answers)
    def pixel_data_of_instance(request: Request, study: Study, series: Series, instance: Instance) -> StreamingResponse:
        """The pixels of an instance, decoded (WADO-RS)."""
        return everything(request, True, study, series, instance)

    return router


def _pixels(request: Request, shelf: Shelf, held: Held, decoder: Decoder, url: str) -> Response:
    """Pixel Data: of one frame in the best form accepted, of several decoded, one behind the other."""
    stored = with_pixels(shelf, held)
    image = stored.image
    form = choose(accepted_by(request), image, 1)
    tag = shelf.tag(held, form.content_type)
    if not form.is_stored:
        return _whole(request, form, _decoded(stored, decoder, url, tag))
    if form.is_multipart:
        numbers = [*range(1, image.frames + 1)]
        urls = [url] if image.frames == 1 else [f"{url}/frames/{n}" for n in numbers]
        return answer(form, urls, pieces(form, stored, decoder, numbers))
    if image.frames > 1:
        raise NotAcceptable(f"stored frames are to be had as {MULTIPART}")
    return one_frame(form, stored, decoder, 1, url, tag).answer(request)


def _decoded(stored: Stored, decoder: Decoder, url: str, tag: str) -> Single:
    """All frames."""
    image = stored.image
    numbers = [*range(1, image.frames + 1)]

    def read(start: int, end: int | None) -> Iterator[bytes]:
        return image.all_native(start, end) if image.is_native else cut(decoder.frames(stored, numbers), start, end)

    return Single(url, _DECODED.content_type, tag, image.all_bytes, read)


def _whole(request: Request, form: Form, one: Single) -> Response:
    """One value: as the one part of multipart, or by itself."""
    if not form.is_multipart:
        return one.answer(request)
    boundary = new_boundary()
    head, end = part_head(boundary, one.content_type, one.url, first=True), closing(boundary)
    headers = NO_STORE | {"Content-Length": str(len(head) + (one.length or 0) + len(end))}
    kind = f'{MULTIPART}; type="{form.media_type}"; boundary={boundary}'
    return StreamingResponse(chain([head], one.opened(), [end]), 200, headers, kind)


def _values(
    request: Request, shelf: Shelf, decoder: Decoder, objects: Sequence[Held], *, pixels_only: bool
) -> Iterator[tuple[str, str, Iterator[bytes]]]:
    """(BulkDataURI, media type, content) of each value; what cannot be read or decoded is left out."""
    for held in objects:
        try:
            stored = shelf.open(held)
            header = stored.header
            paths: list[str] = []
            if not pixels_only:
                model_of(header, lambda path, paths=paths: paths.append(path) or path)  # type: ignore[misc]
            for path in paths:
                yield _url(request, held, path), BYTES, iter([value_at(header, path)])
            if stored.part10.layout.pixel_data is not None:
                one = _decoded(stored, decoder, _url(request, held, _PIXEL_DATA), "")
                yield one.url, one.content_type, one.opened()
        except (DecodeError, Gone, NotAcceptable, NotFound, OSError) as error:
            log.warning("no bulk data of a stored object: %s", type(error).__name__)


def _parts(boundary: str, values: Iterator[tuple[str, str, Iterator[bytes]]]) -> Iterator[bytes]:
    for number, (url, kind, content) in enumerate(values):
        yield part_head(boundary, kind, url, first=not number)
        yield from content
    yield closing(boundary)


def _url(request: Request, held: Held, path: str) -> str:
    return f"{url_of(base_of(request), held)}/bulkdata/{quote(path)}"


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
