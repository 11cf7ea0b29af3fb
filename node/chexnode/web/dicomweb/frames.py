"""WADO-RS: frames and bulk data (PS3.18 sections 10.4.1.1.3 to 10.4.1.1.6)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from chexmodels.part10 import DecodeError
from chexnode.web.dicomweb.accept import MULTIPART, MediaType, parse_accept
from chexnode.web.dicomweb.errors import BadRequest, NotAcceptable, NotFound
from chexnode.web.dicomweb.multipart import closing, new_boundary, part_head
from chexnode.web.dicomweb.pixels import Image, can_decode, image_type
from chexnode.web.dicomweb.places import BYTES, NO_STORE, Instance, Series, Study, base_of, url_of
from chexnode.web.dicomweb.shelf import Shelf, header_of

_PIXEL_DATA = "7FE00010"
_MOST_FRAMES = 100_000


def routes(shelf: Shelf) -> APIRouter:
    """Frames and bulk data of one instance."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": {f"{MULTIPART}": {}, BYTES: {}}, "description": "The bytes."},
        404: {"description": "Never held here, or there is no such frame or element."},
        406: {"description": "Not to be had in any form that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
    }

    @router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", responses=answers)
    def frames(request: Request, study: Study, series: Series, instance: Instance, frames: str) -> StreamingResponse:
        """Frames by number from 1, as they are stored or decoded (WADO-RS)."""
        numbers = frame_numbers(frames)
        held = shelf.one(study, series, instance)
        image = image_of(shelf, lambda: Image(shelf.read(held), shelf.limits.max_pixels))
        if max(numbers) > image.frames:
            raise NotFound(f"the instance has {image.frames} frame(s)")
        return _pixels(request, image, numbers, f"{url_of(base_of(request), held)}/frames")

    @router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path:path}", responses=answers)
    def bulk_data(request: Request, study: Study, series: Series, instance: Instance, path: str) -> StreamingResponse:
        """The value of one element, as the metadata's BulkDataURI names it (WADO-RS)."""
        held = shelf.one(study, series, instance)
        url = f"{url_of(base_of(request), held)}/bulkdata/{quote(path)}"
        if path.upper() == _PIXEL_DATA:
            image = image_of(shelf, lambda: Image(shelf.read(held), shelf.limits.max_pixels))
            return _pixels(request, image, [*range(1, image.frames + 1)], url, whole=True)
        try:
            value = _value(header_of(shelf.read(held)), path)
        except DecodeError as error:
            raise NotFound(f"the instance cannot be read: {error.detail}") from error
        for one in _accepted(request):
            if one.covers(BYTES):
                return _answer(one, BYTES, [url], iter([value]))
        raise NotAcceptable(f"this is to be had as {BYTES}")

    return router


def frame_numbers(text: str) -> list[int]:
    """A list of frame numbers such as ``1,3``. Raises BadRequest."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise BadRequest("frames are a list of numbers from 1, such as 1,3")
    numbers = [int(one) for one in text.split(",")]
    if min(numbers) < 1 or len(numbers) > _MOST_FRAMES:
        raise BadRequest("frames are counted from 1")
    return numbers


def image_of(shelf: Shelf, opened: Callable[[], Image]) -> Image:
    """The image. Raises NotAcceptable where the object has none."""
    try:
        return opened()
    except DecodeError as error:
        raise NotAcceptable(f"no frames: {error.detail}") from error


def _accepted(request: Request) -> list[MediaType]:
    return parse_accept(request.headers.get("accept"), request.query_params.get("accept"))


def _pixels(request: Request, image: Image, numbers: list[int], url: str, *, whole: bool = False) -> StreamingResponse:
    """The frames in the best form accepted: one part each, or decoded and all in one where the ``whole`` is wanted."""
    accepted, content_type, is_stored = _choose(_accepted(request), image, len(numbers), whole=whole)
    try:
        frames = image.stored(numbers) if is_stored else image.native(numbers)
        first = next(frames)  # what cannot be decoded shows now, while that can still be said
    except DecodeError as error:
        raise NotAcceptable(f"the frames cannot be had in this form: {error.detail}") from error
    content = chain([first], frames)
    if whole and not is_stored:
        return _answer(accepted, content_type, [url], content, together=True)
    urls = [url if whole else f"{url}/{number}" for number in numbers]
    return _answer(accepted, content_type, urls, content)


def _choose(accepted: Sequence[MediaType], image: Image, count: int, *, whole: bool) -> tuple[MediaType, str, bool]:
    """(range, Content-Type, whether as stored): encapsulated frames as stored where that will do, else decoded."""
    stored = image.transfer_syntax
    picture = None if image.is_native else image_type(stored)
    decoded = f"{BYTES};transfer-syntax={ExplicitVRLittleEndian}"
    for one in accepted:
        wanted = one.transfer_syntax
        if count > 1 and not one.is_multipart and one.essence != "*/*" and not whole:
            continue
        if picture is not None and one.covers(picture) and wanted in ("", "*", stored) and (count == 1 or not whole):
            return one, f"{picture};transfer-syntax={stored}", True
        if not one.covers(BYTES):
            continue
        if not image.is_native and wanted in ("*", stored) and (count == 1 or not whole):
            return one, f"{BYTES};transfer-syntax={stored}", True
        if wanted in ("", "*", ExplicitVRLittleEndian) and can_decode(stored):
            return one, decoded, False
    raise NotAcceptable(f"frames are to be had as {BYTES}" + (f" or {picture}" if picture else ""))


def _answer(
    accepted: MediaType, content_type: str, urls: Sequence[str], content: Iterator[bytes], *, together: bool = False
) -> StreamingResponse:
    """Multipart where that, or anything, is accepted; else the one part by itself."""
    if not accepted.is_multipart and accepted.essence != "*/*":
        return StreamingResponse(content, 200, NO_STORE, content_type)
    boundary = new_boundary()

    def body() -> Iterator[bytes]:
        if together:
            yield part_head(boundary, content_type, urls[0], first=True)
            yield from content
        else:
            for number, (url, piece) in enumerate(zip(urls, content, strict=True)):
                yield part_head(boundary, content_type, url, first=not number)
                yield piece
        yield closing(boundary)

    inner = content_type.partition(";")[0]
    return StreamingResponse(body(), 200, NO_STORE, f'{MULTIPART}; type="{inner}"; boundary={boundary}')


def _value(ds: Dataset, path: str) -> bytes:
    """The value at ``path``, tags and item numbers from 0 by turns, in little endian. Raises NotFound."""
    steps = path.split("/")
    found: object = ds
    try:
        for tag, item in zip(steps[:-1:2], steps[1:-1:2], strict=True):
            found = found[int(tag, 16)].value[int(item)]  # type: ignore[index]
        one = found[int(steps[-1], 16)]  # type: ignore[index]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise NotFound("the instance has no such element") from error
    return _bytes_of(one.VR, one.value)


def _bytes_of(vr: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    numbers = {"FD": "<f8", "FL": "<f4", "SL": "<i4", "SS": "<i2", "SV": "<i8", "UL": "<u4", "US": "<u2", "UV": "<u8"}
    if vr in numbers:
        return np.asarray(value).astype(numbers[vr]).tobytes()
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, list | tuple) or hasattr(value, "__iter__"):
        return "\\".join(str(one) for one in value).encode("utf-8", "replace")
    raise NotFound("the instance has no such value")
