"""The error of everything here that reads or decodes a file."""

from __future__ import annotations


class DecodeError(Exception):
    """This file cannot be read or decoded; ``code`` is the value of one of the node's reasons.

    Codes: ``malformed``, ``too-deep``, ``undecodable``, ``pixel-size``, ``decode-limit``. ``detail`` is a short
    sentence without patient data.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
