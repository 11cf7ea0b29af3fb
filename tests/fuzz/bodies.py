"""Bodies of Store requests (PS3.18 section 10.5) and their mutations: of the files, of the metadata, of the multipart.

The metadata is mutated as a model, before it becomes JSON or XML, the multipart as parts and as bytes.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from random import Random
from typing import Any

import pydicom
from pydicom.encaps import generate_frames

from chexnode.dicomweb.xml_model import to_xml
from chexnode.receive.filemeta import Announced, file_prefix
from fuzz import files
from support.senders import EXPLICIT_VR, Part10

Model = dict[str, Any]

DICOM, JSON, XML = "application/dicom", "application/dicom+json", "application/dicom+xml"
BYTES = "application/octet-stream"
BOUNDARY = "fuzz-boundary"
_TYPES = {
    EXPLICIT_VR: BYTES,
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
}
_KINDS = (*_TYPES.values(), DICOM, JSON, XML, "image/jphc", "text/plain", "multipart/mixed", "x", "*/*", "")
_VRS = tuple(vr.decode("latin-1") for vr in files.VRS)
_TAGS = (*(f"{tag:08X}" for tag in files.TAGS), "7fe00010", "", "0008", "GGGGEEEE", "00080018 ", "00090010", "00091001")
_LEAVES = (
    *(None, True, 0, -1, 2**31, 2**64, 10**300, 1e308, float("nan"), float("-inf"), "", " ", "1.2", "\0", "\ud800"),
    *("x" * 70_000, "胸部", "\\", "1\\2", [], [None], [[]], {}, {"a": []}, {"Alphabetic": 5}, {"Alphabetic": "a^b"}),
    *({"vr": "SQ"}, {"00080018": {"vr": "UI", "Value": ["1.2"]}}, "AAAA", "=", "9" * 5000),
)
_DEPTHS = (3, 63, 64, 65, 200)
_OPEN = b'<DicomAttribute tag="0040A730" vr="SQ"><Item number="1">'
_DEEPEST = {
    JSON: b"[" + b'{"0040A730":{"vr":"SQ","Value":[' * 4000 + b"]}}" * 4000 + b"]",
    XML: b"<NativeDicomModel>" + _OPEN * 4000 + b"</Item></DicomAttribute>" * 4000 + b"</NativeDicomModel>",
}
_TOKENS = (
    *(f"--{BOUNDARY}".encode(), f"\r\n--{BOUNDARY}\r\n".encode(), f"\r\n--{BOUNDARY}--\r\n".encode(), b"\r\n\r\n"),
    *(b"\r\n", b"\n", b"--", b"\0", b"Content-Type: application/dicom", b"\r\nContent-Location: a\r\n", b"DICM"),
    *(b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"&a;", b"<Value>", b"]]>", b"[" * 3000, b"{" * 3000, b"9" * 5000, b'"'),
)


@dataclass(frozen=True)
class Body:
    """One request."""

    content_type: str
    content: bytes
    digests: tuple[str, ...] = ()
    """SHA-256 (hex) of each data set in it; none where they cannot be told."""
    study: str = ""
    """In the path."""
    missing: int = 0
    """Bytes that are announced and never come."""


@dataclass
class _Request:
    """What a body is made of."""

    kind: str
    parts: list[_Part]
    boundary: str = BOUNDARY
    end: bytes = b"--\r\n"
    digests: list[str] | None = field(default_factory=list)


@dataclass
class _Part:
    headers: list[str]
    content: bytes


def mutated(random: Random, images: Sequence[Part10]) -> tuple[Body, list[str]]:
    """A request that is to store ``images``, after one to four mutations, and their names."""
    names: list[str] = []
    request = random.choice((_files, _files, _models, _models, _models))(random, images, names)
    for _ in range(random.choice((0, 1, 1, 2))):
        mutation = random.choice(_OF_PARTS)
        mutation(random, request)
        names.append(mutation.__name__.strip("_"))
    content = b"".join(_encoded(request, part) for part in request.parts)
    content += f"\r\n--{request.boundary}".encode("latin-1", "replace") + request.end
    content_type = f'multipart/related; type="{request.kind}"; boundary="{request.boundary}"'
    if request.kind == DICOM and len(request.parts) == 1 and random.random() < 0.2:
        content, content_type = request.parts[0].content, DICOM
        names.append("alone")
    body = Body(content_type, content, tuple(request.digests or ()))
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        change = random.choice(_OF_BODIES)
        body = change(random, body)
        names.append(change.__name__.strip("_"))
    return body, names


def _encoded(request: _Request, part: _Part) -> bytes:
    head = "\r\n".join([f"\r\n--{request.boundary}", *part.headers, "", ""])
    return head.encode("latin-1", "replace") + part.content


def file_of(part: Part10) -> bytes:
    """``part`` as a file."""
    announced = Announced(part.sop_class_uid, part.sop_instance_uid, part.transfer_syntax_uid)
    return file_prefix(announced, "FUZZ") + part.data


def _files(random: Random, images: Sequence[Part10], names: list[str]) -> _Request:
    """Files, one or more of them broken."""
    request = _Request(DICOM, [])
    for image in images:
        part = image
        if random.random() < 0.6:
            part, made = files.mutated(random, image)
            names += made
        request.parts.append(_Part([f"Content-Type: {DICOM}"], file_of(part)))
        if request.digests is not None:
            request.digests.append(hashlib.sha256(part.data).hexdigest())
        if part.data[:2] == b"\x02\x00":  # is taken for more of the file meta information
            request.digests = None
    return request


def _models(random: Random, images: Sequence[Part10], names: list[str]) -> _Request:
    """Metadata and bulk data in parts of their own."""
    models, bulk = [], []
    for number, image in enumerate(images):
        described = _described(image.transfer_syntax_uid, image.data)
        if described is None:
            return _files(random, images, names)
        model, frames = deepcopy(described[0]), described[1]
        location = f"bulk/{number}"
        model["7FE00010"] = {"vr": "OW", "BulkDataURI": location}
        model["00084000"] = {"vr": "LT", "BulkDataURI": f"{location}/text"}
        for _ in range(random.choice((0, 1, 1, 2, 5))):
            mutation = random.choice(_OF_MODELS)
            mutation(random, model)
            names.append(mutation.__name__.strip("_"))
        models.append(model)
        kind = _TYPES[image.transfer_syntax_uid]
        located = {location: frames[0]} if len(frames) == 1 else dict(zip(_numbered(location), frames, strict=False))
        bulk += [_Part([f"Content-Type: {kind}", f"Content-Location: {at}"], one) for at, one in located.items()]
        bulk.append(_Part([f"Content-Type: {BYTES}", f"Content-Location: {location}/text"], "Thorax für".encode()))
    kind = random.choice((JSON, JSON, XML))
    try:
        documents = [to_xml(model) for model in models] if kind == XML else [json.dumps(models).encode()]
    except Exception:  # what was made of the model has no document, or is too deep for our own writers
        documents = [_DEEPEST[kind]]
    return _Request(kind, [*(_Part([f"Content-Type: {kind}"], one) for one in documents), *bulk], digests=None)


def _numbered(location: str) -> list[str]:
    return [f"{location}/frames/{number}" for number in range(1, 100)]


@cache
def _described(transfer_syntax_uid: str, data: bytes) -> tuple[Model, list[bytes]] | None:
    """The model and the frames of an image; None where it has none that could come so."""
    if transfer_syntax_uid not in _TYPES:
        return None
    try:
        ds = pydicom.dcmread(BytesIO(file_of(Part10("1.2", "1.2", transfer_syntax_uid, data))))
        pixels = ds.PixelData
        del ds.PixelData
        model = ds.to_json_dict(bulk_data_threshold=10**9)
        frames = [pixels] if _TYPES[transfer_syntax_uid] == BYTES else [*generate_frames(pixels, number_of_frames=1)]
    except Exception:  # of a file that is hostile already
        return None
    return {tag: one for tag, one in model.items() if tag < "7FE0"}, frames


# Of the model


def _somewhere(random: Random, model: Model) -> tuple[Model, str]:
    """A data set in the model, mostly the outermost, and one of its tags."""
    holder = model
    while random.random() < 0.5:
        inner = [
            item
            for one in holder.values()
            if isinstance(one, dict) and one.get("vr") == "SQ" and isinstance(one.get("Value"), list)
            for item in one["Value"]
            if isinstance(item, dict) and item
        ]
        if not inner:
            break
        holder = random.choice(inner)
    return holder, random.choice([*holder]) if holder else "00080018"


def _drop(random: Random, model: Model) -> None:
    holder, tag = _somewhere(random, model)
    holder.pop(tag, None)


def _other_vr(random: Random, model: Model) -> None:
    holder, tag = _somewhere(random, model)
    holder[tag] = {**_element(holder, tag), "vr": random.choice((*_VRS, "", None, 5, "OB or OW", []))}


def _element(holder: Model, tag: str) -> Model:
    one = holder.get(tag)
    return one if isinstance(one, dict) else {"vr": "LO"}


def _other_value(random: Random, model: Model) -> None:
    holder, tag = _somewhere(random, model)
    leaf = random.choice((*_LEAVES, *(value.decode("latin-1") for value in files.VALUES)))
    holder[tag] = {"vr": _element(holder, tag).get("vr"), "Value": leaf if random.random() < 0.3 else [leaf]}


def _other_kind(random: Random, model: Model) -> None:
    """Inline or in a part what is neither."""
    holder, tag = _somewhere(random, model)
    there = random.choice(("InlineBinary", "BulkDataURI"))
    uris = ("bulk/0", "bulk/0/text", "bulk/1", "nowhere", "", "bulk/0/frames/1", None, 5, ["bulk/0"])
    inline = (b64encode(random.randbytes(7)).decode(), "AAAA", "=", "\0", None, 7, [])
    holder[tag] = {
        "vr": _element(holder, tag).get("vr"),
        there: random.choice(uris if there == "BulkDataURI" else inline),
    }


def _other_tag(random: Random, model: Model) -> None:
    holder, tag = _somewhere(random, model)
    holder[random.choice((*_TAGS, f"{random.getrandbits(32):08X}"))] = holder.pop(tag, {"vr": "LO"})


def _no_element(random: Random, model: Model) -> None:
    holder, tag = _somewhere(random, model)
    holder[tag] = random.choice(_LEAVES)


def _deep(random: Random, model: Model) -> None:
    holder, tag = _somewhere(random, model)
    one = holder.get(tag)
    for _ in range(random.choice(_DEPTHS)):
        one = {"vr": "SQ", "Value": [{"0040A730": one}]}
    holder["0040A730"] = one


def _many(random: Random, model: Model) -> None:
    vr = random.choice(("OB", "UT", "US", "DS", "UN"))
    for number in range(random.choice((10, 1000))):
        model[f"0011{0x1000 + number:04X}"] = {"vr": vr, "BulkDataURI": "bulk/0"}


_OF_MODELS: tuple[Callable[[Random, Model], None], ...] = (
    *(_drop, _other_vr, _other_value, _other_value, _other_kind, _other_kind, _other_tag, _no_element, _deep, _many),
)


# Of the parts


def _headers(random: Random, request: _Request) -> None:
    """None, others, too many, or what is none."""
    part = random.choice(request.parts)
    headers: tuple[list[str], ...] = (
        *([], [""], ["no colon"], [": nameless"], ["X: " + "y" * 20_000], ["A: b\r\n folded"], ["\xff\xfe: \x00"]),
        *([*part.headers, *part.headers], part.headers[:1], part.headers[1:], [one.upper() for one in part.headers]),
    )
    part.headers = random.choice(headers)


def _part_type(random: Random, request: _Request) -> None:
    part = random.choice(request.parts)
    kind = random.choice(_KINDS)
    kind += random.choice(("", f"; transfer-syntax={random.choice(files.SYNTAXES)}", '; type="', "; q=x"))
    part.headers = [f"Content-Type: {kind}", *part.headers[1:]]


def _location(random: Random, request: _Request) -> None:
    part = random.choice(request.parts)
    part.headers = [*part.headers[:1], f"Content-Location: {random.choice(('bulk/0', 'bulk/0/frames/2', '', '../x'))}"]


def _part_order(random: Random, request: _Request) -> None:
    random.shuffle(request.parts)


def _repeat(random: Random, request: _Request) -> None:
    request.parts += [random.choice(request.parts)] * random.choice((1, 2, 300))


def _lose(random: Random, request: _Request) -> None:
    if len(request.parts) > 1:
        request.parts.remove(random.choice(request.parts))


def _content(random: Random, request: _Request) -> None:
    """Bytes of one part."""
    part, request.digests = random.choice(request.parts), None
    at = random.randrange(len(part.content) + 1)
    part.content = random.choice(
        (
            b"",
            part.content[:at],
            part.content[at:],
            part.content[:at] + random.choice(_TOKENS) + part.content[at:],
            part.content[:at] + random.randbytes(random.choice((1, 8, 700))) + part.content[at + 8 :],
        )
    )


def _boundary(random: Random, request: _Request) -> None:
    """In all places alike, and perhaps not one."""
    names = ("b", "x" * 70, "x" * 200, "x" * 201, "--", "a b", "", " ", "é", '"', "fuzz;boundary", "'()+_,-./:=?")
    request.boundary = random.choice(names)


def _no_end(random: Random, request: _Request) -> None:
    request.end = random.choice(
        (b"", b"-", b"\r\n", b"--", b"-- \t\r\nepilogue", b"--" + bytes(5000), b" " * 300 + b"\r\n")
    )


_OF_PARTS: tuple[Callable[[Random, _Request], None], ...] = (
    *(_headers, _part_type, _location, _part_order, _repeat, _lose, _content, _content, _boundary, _no_end),
)


# Of the whole


def _flip(random: Random, body: Body) -> Body:
    content = bytearray(body.content)
    for _ in range(random.choice((1, 3, 30)) if content else 0):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return _with(body, bytes(content))


def _token(random: Random, body: Body) -> Body:
    at = random.randrange(len(body.content) + 1)
    return _with(body, body.content[:at] + random.choice(_TOKENS) + body.content[at:])


def _truncate(random: Random, body: Body) -> Body:
    return _with(body, body.content[: random.randrange(len(body.content) + 1)])


def _line_ends(_random: Random, body: Body) -> Body:
    return _with(body, body.content.replace(b"\r\n", b"\n"))


def _body_type(random: Random, body: Body) -> Body:
    """Another type, or the same with other parameters."""
    said = body.content_type
    types = (
        *("", ";", "multipart/related", f"multipart/related; boundary={BOUNDARY}", DICOM, JSON, XML, "x/y; =", "\xff"),
        *(
            said.replace('"', ""),
            said.upper(),
            said.replace("dicom+json", "dicom"),
            said.replace("dicom", "dicom+xml", 1),
        ),
        *(said + "; boundary=other", said.replace(BOUNDARY, "other"), "multipart/related; " * 400, said[:-1]),
    )
    return Body(random.choice(types), body.content, (), body.study, body.missing)


def _into_a_study(random: Random, body: Body) -> Body:
    study = random.choice(("1.2.826.0.1.3680043.8.498.1", "1.2.3", "1" * 64, "1" * 128, ".", "..", "0" * 129, "a"))
    return Body(body.content_type, body.content, body.digests, study, body.missing)


def _hang_up(random: Random, body: Body) -> Body:
    return Body(body.content_type, body.content, body.digests, body.study, random.choice((1, 1000, 10**9)))


def _with(body: Body, content: bytes) -> Body:
    return Body(body.content_type, content, (), body.study, body.missing)


_OF_BODIES: tuple[Callable[[Random, Body], Body], ...] = (
    *(_flip, _token, _token, _truncate, _line_ends, _body_type, _into_a_study, _hang_up),
)
