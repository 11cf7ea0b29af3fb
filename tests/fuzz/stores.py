"""Store requests as bytes on a connection, and what may be answered to them."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fuzz.bodies import Body
from support.servers import LOOPBACK

ANSWER_SECONDS = 60.0
"""No answer may take longer; generous, for loaded machines."""
_STATUSES = (200, 202, 400, 404, 409, 415)
_STORED, _FAILED, _OTHERS = "00081199", "00081198", "0008119A"


@dataclass(frozen=True)
class Answer:
    """A status, 0 where there is none, and the references of the Store Instances Response Module by UID."""

    status: int
    stored: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID -> Retrieve URL, which may be empty."""


def store(port: int, body: Body) -> Answer:
    """Send ``body``; the answer, which is as PS3.18 section 10.5.3 wants it or raises AssertionError."""
    status, content = _said(_converse(port, _request(body), hangs_up=body.missing > 0))
    if not status:
        assert body.missing, "no answer"
        return Answer(0)
    assert status in ((400, 404, 413, 415) if body.missing else _STATUSES), f"{status}: {content[:200]!r}"
    if status not in (200, 202, 409):
        return Answer(status)
    model = json.loads(content)
    stored = {one["00081155"]["Value"][0]: _first(one, "00081190") for one in _items(model, _STORED)}
    failed = _items(model, _FAILED) + _items(model, _OTHERS)
    assert all(isinstance(one["00081197"]["Value"][0], int) for one in failed)
    warned = any("00081196" in one for one in _items(model, _STORED))
    partly = bool(failed) or warned
    assert (bool(stored), partly) == {200: (True, False), 202: (True, True), 409: (False, True)}[status]
    return Answer(status, stored)


def _items(model: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    return list(model.get(tag, {}).get("Value", []))


def _first(model: dict[str, Any], tag: str) -> str:
    return str((_items(model, tag) or [""])[0])


def _request(body: Body) -> bytes:
    path = f"/dicom-web/studies/{body.study}" if body.study else "/dicom-web/studies"
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Type: {body.content_type}"]
    head += [f"Content-Length: {len(body.content) + body.missing}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body.content


def _converse(port: int, request: bytes, *, hangs_up: bool) -> bytes:
    answer = b""
    with socket.create_connection((LOOPBACK, port), timeout=ANSWER_SECONDS) as sock:
        try:
            sock.sendall(request)
            if hangs_up:
                sock.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise
        except OSError:  # it has answered before it read all, and hung up
            pass
        with suppress(ConnectionError):
            while piece := sock.recv(1 << 16):
                answer += piece
    return answer


def _said(answer: bytes) -> tuple[int, bytes]:
    head, _, content = answer.partition(b"\r\n\r\n")
    return (int(head.split(b" ")[1]), content) if head.startswith(b"HTTP/1.1 ") else (0, b"")
