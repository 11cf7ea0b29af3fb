"""WADO-RS: rendered instances, frames and thumbnails (PS3.18 section 10.4.1.2 and 10.4.1.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from chexmodels.part10 import DecodeError
from chexnode.ledger.objects import Held
from chexnode.web.dicomweb.accept import MULTIPART, parse_accept
from chexnode.web.dicomweb.errors import BadRequest, NotAcceptable, NotFound
from chexnode.web.dicomweb.frames import frame_numbers
from chexnode.web.dicomweb.multipart import closing, new_boundary, part_head
from chexnode.web.dicomweb.pixels import Image
from chexnode.web.dicomweb.places import NO_STORE, Instance, Series, Study, base_of, url_of
from chexnode.web.dicomweb.render import Viewport, Window, parse_viewport, parse_window, to_picture, to_screen
from chexnode.web.dicomweb.shelf import Shelf

_TYPES = ("image/jpeg", "image/png")
_THUMBNAIL = Viewport(128, 128)
_MOST_RENDERED = 100


@dataclass(frozen=True, slots=True)
class _Wish:
    """How to render."""

    media_type: str
    is_multipart: bool
    window: Window | None
    viewport: Viewport | None
    quality: int


def routes(shelf: Shelf) -> APIRouter:
    """Rendered resources and thumbnails."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": {name: {} for name in _TYPES}, "description": "The picture."},
        400: {"description": "`window`, `viewport`, `quality` or the frame list cannot be read."},
        404: {"description": "Never held here, or there is no such frame."},
        406: {"description": "It has no pixels, they cannot be decoded, or the type is neither JPEG nor PNG."},
        410: {"description": "Deleted when its retention had passed."},
    }
    one = "/studies/{study}/series/{series}/instances/{instance}"

    @router.get(f"{one}/rendered", responses=answers)
    def instance(request: Request, study: Study, series: Series, instance: Instance) -> Response:
        """An instance, its first frame if it has several, as JPEG or PNG (WADO-RS)."""
        return _pictures(request, shelf, shelf.find(study, series, instance).objects, [1])

    @router.get(f"{one}/frames/{{frames}}/rendered", responses=answers)
    def frames(request: Request, study: Study, series: Series, instance: Instance, frames: str) -> Response:
        """Frames as JPEG or PNG (WADO-RS)."""
        return _pictures(request, shelf, [shelf.one(study, series, instance)], frame_numbers(frames))

    @router.get("/studies/{study}/series/{series}/rendered", responses=answers)
    def series(request: Request, study: Study, series: Series) -> Response:
        """The first frame of each image of a series (WADO-RS)."""
        return _pictures(request, shelf, shelf.find(study, series).objects, [1])

    @router.get("/studies/{study}/rendered", responses=answers)
    def study(request: Request, study: Study) -> Response:
        """The first frame of each image of a study (WADO-RS)."""
        return _pictures(request, shelf, shelf.find(study).objects, [1])

    @router.get("/studies/{study}/thumbnail", responses=answers)
    def study_thumbnail(request: Request, study: Study) -> Response:
        """A small picture of the first image of a study (WADO-RS)."""
        return _thumbnail(request, shelf, shelf.find(study).objects, 1)

    @router.get("/studies/{study}/series/{series}/thumbnail", responses=answers)
    def series_thumbnail(request: Request, study: Study, series: Series) -> Response:
        """A small picture of the first image of a series (WADO-RS)."""
        return _thumbnail(request, shelf, shelf.find(study, series).objects, 1)

    @router.get(f"{one}/thumbnail", responses=answers)
    def instance_thumbnail(request: Request, study: Study, series: Series, instance: Instance) -> Response:
        """A small picture of an instance (WADO-RS)."""
        return _thumbnail(request, shelf, [shelf.one(study, series, instance)], 1)

    @router.get(f"{one}/frames/{{frame}}/thumbnail", responses=answers)
    def frame_thumbnail(request: Request, study: Study, series: Series, instance: Instance, frame: str) -> Response:
        """A small picture of a frame (WADO-RS)."""
        return _thumbnail(request, shelf, [shelf.one(study, series, instance)], frame_numbers(frame)[0])

    return router


def _wish(request: Request) -> _Wish:
    query = request.query_params
    for accepted in parse_accept(request.headers.get("accept"), query.get("accept")):
        media_type = next((name for name in _TYPES if accepted.covers(name)), None)
        if media_type is not None:
            break
    else:
        raise NotAcceptable(f"this is to be had as {' or '.join(_TYPES)}")
    quality = query.get("quality", "90")
    if not re.fullmatch(r"\d{1,3}", quality) or not 1 <= int(quality) <= 100:
        raise BadRequest("quality is 1 to 100")
    try:
        window = parse_window(query["window"]) if "window" in query else None
        viewport = parse_viewport(query["viewport"]) if "viewport" in query else None
    except ValueError as error:
        raise BadRequest(str(error)) from error
    return _Wish(media_type, accepted.is_multipart, window, viewport, min(int(quality), 95))


def _pictures(request: Request, shelf: Shelf, objects: Sequence[Held], numbers: list[int]) -> Response:
    """Those of ``objects`` that are images; several, or where that is asked for, as multipart."""
    wish = _wish(request)
    found: list[tuple[str, bytes]] = []
    why = ""
    for held in objects[:_MOST_RENDERED]:
        try:
            pictures = _render(shelf, held, numbers, wish)
        except DecodeError as error:
            why = error.detail
            continue
        found += [(url_of(base_of(request), held), picture) for picture in pictures]
    if not found:
        raise NotAcceptable(f"it cannot be rendered: {why}")
    if len(found) == 1 and not wish.is_multipart:
        return Response(found[0][1], 200, NO_STORE, wish.media_type)
    boundary = new_boundary()
    parts = [
        part_head(boundary, wish.media_type, f"{url}/rendered", first=not number) + picture
        for number, (url, picture) in enumerate(found)
    ]
    kind = f'{MULTIPART}; type="{wish.media_type}"; boundary={boundary}'
    return Response(b"".join(parts) + closing(boundary), 200, NO_STORE, kind)


def _thumbnail(request: Request, shelf: Shelf, objects: Sequence[Held], number: int) -> Response:
    wish = _wish(request)
    small = _Wish(wish.media_type, False, wish.window, wish.viewport or _THUMBNAIL, wish.quality)
    why = ""
    for held in objects[:_MOST_RENDERED]:
        try:
            return Response(_render(shelf, held, [number], small)[0], 200, NO_STORE, small.media_type)
        except DecodeError as error:
            why = error.detail
    raise NotAcceptable(f"it cannot be rendered: {why}")


def _render(shelf: Shelf, held: Held, numbers: list[int], wish: _Wish) -> list[bytes]:
    image = Image(shelf.read(held), shelf.limits.max_pixels)
    if max(numbers) > image.frames:
        raise NotFound(f"the instance has {image.frames} frame(s)")

    return [_draw(image, number, wish) for number in numbers[:_MOST_RENDERED]]


def _draw(image: Image, number: int, wish: _Wish) -> bytes:
    (values,) = image.values([number])
    try:
        screen = to_screen(values, image.ds, wish.window)
    except Exception as error:  # tables that contradict each other, of any data set that a stranger sent
        raise DecodeError("undecodable", f"its tables cannot be applied ({type(error).__name__})") from error
    try:
        return to_picture(screen, wish.viewport, wish.media_type, wish.quality)
    except ValueError as error:
        raise BadRequest(str(error)) from error
