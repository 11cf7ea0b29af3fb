"""Answers made of data set models: JSON in one array, or XML in parts (PS3.18 sections 8.7.3.2, 10.4.3.3.2, F)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastapi.responses import Response, StreamingResponse

from chexnode.dicomweb.json_model import Json
from chexnode.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, MULTIPART, MediaType
from chexnode.dicomweb.multipart import closing, new_boundary, part_head
from chexnode.dicomweb.xml_model import to_xml
from chexnode.web.dicomweb.errors import NotAcceptable
from chexnode.web.dicomweb.places import to_json

#: What an OpenAPI document says of them.
CONTENT: Mapping[str, object] = {DICOM_JSON: {}, f'{MULTIPART}; type="{DICOM_XML}"': {}}


def model_type(accepted: Sequence[MediaType]) -> str:
    """The type that several models are answered with, of each part where it is XML. Raises NotAcceptable."""
    for one in accepted:
        for offered in (DICOM_JSON, JSON, DICOM_XML):
            if one.covers(offered) and (one.essence == "*/*" or one.is_multipart == (offered == DICOM_XML)):
                return offered
    raise NotAcceptable(f'this is to be had as {DICOM_JSON}, or as {MULTIPART}; type="{DICOM_XML}"')


def one_model_type(accepted: Sequence[MediaType]) -> str:
    """The type that a single model is answered with. Raises NotAcceptable."""
    for one in accepted:
        for offered in (DICOM_JSON, JSON, DICOM_XML):
            if one.covers(offered) and not one.is_multipart:
                return offered
    raise NotAcceptable(f"this is to be had as {DICOM_JSON} or {DICOM_XML}")


def encode(model: Json, kind: str) -> bytes:
    """A single model in the type that :func:`one_model_type` chose."""
    return to_xml(model) if kind == DICOM_XML else to_json(model)


def answer(models: Iterable[Json], kind: str, status: int, headers: Mapping[str, str]) -> Response:
    """The models one after the other, in the type that :func:`model_type` chose; streamed unless they are there."""
    media_type, content = kind, _array(models)
    if kind == DICOM_XML:
        boundary = new_boundary()
        media_type = f'{MULTIPART}; type="{DICOM_XML}"; boundary={boundary}'
        content = _parts(models, boundary)
    if isinstance(models, list):
        return Response(b"".join(content), status, headers, media_type)
    return StreamingResponse(content, status, headers, media_type)


def _array(models: Iterable[Json]) -> Iterator[bytes]:
    between = b"["
    for model in models:
        yield between + to_json(model)
        between = b","
    yield b"[]" if between == b"[" else b"]"


def _parts(models: Iterable[Json], boundary: str) -> Iterator[bytes]:
    for number, model in enumerate(models):
        yield part_head(boundary, DICOM_XML, first=not number) + to_xml(model)
    yield closing(boundary)
