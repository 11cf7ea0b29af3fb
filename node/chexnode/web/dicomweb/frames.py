"""WADO-RS: frames, and what is pixels (PS3.18 sections 10.4.1.1.5 and 10.4.1.1.6)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydicom.uid import ExplicitVRLittleEndian

from chexmodels.dicom.errors import DecodeError
from chexnode.dicomweb.media_types import BYTES, IMAGE_TYPES, MULTIPART, UNREGISTERED, MediaType
from chexnode.dicomweb.multipart import Part
from chexnode.ledger.objects import StoredObject
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.objects import ObjectStore
from chexnode.web.dicomweb.pixels import Image, can_decode, default_syntax
from chexnode.web.dicomweb.responses import (
    CONDITIONAL,
    BadRequest,
    Descriptions,
    NotAcceptable,
    NotFound,
    Representation,
    accepted_by,
    cut,
    multipart,
    takes_multipart,
)
from chexnode.web.dicomweb.routes import INSTANCE, Instance, Series, Study, base_url, url_of
from chexnode.web.dicomweb.stored import Stored

_MOST_FRAMES = 100_000


def routes(objects: ObjectStore, decoder: Decoder) -> APIRouter:
    """Frames of one instance."""
    router = APIRouter()
    answers: Descriptions = {
        200: {"content": {f"{MULTIPART}": {}, BYTES: {}}, "description": "The bytes."},
        206: {"description": "The bytes asked for by Range."},
        400: {"description": "The list of frames cannot be read."},
        404: {"description": "Never held here, or there is no such frame."},
        406: {"description": "Not to be had in any form that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
        **CONDITIONAL,
    }

    @router.get(f"{INSTANCE}/frames/{{frames}}", responses=answers)
    def frames(request: Request, study: Study, series: Series, instance: Instance, frames: str) -> Response:
        """Frames by number from 1, as they are stored or decoded (WADO-RS)."""
        numbers = frame_numbers(frames)
        entry = objects.instance(study, series, instance)
        stored = with_pixels(objects, entry)
        if max(numbers) > stored.image.frames:
            raise NotFound(f"the instance has {stored.image.frames} frame(s)")
        form = choose(accepted_by(request), stored.image, len(numbers))
        urls = [f"{url_of(base_url(request), entry)}/frames/{number}" for number in numbers]
        if form.is_multipart:
            return parts(form, urls, pieces(form, stored, decoder, numbers))
        tag = objects.tag(entry, form.content_type)
        return single_frame(form, stored, decoder, numbers[0], urls[0], tag).answer(request)

    return router


def frame_numbers(text: str) -> list[int]:
    """A list of frame numbers such as ``1,3``. Raises BadRequest."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise BadRequest("frames are a list of numbers from 1, such as 1,3")
    numbers = [int(one) for one in text.split(",")]
    if min(numbers) < 1 or len(numbers) > _MOST_FRAMES:
        raise BadRequest("frames are counted from 1")
    return numbers


def with_pixels(objects: ObjectStore, entry: StoredObject) -> Stored:
    """The object opened, its image attributes read. Raises NotAcceptable where it has no pixels."""
    try:
        stored = objects.open(entry)
        _ = stored.image
    except DecodeError as error:
        raise NotAcceptable(f"no frames: {error.detail}") from error
    return stored


@dataclass(frozen=True, slots=True)
class Form:
    """A form that pixels can be had in."""

    media_type: str
    transfer_syntax: str
    is_stored: bool
    is_multipart: bool = True

    @property
    def content_type(self) -> str:
        """Of one part."""
        return f"{self.media_type};transfer-syntax={self.transfer_syntax}" if self.transfer_syntax else self.media_type


def choose(accepted: Sequence[MediaType], image: Image, count: int) -> Form:
    """The best form that is accepted for ``count`` frames. Raises NotAcceptable.

    Where no transfer syntax is asked for, pixels are decoded, unless lossy compression made them; where any will do
    (``*``), they come as they are stored.
    """
    stored = image.transfer_syntax
    picture = None if image.is_native else IMAGE_TYPES.get(stored)
    decoded = [Form(BYTES, ExplicitVRLittleEndian, False)] if can_decode(stored) else []
    hidden = [] if image.is_native else [Form(BYTES, stored, True)]
    kept = [Form(kind, stored, True) for kind in (picture, UNREGISTERED.get(picture or "")) if kind] + hidden
    usual = decoded + kept if default_syntax(stored) == ExplicitVRLittleEndian else kept + decoded
    for one in accepted:
        is_multipart = takes_multipart(one)
        if count > 1 and not is_multipart:
            continue
        wanted = one.transfer_syntax
        for form in kept + decoded if wanted == "*" else usual:
            if not one.covers(form.media_type):
                continue
            if wanted in ("*", form.transfer_syntax) or (
                not wanted and not (form.is_stored and form.media_type == BYTES)
            ):
                return Form(form.media_type, form.transfer_syntax, form.is_stored, is_multipart)
    raise NotAcceptable(f"frames are to be had as {BYTES}" + (f" or {picture}" if picture else ""))


def pieces(form: Form, stored: Stored, decoder: Decoder, numbers: list[int]) -> Iterator[bytes]:
    """The frames in that form. Raises NotAcceptable where the first cannot be had."""
    frames = stored.image.stored(numbers) if form.is_stored else decoder.frames(stored, numbers)
    try:
        first = next(frames)  # what cannot be decoded shows now, while that can still be said
    except DecodeError as error:
        raise NotAcceptable(f"the frames cannot be had in this form: {error.detail}") from error
    return chain([first], frames)


def single_frame(form: Form, stored: Stored, decoder: Decoder, number: int, url: str, tag: str) -> Representation:
    """A frame by itself in that form; of native ones no more is read than is asked for."""
    image = stored.image
    if form.is_stored:
        return Representation(url, form.content_type, tag, None, lambda *_: image.stored([number]))
    if image.is_native:
        return Representation(url, form.content_type, tag, image.frame_bytes, partial(image.native_part, number))
    return Representation(
        url,
        form.content_type,
        tag,
        image.frame_bytes,
        lambda start, end: cut(decoder.frames(stored, [number]), start, end),
    )


def parts(form: Form, urls: Sequence[str], content: Iterator[bytes]) -> StreamingResponse:
    """One part each."""
    frames = (Part(form.content_type, [frame], url) for url, frame in zip(urls, content, strict=True))
    return multipart(form.media_type, frames)
