"""WADO-RS: rendered instances, frames and thumbnails (PS3.18 sections 10.4.1.1.3 and 10.4.1.1.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from chexmodels.dicom.part10 import DecodeError
from chexnode.dicomweb.media_types import MULTIPART, MediaType
from chexnode.dicomweb.multipart import closing, new_boundary, part_head
from chexnode.web.dicomweb import document
from chexnode.web.dicomweb.decoder import CHILDREN, Decoder
from chexnode.web.dicomweb.errors import BadRequest, NotAcceptable, NotFound, warning
from chexnode.web.dicomweb.frames import frame_numbers
from chexnode.web.dicomweb.places import NO_STORE, Instance, Series, Study, accepted_by, base_of, url_of
from chexnode.web.dicomweb.render import Viewport, Wish, parse_viewport, parse_window
from chexnode.web.dicomweb.shelf import Shelf
from chexnode.web.dicomweb.stored import Stored

PICTURES = ("image/jpeg", "image/png", "image/gif")
"""What images are rendered to (PS3.18 table 8.7.4-1)."""
_THUMBNAIL = Viewport(128, 128)
_MOST_RENDERED = 100
_MOST_BYTES = 500_000_000
"""Of one answer, which is in memory until it has gone out."""
_PROFILES = frozenset({"no", "yes", "srgb", "adobergb", "rommrgb", "displayp3"})
_MADE_PROFILES = frozenset({"no", "yes", "srgb"})


def routes(shelf: Shelf, decoder: Decoder) -> APIRouter:
    """Rendered resources and thumbnails."""
    router = APIRouter()
    answers: dict[int | str, dict[str, object]] = {
        200: {"content": {name: {} for name in (*PICTURES, *document.TYPES)}, "description": "The picture, or text."},
        206: {"description": "Pictures of some: retention has deleted others, or there are too many."},
        400: {"description": "A rendering parameter or the frame list cannot be read."},
        404: {"description": "Never held here, or there is no such frame."},
        406: {"description": "It is no image or report, cannot be decoded, or not be had in a type that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
    }
    pictures = {key: value for key, value in answers.items() if key != 206}
    one = "/studies/{study}/series/{series}/instances/{instance}"
    renderer = _Renderer(shelf, decoder)

    @router.get(f"{one}/rendered", responses=answers)
    async def instance(request: Request, study: Study, series: Series, instance: Instance) -> Response:
        """An instance as JPEG, PNG or GIF, a report as text (WADO-RS)."""
        return await renderer.in_turn(renderer.all, request, None, study, series, instance)

    @router.get(f"{one}/frames/{{frames}}/rendered", responses=pictures)
    async def frames(request: Request, study: Study, series: Series, instance: Instance, frames: str) -> Response:
        """Frames as JPEG, PNG or GIF (WADO-RS)."""
        return await renderer.in_turn(renderer.all, request, frame_numbers(frames), study, series, instance)

    @router.get("/studies/{study}/series/{series}/rendered", responses=answers)
    async def series(request: Request, study: Study, series: Series) -> Response:
        """Each image or report of a series (WADO-RS)."""
        return await renderer.in_turn(renderer.all, request, None, study, series)

    @router.get("/studies/{study}/rendered", responses=answers)
    async def study(request: Request, study: Study) -> Response:
        """Each image or report of a study (WADO-RS)."""
        return await renderer.in_turn(renderer.all, request, None, study)

    @router.get("/studies/{study}/thumbnail", responses=pictures)
    async def study_thumbnail(request: Request, study: Study) -> Response:
        """A small picture of the first image of a study (WADO-RS)."""
        return await renderer.in_turn(renderer.thumbnail, request, 1, study)

    @router.get("/studies/{study}/series/{series}/thumbnail", responses=pictures)
    async def series_thumbnail(request: Request, study: Study, series: Series) -> Response:
        """A small picture of the first image of a series (WADO-RS)."""
        return await renderer.in_turn(renderer.thumbnail, request, 1, study, series)

    @router.get(f"{one}/thumbnail", responses=pictures)
    async def instance_thumbnail(request: Request, study: Study, series: Series, instance: Instance) -> Response:
        """A small picture of an instance (WADO-RS)."""
        return await renderer.in_turn(renderer.thumbnail, request, 1, study, series, instance)

    @router.get(f"{one}/frames/{{frame}}/thumbnail", responses=pictures)
    async def frame_thumbnail(
        request: Request, study: Study, series: Series, instance: Instance, frame: str
    ) -> Response:
        """A small picture of a frame (WADO-RS)."""
        return await renderer.in_turn(renderer.thumbnail, request, frame_numbers(frame)[0], study, series, instance)

    return router


def read_wish(query: Mapping[str, str]) -> tuple[Wish, list[str]]:
    """The rendering parameters (PS3.18 section 8.3.5.1), and warnings of what is not done. Raises BadRequest."""
    quality = query.get("quality", "90")
    if not re.fullmatch(r"\d{1,3}", quality) or not 1 <= int(quality) <= 100:
        raise BadRequest("quality is 1 to 100")
    annotations = tuple(query["annotation"].split(",")) if "annotation" in query else ()
    if not set(annotations) <= {"patient", "technique"}:
        raise BadRequest("annotation is patient, technique or both, with a comma between")
    profile = query.get("iccprofile", "no").lower()
    if profile not in _PROFILES:
        raise BadRequest(f"iccprofile is one of {', '.join(sorted(_PROFILES))}")
    try:
        window = parse_window(query["window"]) if "window" in query else None
        viewport = parse_viewport(query["viewport"]) if "viewport" in query else None
    except ValueError as error:
        raise BadRequest(str(error)) from error
    warnings = [] if profile in _MADE_PROFILES else ["The iccprofile asked for is not supported and was ignored."]
    if query.get("charset", "utf-8").lower() not in ("utf-8", "utf8", "iso_ir 192"):
        warnings.append("The charset asked for is not supported; UTF-8 is used.")
    wish = Wish(PICTURES[0], window, viewport, min(int(quality), 95), annotations, profile in ("yes", "srgb"))
    return wish, warnings


class _Room:
    """What still fits into an answer."""

    def __init__(self) -> None:
        self._left = _MOST_BYTES

    def take(self, content: bytes) -> bytes:
        """Give ``content`` back. Raises NotAcceptable where it does not fit."""
        self._left -= len(content)
        if self._left < 0:
            raise NotAcceptable(f"it is more than {_MOST_BYTES} bytes: ask for fewer or smaller pictures")
        return content


class _Renderer:
    """Finds, decodes and draws."""

    def __init__(self, shelf: Shelf, decoder: Decoder) -> None:
        self._shelf, self._decoder = shelf, decoder
        # Who waits for a decoding child waits here, where that takes no thread from anybody else.
        self._turns = CapacityLimiter(2 * CHILDREN)

    async def in_turn(self, render: Callable[..., Response], *arguments: object) -> Response:
        """Render in a thread, when there is one for it."""
        return await to_thread.run_sync(render, *arguments, limiter=self._turns)

    def all(self, request: Request, numbers: list[int] | None, *uids: str) -> Response:
        """Those of the objects that can be rendered: several, or where that is asked for, as multipart.

        ``numbers``: frames; None: all of them where the answer has room for several, else the first.
        """
        wish, warnings = read_wish(request.query_params)
        accepted = accepted_by(request)
        if numbers is not None and len(numbers) > _MOST_RENDERED:
            raise BadRequest(f"at most {_MOST_RENDERED} frames are rendered at once")
        found = self._shelf.find(*uids)
        parts: list[tuple[str, str, bytes]] = []
        partial, room, why = found.missing > 0 or len(found.objects) > _MOST_RENDERED, _Room(), ""
        for held in found.objects[:_MOST_RENDERED]:
            url = f"{url_of(base_of(request), held)}/rendered"
            try:
                kind, contents, is_all = self._rendered(self._shelf.open(held), accepted, wish, numbers, room)
            except DecodeError as error:
                why = error.detail
                continue
            partial = partial or not is_all
            parts += [(url, kind, content) for content in contents]
        if not parts:
            raise NotAcceptable(f"it cannot be rendered: {why}")
        headers = NO_STORE | warning(base_of(request), warnings)
        status = 206 if partial else 200
        if len(parts) == 1 and not any(one.is_multipart and one.covers(parts[0][1]) for one in accepted[:1]):
            return Response(parts[0][2], status, headers | {"Content-Location": parts[0][0]}, parts[0][1])
        return _multi(parts, status, headers)

    def _rendered(
        self, stored: Stored, accepted: Sequence[MediaType], wish: Wish, numbers: list[int] | None, room: _Room
    ) -> tuple[str, list[bytes], bool]:
        """(media type, pictures or text, whether that is all of them) of one object.

        Raises DecodeError, NotAcceptable, NotFound and BadRequest.
        """
        header = stored.header
        if numbers is None and stored.part10.pixel_data is None and document.is_report(header):
            kind, _ = _preferred(accepted, document.TYPES)
            return kind, [room.take(document.render(header, kind))], True
        image = stored.image
        if numbers is not None and max(numbers) > image.frames:
            raise NotFound(f"the instance has {image.frames} frame(s)")
        kind, is_multipart = _preferred(accepted, PICTURES)
        wanted = (
            numbers or [*range(1, image.frames + 1)][: _MOST_RENDERED if is_multipart or kind == "image/gif" else 1]
        )
        wish = replace(wish, media_type=kind)
        together = kind == "image/gif" and numbers is None
        groups = [wanted] if together else [[n] for n in wanted]
        is_all = numbers is not None or len(wanted) in (1, image.frames)
        return kind, [room.take(self._draw(stored, some, wish)) for some in groups], is_all

    def thumbnail(self, request: Request, number: int, *uids: str) -> Response:
        """A picture of the first object that can be rendered."""
        wish, warnings = read_wish(request.query_params)
        kind, _ = _preferred(accepted_by(request), PICTURES)
        wish = replace(wish, media_type=kind, viewport=wish.viewport or _THUMBNAIL)
        why = ""
        for held in self._shelf.find(*uids).objects[:_MOST_RENDERED]:
            try:
                stored = self._shelf.open(held)
                if number > stored.image.frames:
                    raise NotFound(f"the instance has {stored.image.frames} frame(s)")
                picture = self._draw(stored, [number], wish)
            except DecodeError as error:
                why = error.detail
                continue
            return Response(picture, 200, NO_STORE | warning(base_of(request), warnings), kind)
        raise NotAcceptable(f"it cannot be rendered: {why}")

    def _draw(self, stored: Stored, numbers: list[int], wish: Wish) -> bytes:
        try:
            return self._decoder.picture(stored, numbers, wish)
        except ValueError as error:
            raise BadRequest(str(error)) from error


def _preferred(accepted: Sequence[MediaType], offered: Sequence[str]) -> tuple[str, bool]:
    """(media type, whether as multipart). Raises NotAcceptable."""
    for one in accepted:
        for name in offered:
            if one.covers(name):
                return name, one.is_multipart
    raise NotAcceptable(f"this is to be had as {' or '.join(offered)}")


def _multi(parts: Sequence[tuple[str, str, bytes]], status: int, headers: dict[str, str]) -> Response:
    boundary = new_boundary()
    pieces: list[bytes] = []
    for number, (url, kind, content) in enumerate(parts):
        pieces += [part_head(boundary, kind, url, first=not number), content]
    pieces.append(closing(boundary))
    headers = headers | {"Content-Length": str(sum(map(len, pieces)))}
    return StreamingResponse(pieces, status, headers, f'{MULTIPART}; type="{parts[0][1]}"; boundary={boundary}')
