"""The error of everything here that reads or decodes a file."""

from __future__ import annotations

from enum import StrEnum


class DecodeFailure(StrEnum):
    """Why a file cannot be read or decoded. The node has a reason of the same value for each."""

    MALFORMED = "malformed"
    """A length, a VR, a delimiter or the file meta information cannot be right, or the file breaks off."""
    TOO_DEEP = "too-deep"
    """Sequences nested deeper, or more elements, than the limits allow."""
    UNDECODABLE = "undecodable"
    """The pixel data cannot be decoded, or the Image Pixel attributes are impossible."""
    PIXEL_SIZE = "pixel-size"
    """The pixel data's own dimensions or length contradict Rows and Columns."""
    DECODE_LIMIT = "decode-limit"
    """Decoding or inflating would go over its limit of pixels, bytes or memory."""


class DecodeError(Exception):
    """A file cannot be read or decoded; ``detail`` is a short sentence without patient data."""

    def __init__(self, failure: DecodeFailure, detail: str) -> None:
        super().__init__(f"{failure.value}: {detail}")
        self.failure = failure
        self.detail = detail
