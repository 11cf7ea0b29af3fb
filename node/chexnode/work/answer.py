"""What a model answered, kept as a file: results of the same image under another identity are made from it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np

from chexmodels.model import RawItem

SUFFIX = ".answer"
"""Of the files' names, which lie beside the results."""


class NotAnAnswer(Exception):
    """The file is damaged, or of another release: the model is asked again."""


def pack(raw: RawItem) -> bytes:
    """Return ``raw`` as a file: NumPy's NPZ, compressed by the fastest level of zlib."""
    parts = {name: np.asarray(part) for name, part in zip(RawItem._fields, raw, strict=True) if part is not None}
    buffer = BytesIO()
    write: Callable[..., None] = np.savez  # whose own option the type checker takes the arrays for
    write(buffer, **parts)
    return zlib.compress(buffer.getvalue(), 1)


def unpack(data: bytes) -> RawItem:
    """Return the very answer that ``data`` was made of. Raises NotAnAnswer."""
    try:
        with np.load(BytesIO(zlib.decompress(data)), allow_pickle=False) as parts:
            heat, score, classes, distance = (parts.get(name) for name in RawItem._fields)
    except Exception as error:  # zlib, zipfile and NumPy raise what they like
        raise NotAnAnswer("the file cannot be read") from error
    score, distance = (None if each is None else float(each) for each in (score, distance))
    return RawItem(heat, score, classes, distance)
