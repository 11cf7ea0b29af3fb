"""WADO-RS: studies, series and instances as DICOM files (PS3.18 section 10.4), streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydicom.uid import ExplicitVRLittleEndian

from chexmodels.dicom.errors import DecodeError
from chexnode.dicomweb.media_types import DICOM, MULTIPART, MediaType
from chexnode.dicomweb.multipart import Part
from chexnode.ledger.objects import StoredObject
from chexnode.web.dicomweb.convert import explicit_little
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.objects import ObjectStore
from chexnode.web.dicomweb.pixels import can_decode, default_syntax
from chexnode.web.dicomweb.responses import (
    CONDITIONAL,
    NO_STORE,
    Descriptions,
    NotAcceptable,
    Representation,
    accepted_by,
    multipart,
    takes_multipart,
)
from chexnode.web.dicomweb.routes import Resource, at_each_level, base_url, url_of


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the answer."""

    entry: StoredObject
    transfer_syntax: str
    is_asked_for: bool = True
    """Whether nothing but this transfer syntax will do."""

    @property
    def is_as_stored(self) -> bool:
        return self.transfer_syntax == self.entry.transfer_syntax_uid

    @property
    def content_type(self) -> str:
        return f"{DICOM};transfer-syntax={self.transfer_syntax}" if self.transfer_syntax else DICOM


def routes(objects: ObjectStore, decoder: Decoder) -> APIRouter:
    """Retrieval at three levels."""
    router = APIRouter()
    answers: Descriptions = {
        200: {"content": {f'{MULTIPART}; type="{DICOM}"': {}}, "description": "The files."},
        206: {
            "description": "Some of them: retention has deleted others, or they cannot be had in this form. Or a Range."
        },
        404: {"description": "Never held here."},
        406: {"description": "Not to be had in any form that is accepted."},
        410: {"description": "Deleted when its retention had passed."},
        **CONDITIONAL,
    }

    def answer(request: Request, resource: Resource) -> Response:
        located, base = objects.find(resource), base_url(request)
        ranges, is_multipart = _container(accepted_by(request), len(located.objects))
        files = [file for entry in located.objects if (file := _choose(ranges, entry)) is not None]
        if not files:
            raise NotAcceptable("it is stored in another transfer syntax and cannot be converted to one accepted")
        is_all = not located.missing and len(files) == len(located.objects)
        if is_multipart:
            return _several(objects, decoder, files, base, 200 if is_all else 206)
        single = _single(objects, decoder, files[0], base)
        # What is left of more has the status of a range, and so none can be given of it.
        return (
            single.answer(request) if is_all else StreamingResponse(single.opened(), 206, NO_STORE, single.content_type)
        )

    at_each_level(router, "", "retrieve", "All files of {} (WADO-RS).", answer, answers)
    return router


def _container(accepted: Sequence[MediaType], count: int) -> tuple[list[MediaType], bool]:
    """The ranges of the best container, and whether that is multipart."""
    fitting = [one for one in accepted if one.covers(DICOM) and (takes_multipart(one) or count == 1)]
    if not fitting:
        raise NotAcceptable(f'this is to be had as {MULTIPART}; type="{DICOM}", a single instance as {DICOM} too')
    is_multipart = takes_multipart(fitting[0])
    return [one for one in fitting if takes_multipart(one) == is_multipart], is_multipart


def _choose(ranges: Sequence[MediaType], entry: StoredObject) -> _File | None:
    """The file as stored or in Explicit VR Little Endian, whichever is asked for; None where neither will do."""
    stored = entry.transfer_syntax_uid
    for one in ranges:
        wanted = one.transfer_syntax
        if not wanted:
            return _File(entry, default_syntax(stored), is_asked_for=False)
        if wanted in ("*", stored):
            return _File(entry, stored)
        if wanted == ExplicitVRLittleEndian and can_decode(stored):
            return _File(entry, wanted)
    return None


def _single(objects: ObjectStore, decoder: Decoder, file: _File, base: str) -> Representation:
    """One file by itself. Raises NotAcceptable and Gone."""
    file, converted = _content(objects, decoder, file)
    url, tag = url_of(base, file.entry), objects.tag(file.entry, file.content_type)
    if file.is_as_stored:
        return Representation(url, file.content_type, tag, file.entry.size, partial(objects.content, file.entry))
    return Representation(url, file.content_type, tag, None, lambda *_: converted)


def _content(objects: ObjectStore, decoder: Decoder, file: _File) -> tuple[_File, Iterator[bytes]]:
    """The file, and how it comes: what cannot be converted is given as it is stored, unless that will not do.

    Raises NotAcceptable.
    """
    if not file.is_as_stored:
        try:
            return file, explicit_little(objects.open(file.entry), decoder)
        except DecodeError as error:
            if file.is_asked_for:
                raise NotAcceptable(f"it cannot be converted: {error.detail}") from error
            file = _File(file.entry, file.entry.transfer_syntax_uid)
    return file, objects.content(file.entry)


def _several(
    objects: ObjectStore, decoder: Decoder, files: Sequence[_File], base: str, status: int
) -> StreamingResponse:
    # Whether it can be converted shows only when it is tried, and an answer that has begun cannot say so.
    first = _part(objects, decoder, files[0], base)
    others = (_part(objects, decoder, file, base) for file in files[1:])
    if not all(file.is_as_stored for file in files):
        return multipart(DICOM, chain([first], others), status)
    return multipart(DICOM, [first, *others], status)


def _part(objects: ObjectStore, decoder: Decoder, file: _File, base: str) -> Part:
    file, content = _content(objects, decoder, file)
    length = file.entry.size if file.is_as_stored else None
    return Part(file.content_type, content, url_of(base, file.entry), length)
