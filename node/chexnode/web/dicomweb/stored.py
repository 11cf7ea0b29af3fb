"""A file of the spool, opened."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.part10 import Part10, ReadLimits, read
from chexnode.web.dicomweb.pixels import Image


@dataclass(frozen=True)
class Stored:
    """A file, mapped into memory and walked within the limits."""

    path: Path
    part10: Part10
    limits: ReadLimits

    @classmethod
    def open(cls, path: Path, limits: ReadLimits) -> Self:
        """Open ``path``. Raises DecodeError and OSError."""
        return cls(path, read(mapped(path), limits), limits)

    @property
    def header(self) -> Dataset:
        """All elements before Pixel Data, words in little endian whatever the file has. Raises DecodeError."""
        ds = self.part10.whole_header()
        if self.part10.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
            _turn(ds)
        return ds

    @cached_property
    def image(self) -> Image:
        """Its pixels. Raises DecodeError."""
        return Image(self.part10, self.limits.max_pixels)


def mapped(path: Path) -> mmap.mmap:
    """The bytes of a file, none of them in memory yet. Raises DecodeError and OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not os.fstat(fd).st_size:
            raise DecodeError(DecodeFailure.MALFORMED, "an empty file")
        return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)


_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def _turn(ds: Dataset) -> None:
    """Turn the words of big endian (PS3.5 section 7.3); numbers pydicom has turned when it read them."""
    for tag in [*ds.keys()]:
        try:
            one = ds[tag]
        except Exception:  # noqa: S112  (a value that the library cannot even hold stands as it is)
            continue
        size = _WORDS.get(one.VR)
        if one.VR == "SQ":
            for item in one.value or ():
                _turn(item)
        elif size and isinstance(one.value, bytes) and len(one.value) % size == 0:
            one.value = np.frombuffer(one.value, f">u{size}").astype(f"<u{size}").tobytes()
