"""Answers that are not the thing asked for (PS3.18 section 8.5), always with a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import HTTPException


class BadRequest(HTTPException):
    """400: the request cannot be read."""

    def __init__(self, detail: str) -> None:
        super().__init__(400, detail)


class NotFound(HTTPException):
    """404: the node never held it."""

    def __init__(self, detail: str = "nothing of that UID is held here") -> None:
        super().__init__(404, detail)


class NotAcceptable(HTTPException):
    """406: it is held, but not to be had in any form that the client accepts."""

    def __init__(self, detail: str) -> None:
        super().__init__(406, detail)


class Gone(HTTPException):
    """410: the node held it, and retention has deleted the file."""

    def __init__(self) -> None:
        super().__init__(410, "received, analysed and deleted when its retention had passed (retention.days)")


def warning(service: str, texts: Sequence[str]) -> dict[str, str]:
    """The Warning header (PS3.18 sections 8.3.4 and 8.5; RFC 7234 section 5.5); none where there is nothing to say."""
    return {"Warning": ", ".join(f'299 {service} "{text}"' for text in texts)} if texts else {}
