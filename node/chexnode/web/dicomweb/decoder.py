"""Decoding for the web role: what a codec or a picture library must touch happens in child processes with limits."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any, Self

from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexnode.sandbox.pool import ChildBug, Pool
from chexnode.settings.limits import LimitSettings
from chexnode.vocabulary.errors import Refused, Transient
from chexnode.web.dicomweb.render import Rendering
from chexnode.web.dicomweb.stored import Stored

log = logging.getLogger(__name__)

CHILDREN = 2
"""Pictures that are made at once."""
_MOST_WAITING = 24
"""Requests that may wait for one, so that the threads of the others are never all taken."""
_ANSWER_BYTES = 32_000_000
"""Decoded frames that one answer of a child carries, unless one frame alone is more."""
_LONGEST_PICTURE = 300_000_000


class Decoder:
    """A pool of decoding children, started when the first is needed; use as a context manager. Thread safe."""

    def __init__(self, limits: LimitSettings) -> None:
        self._pool = Pool("chexnode.web.dicomweb.child", limits, CHILDREN, {}, eager=False)
        self._room = BoundedSemaphore(CHILDREN + _MOST_WAITING)

    def __enter__(self) -> Self:
        """Be ready."""
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the children."""
        self._pool.__exit__(kind, error, tb)

    def frames(self, stored: Stored, numbers: list[int]) -> Iterator[bytes]:
        """Frames in little endian, by number from 1, colours as RGB. Raises DecodeError, and Transient."""
        image = stored.image
        if image.is_native:
            yield from (image.native(number) for number in numbers)
            return
        size = image.frame_bytes
        at_once = max(1, _ANSWER_BYTES // size)
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            _, content = self._ask({"path": os.fspath(stored.path), "numbers": some}, size * len(some))
            if len(content) != size * len(some):
                raise DecodeError(DecodeFailure.UNDECODABLE, "the decoding child gave no sensible answer")
            yield from (bytes(content[n * size : (n + 1) * size]) for n in range(len(some)))

    def picture(self, stored: Stored, numbers: list[int], rendering: Rendering) -> bytes:
        """Frames as one picture. Raises DecodeError, Transient, and ValueError where it would show nothing."""
        request = {"path": os.fspath(stored.path), "numbers": numbers, "rendering": rendering.to_json()}
        facts, content = self._ask(request, _LONGEST_PICTURE)
        if "bad" in facts:
            raise ValueError(str(facts["bad"])[:200])
        return bytes(content)

    def _ask(self, request: dict[str, Any], longest: int) -> tuple[dict[str, Any], memoryview]:
        if not self._room.acquire(blocking=False):
            raise Transient("too many pictures are asked for at once")
        try:
            return self._pool.ask(request, longest)
        except Refused as refusal:
            raise DecodeError(DecodeFailure.UNDECODABLE, refusal.detail) from refusal
        except ChildBug as bug:
            log.error("a bug in the decoding child", extra={"error": str(bug)})
            raise DecodeError(DecodeFailure.UNDECODABLE, "the decoder failed") from bug
        finally:
            self._room.release()
