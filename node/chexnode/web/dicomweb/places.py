"""Where things are under ``/dicom-web`` (PS3.18 section 10.3), and the types their answers have."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import Path, Request
from starlette.datastructures import URL

from chexnode.dicomweb.media_types import MediaType, parse_accept
from chexnode.ledger.objects import Held

ROOT = "/dicom-web"

_uid = Path(pattern=r"^[0-9.]{1,128}$")
Study = Annotated[str, _uid]
Series = Annotated[str, _uid]
Instance = Annotated[str, _uid]

#: Patient data: no cache may keep it.
NO_STORE = {"Cache-Control": "no-store"}


def accepted_by(request: Request) -> list[MediaType]:
    """What the client accepts, best first: its ``accept`` query parameter, then its Accept header."""
    return parse_accept(request.headers.get("accept"), request.query_params.get("accept"))


def base_of(request: Request) -> str:
    """The address of the service as the client called it.

    Some clients leave the port out of their Host header: where no proxy can have meant it so, it is ours.
    """
    url = URL(str(request.base_url))
    server = request.scope.get("server")
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host"))
    if url.port is None and server is not None and not forwarded:
        usual = 443 if url.scheme == "https" else 80
        url = url.replace(port=server[1] if server[1] != usual else None)
    return str(url).rstrip("/") + ROOT


def url_of(base: str, held: Held) -> str:
    """The address of one instance."""
    return instance_url(base, held.study_instance_uid, held.series_instance_uid, held.sop_instance_uid)


def instance_url(base: str, study: str, series: str, instance: str) -> str:
    """The address of one instance by its UIDs."""
    return f"{base}/studies/{study}/series/{series}/instances/{instance}"


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8 (PS3.18 F.2)."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
