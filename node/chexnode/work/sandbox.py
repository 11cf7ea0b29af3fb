"""Images are decoded and fitted to the model in child processes with limits; see :mod:`chexnode.sandbox`."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from chexmodels.dicom import file_meta
from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.greyscale import Choice, Window
from chexmodels.dicom.part10 import LONG_ELEMENT, LONGEST_HEADER, parse_header
from chexmodels.pixels import Geometry, Mode
from chexmodels.stats import PixelStats
from chexnode.sandbox.limits import read_limits
from chexnode.sandbox.pool import Pool
from chexnode.settings.limits import LimitSettings
from chexnode.vocabulary.errors import Refused
from chexnode.vocabulary.reasons import Reason
from chexnode.work.prepared import Prepared

_LONGEST_DISPLAY = 2048 * 2048


class Sandbox:
    """A pool of warm decoding processes; use as a context manager. Thread safe: one image at a time per child."""

    def __init__(self, limits: LimitSettings, size: int, mode: Mode, decoders: int) -> None:
        """``size`` and ``mode`` are the model's; ``decoders`` children are kept."""
        self._read_limits = read_limits(limits)
        self._size, self._mode = size, mode
        self._pool = Pool("chexnode.work.child", limits, decoders, {"size": size, "mode": mode})
        self._longest = size**2 * 4 + _LONGEST_DISPLAY + LONGEST_HEADER + 2 * LONG_ELEMENT

    def __enter__(self) -> Self:
        """Start the children; they load their libraries while the caller goes on."""
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for images in work, then end the children."""
        self._pool.__exit__(kind, error, tb)

    def prepare(self, path: Path) -> Prepared:
        """Decode the DICOM file at ``path`` and fit it to the model; waits for a free child.

        Raises like :meth:`Pool.ask`.
        """
        # The child works in another folder
        facts, content = self._pool.ask({"path": os.fspath(path.absolute())}, self._longest)
        try:
            height, width = facts["display"]
            meta_length, header_length = facts["lengths"]
            ends = np.cumsum([self._size**2 * 4, height * width, meta_length, header_length])
            image, display, meta, header = (content[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
            stats = facts["stats"]
            return Prepared(
                np.frombuffer(image, np.float32).reshape(self._size, self._size),
                Geometry(facts["rows"], facts["columns"], self._size, self._mode),
                np.frombuffer(display, np.uint8).reshape(height, width),
                PixelStats(**{**stats, "turned": tuple(stats["turned"])}),
                tuple(facts["notes"]),
                parse_header(header, file_meta.parse(bytes(meta)), self._read_limits),
                Choice(*facts["choice"]),
                None if facts["window"] is None else Window(**facts["window"]),
                tuple(facts["overlays"]),
            )
        except (DecodeError, KeyError, TypeError, ValueError) as error:
            raise Refused(Reason.UNDECODABLE, "the decoding child gave no sensible answer") from error
