"""A file of the spool, opened."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from pydicom.dataset import Dataset

from chexmodels.part10 import DecodeError, Part10, ReadLimits, read
from chexnode.web.dicomweb.pixels import Image, header_of


@dataclass(frozen=True)
class Stored:
    """A file, mapped into memory and walked within the limits."""

    path: Path
    part10: Part10
    limits: ReadLimits

    @classmethod
    def open(cls, path: Path, limits: ReadLimits) -> Self:
        """Open ``path``. Raises DecodeError and OSError."""
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise DecodeError("malformed", "an empty file")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(path, read(content, limits), limits)

    @property
    def header(self) -> Dataset:
        """All elements before Pixel Data. Raises DecodeError."""
        return header_of(self.part10)

    @cached_property
    def image(self) -> Image:
        """Its pixels. Raises DecodeError."""
        return Image(self.part10, self.limits.max_pixels)
