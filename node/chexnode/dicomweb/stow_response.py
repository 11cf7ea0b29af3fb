"""What the answer to a STOW-RS request says of each instance: PS3.18 section 10.5.3 and annex I. Pure.

The lists of the answer decide where they name an instance, whatever the HTTP status: there are servers that answer
400 and have stored some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_OTHER_FAILURES_SEQUENCE = "0008119A"
_REFERENCED_SOP_INSTANCE_UID = "00081155"
_WARNING_REASON = "00081196"
_FAILURE_REASON = "00081197"

#: Statuses that say something of the service, the way to it or our credentials, and nothing of the instances: the same
#: request may work once somebody has seen to that.
NOT_ABOUT_INSTANCES = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.MISDIRECTED_REQUEST,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """A Store Instances Response Module (PS3.18 table I.1-1), as far as it could be read."""

    status: int
    """HTTP status."""
    media_type: str = ""
    """Of the body, as its Content-Type says."""
    stored: Mapping[str, int] = field(default_factory=dict)
    """SOP Instance UID -> Warning Reason, 0 for none."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """SOP Instance UID -> Failure Reason, 0 where it gives none."""
    others: tuple[int, ...] = ()
    """Failure Reasons of parts whose SOP Instance UID it could not read."""


def is_about_instances(status: int) -> bool:
    """Whether an answer with HTTP ``status`` tells of the instances; otherwise the destination is down."""
    return 200 <= status < 300 or (400 <= status < 500 and status not in NOT_ABOUT_INSTANCES)


def read_answer(status: int, body: bytes, media_type: str = "") -> StoreAnswer:
    """Read the DICOM JSON ``body``; one that is none, or is wrong, lists nothing."""
    try:
        module = json.loads(body)
        if isinstance(module, list):  # some servers answer as a search would
            module = module[0]
        return StoreAnswer(
            status,
            media_type,
            _reasons(module, _REFERENCED_SOP_SEQUENCE, _WARNING_REASON),
            _reasons(module, _FAILED_SOP_SEQUENCE, _FAILURE_REASON),
            tuple(_reason(item, _FAILURE_REASON) for item in _values(module, _OTHER_FAILURES_SEQUENCE)),
        )
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return StoreAnswer(status, media_type)


def named(status: int) -> str:
    """``HTTP 413 Request Entity Too Large``."""
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _reasons(module: Mapping[str, Any], sequence: str, reason: str) -> dict[str, int]:
    return {
        str(uid): _reason(item, reason)
        for item in _values(module, sequence)
        for uid in _values(item, _REFERENCED_SOP_INSTANCE_UID)[:1]
    }


def _reason(item: Mapping[str, Any], key: str) -> int:
    return next((int(value) for value in _values(item, key)), 0)


def _values(module: Mapping[str, Any], key: str) -> list[Any]:
    return list(module.get(key, {}).get("Value") or [])
