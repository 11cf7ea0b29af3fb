"""What a request makes its answer depend on: preconditions and ranges (RFC 9110 sections 13 and 14). Pure.

Answers have entity tags and no dates, so that conditions on a date are passed over, as section 13.1 wants.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def is_another(headers: Headers, tag: str) -> bool:
    """Whether If-Match wants a representation that is not the one with the strong ``tag``: 412 (section 13.1.1)."""
    wanted = ",".join(headers.getlist("if-match")).strip()
    return bool(wanted) and wanted != "*" and ("", tag) not in _TAG.findall(wanted)


def is_known(headers: Headers, tag: str) -> bool:
    """Whether If-None-Match says that the caller has the representation with ``tag``: 304 (section 13.1.2)."""
    known = ",".join(headers.getlist("if-none-match")).strip()
    return known == "*" or tag in (one for _, one in _TAG.findall(known))


def byte_range(headers: Headers, tag: str, length: int) -> tuple[int, int] | None:
    """The half-open range that Range asks for (section 14.1.2), an empty one where it is outside: 416.

    None where it is to be ignored: it is none, cannot be read, asks for several, or is of another representation than
    the one with the strong ``tag`` (If-Range, section 13.1.5).
    """
    if headers.get("if-range", tag).strip() != tag:
        return None
    match = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", headers.get("range", ""))
    if match is None or not (match[1] or match[2]) or (match[1] and match[2] and int(match[1]) > int(match[2])):
        return None
    if not match[1]:
        return (max(0, length - int(match[2])), length) if int(match[2]) else (length, length)
    start = int(match[1])
    return (start, min(int(match[2]) + 1, length) if match[2] else length) if start < length else (length, length)


def takes_gzip(headers: Headers) -> bool:
    """Whether Accept-Encoding lets an answer be compressed by gzip (section 12.5.3)."""
    for one in headers.get("accept-encoding", "").lower().split(","):
        coding, _, parameters = one.partition(";")
        if coding.strip() == "gzip":
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
