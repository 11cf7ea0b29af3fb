"""WADO-RS: rendered instances, frames and thumbnails (PS3.18 sections 10.4.1.1.3 and 10.4.1.1.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from chexmodels.dicom.errors import DecodeError
from chexnode.dicomweb.media_types import MediaType
from chexnode.dicomweb.multipart import Part
from chexnode.vocabulary.errors import Transient
from chexnode.web.dicomweb import document
from chexnode.web.dicomweb.decoder import CHILDREN, Decoder
from chexnode.web.dicomweb.frames import frame_numbers
from chexnode.web.dicomweb.objects import ObjectStore
from chexnode.web.dicomweb.render import Rendering, Viewport, parse_viewport, parse_window
from chexnode.web.dicomweb.responses import (
    NO_STORE,
    BadRequest,
    Descriptions,
    NotAcceptable,
    NotFound,
    accepted_by,
    multipart,
    takes_multipart,
    warning,
)
from chexnode.web.dicomweb.routes import INSTANCE, Instance, Resource, Series, Study, at_each_level, base_url, url_of
from chexnode.web.dicomweb.stored import Stored

PICTURES = ("image/jpeg", "image/png", "image/gif")
"""What images are rendered to (PS3.18 table 8.7.4-1)."""
_THUMBNAIL = Viewport(128, 128)
_MOST_RENDERED = 100
_MOST_BYTES = 100_000_000
"""Of one answer, which is in memory until it has gone out."""
_MOST_AT_ONCE = 300_000_000
"""Of all answers that are made or on their way, to slow readers too."""
_PROFILES = frozenset({"no", "yes", "srgb", "adobergb", "rommrgb", "displayp3"})
_MADE_PROFILES = frozenset({"no", "yes", "srgb"})


def routes(objects: ObjectStore, decoder: Decoder) -> APIRouter:
    """Rendered resources and thumbnails."""
    router = APIRouter()
    answers: Descriptions = {
        200: {"content": {name: {} for name in (*PICTURES, *document.TYPES)}, "description": "The picture, or text."},
        206: {"description": "Pictures of some: retention has deleted others, or there are too many."},
        400: {"description": "A rendering parameter or the frame list cannot be read."},
        404: {"description": "Never held here, or there is no such frame."},
        406: {"description": "It is no image or report, cannot be decoded, or not be had in a type that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
    }
    pictures = {key: value for key, value in answers.items() if key != 206}
    renderer = _Renderer(objects, decoder)

    async def all_rendered(request: Request, resource: Resource) -> Response:
        return await renderer.in_turn(renderer.all, request, resource, None)

    async def thumbnail(request: Request, resource: Resource) -> Response:
        return await renderer.in_turn(renderer.thumbnail, request, resource, 1)

    about = "Each image of {} as JPEG, PNG or GIF, each report as text (WADO-RS)."
    at_each_level(router, "/rendered", "rendered", about, all_rendered, answers)
    about = "A small picture of the first image of {} (WADO-RS)."
    at_each_level(router, "/thumbnail", "thumbnail", about, thumbnail, pictures)

    @router.get(f"{INSTANCE}/frames/{{frames}}/rendered", responses=pictures)
    async def frames(request: Request, study: Study, series: Series, instance: Instance, frames: str) -> Response:
        """Frames as JPEG, PNG or GIF (WADO-RS)."""
        resource = Resource(study, series, instance)
        return await renderer.in_turn(renderer.all, request, resource, frame_numbers(frames))

    @router.get(f"{INSTANCE}/frames/{{frame}}/thumbnail", responses=pictures)
    async def frame_thumbnail(
        request: Request, study: Study, series: Series, instance: Instance, frame: str
    ) -> Response:
        """A small picture of a frame (WADO-RS)."""
        resource = Resource(study, series, instance)
        return await renderer.in_turn(renderer.thumbnail, request, resource, frame_numbers(frame)[0])

    return router


def read_rendering(query: Mapping[str, str]) -> tuple[Rendering, list[str]]:
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
    rendering = Rendering(PICTURES[0], window, viewport, min(int(quality), 95), annotations, profile in ("yes", "srgb"))
    return rendering, warnings


class _NoSuchForm(NotAcceptable):
    """An object has no form of a type that is accepted; others may."""


class _Memory:
    """Bytes of all answers in memory. Thread safe."""

    def __init__(self, most: int) -> None:
        self._left, self._lock = most, Lock()

    def take(self, count: int) -> None:
        """Raises Transient where there is no room now. A negative count gives back."""
        with self._lock:
            if count > self._left:
                raise Transient("the answers that are on their way take all the memory there is for them")
            self._left -= count


class _Room:
    """What still fits into an answer."""

    def __init__(self, memory: _Memory) -> None:
        self._memory, self._taken = memory, 0

    def take(self, content: bytes) -> bytes:
        """Give ``content`` back. Raises NotAcceptable where it does not fit, and Transient where it does not now."""
        if self._taken + len(content) > _MOST_BYTES:
            raise NotAcceptable(f"it is more than {_MOST_BYTES} bytes: ask for fewer or smaller pictures")
        self._memory.take(len(content))
        self._taken += len(content)
        return content

    def leave(self) -> None:
        """The answer is gone."""
        self._memory.take(-self._taken)
        self._taken = 0


class _Answer(Response):
    """An answer that takes its room until it has gone out, or its caller has."""

    def __init__(self, answer: Response, room: _Room) -> None:
        super().__init__()
        self.raw_headers, self.status_code = answer.raw_headers, answer.status_code
        self._answer, self._room = answer, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await self._answer(scope, receive, send)
        finally:
            self._room.leave()


class _Renderer:
    """Finds, decodes and draws."""

    def __init__(self, objects: ObjectStore, decoder: Decoder) -> None:
        self._objects, self._decoder = objects, decoder
        # Who waits for a decoding child waits here, where that takes no thread from anybody else.
        self._turns = CapacityLimiter(2 * CHILDREN)
        self._memory = _Memory(_MOST_AT_ONCE)

    async def in_turn(self, render: Callable[..., Response], *arguments: object) -> Response:
        """Render in a thread, when there is one for it."""
        room = _Room(self._memory)
        try:
            return _Answer(await to_thread.run_sync(render, room, *arguments, limiter=self._turns), room)
        except BaseException:
            room.leave()
            raise

    def all(self, room: _Room, request: Request, resource: Resource, numbers: list[int] | None) -> Response:
        """Those of the objects that can be rendered in a type that is accepted: several as multipart, else the first.

        ``numbers``: frames; None: all of them where the answer has room for several, else the first.
        """
        rendering, warnings = read_rendering(request.query_params)
        accepted = accepted_by(request)
        if numbers is not None and len(numbers) > _MOST_RENDERED:
            raise BadRequest(f"at most {_MOST_RENDERED} frames are rendered at once")
        located, base = self._objects.find(resource), base_url(request)
        parts: list[Part] = []
        partial, why = located.missing > 0 or len(located.objects) > _MOST_RENDERED, ""
        takes_several = any(takes_multipart(one) for one in accepted)
        for entry in located.objects[:_MOST_RENDERED]:
            try:
                kind, contents, is_all = self._rendered(self._objects.open(entry), accepted, rendering, numbers, room)
            except (DecodeError, _NoSuchForm) as error:
                why = error.detail
                continue
            partial = partial or not is_all
            url = f"{url_of(base, entry)}/rendered"
            parts += [Part(kind, [content], url, len(content)) for content in contents]
            if parts and not takes_several and len(located.objects) > 1:
                break
        if not parts:
            raise NotAcceptable(f"it cannot be rendered: {why}")
        status, warned = 206 if partial else 200, warning(base, warnings)
        first = parts[0]
        if len(parts) == 1 and not any(one.is_multipart and one.covers(first.content_type) for one in accepted[:1]):
            headers = NO_STORE | warned | {"Content-Location": first.location}
            return Response(b"".join(first.content), status, headers, first.content_type)
        response = multipart(first.content_type, parts, status)
        response.headers.update(warned)
        return response

    def _rendered(
        self,
        stored: Stored,
        accepted: Sequence[MediaType],
        rendering: Rendering,
        numbers: list[int] | None,
        room: _Room,
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
        rendering = replace(rendering, media_type=kind)
        together = kind == "image/gif" and numbers is None
        groups = [wanted] if together else [[n] for n in wanted]
        is_all = numbers is not None or len(wanted) in (1, image.frames)
        return kind, [room.take(self._draw(stored, some, rendering)) for some in groups], is_all

    def thumbnail(self, room: _Room, request: Request, resource: Resource, number: int) -> Response:
        """A picture of the first object that can be rendered."""
        rendering, warnings = read_rendering(request.query_params)
        kind, _ = _preferred(accepted_by(request), PICTURES)
        rendering = replace(rendering, media_type=kind, viewport=rendering.viewport or _THUMBNAIL)
        why = ""
        for entry in self._objects.find(resource).objects[:_MOST_RENDERED]:
            try:
                stored = self._objects.open(entry)
                if number > stored.image.frames:
                    raise NotFound(f"the instance has {stored.image.frames} frame(s)")
                picture = room.take(self._draw(stored, [number], rendering))
            except DecodeError as error:
                why = error.detail
                continue
            return Response(picture, 200, NO_STORE | warning(base_url(request), warnings), kind)
        raise NotAcceptable(f"it cannot be rendered: {why}")

    def _draw(self, stored: Stored, numbers: list[int], rendering: Rendering) -> bytes:
        try:
            return self._decoder.picture(stored, numbers, rendering)
        except ValueError as error:
            raise BadRequest(str(error)) from error


def _preferred(accepted: Sequence[MediaType], offered: Sequence[str]) -> tuple[str, bool]:
    """(media type, whether as multipart). Raises _NoSuchForm."""
    for one in accepted:
        for name in offered:
            if one.covers(name):
                return name, one.is_multipart
    raise _NoSuchForm(f"this is to be had as {' or '.join(offered)}")
