"""What a model answered, kept as a file: results of the same image under another identity are made from it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from chexmodels.bundle import Role
from chexmodels.model import RawItem

SUFFIX = ".answer"
"""Of the files' names, which lie beside the results."""


class NotAnAnswer(Exception):
    """The file is damaged, or of another release: the model is asked again."""


_FIELDS = ("heat", "score", "classes", "distance")


def pack(raw: RawItem) -> bytes:
    """Return ``raw`` as a file: NumPy's NPZ, compressed by the fastest level of zlib."""
    buffer = BytesIO()
    write: Callable[..., None] = np.savez  # whose own option the type checker takes the arrays for
    write(buffer, **_parts(raw))
    return zlib.compress(buffer.getvalue(), 1)


def _parts(raw: RawItem, role: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of an answer by name, of a stack's with the role of the model before it (``localiser.heat``)."""
    parts = {role + name: np.asarray(part) for name in _FIELDS if (part := getattr(raw, name)) is not None}
    for one, answer in (raw.members or {}).items():
        parts |= _parts(answer, f"{one}.")
    return parts


def unpack(data: bytes) -> RawItem:
    """Return the very answer that ``data`` was made of. Raises NotAnAnswer."""
    try:
        with np.load(BytesIO(zlib.decompress(data)), allow_pickle=False) as parts:
            found = dict(parts.items())
    except Exception as error:  # zlib, zipfile and NumPy raise what they like
        raise NotAnAnswer("the file cannot be read") from error
    roles = {name.partition(".")[0] for name in found if "." in name}
    members = {role: _answer(found, f"{role}.") for role in get_args(Role) if role in roles}
    return _answer(found)._replace(members=members or None)


def _answer(parts: Mapping[str, NDArray[Any]], role: str = "") -> RawItem:
    heat, score, classes, distance = (parts.get(role + name) for name in _FIELDS)
    return RawItem(heat, _number(score), classes, _number(distance))


def _number(part: NDArray[Any] | None) -> float | None:
    return None if part is None else float(part)
