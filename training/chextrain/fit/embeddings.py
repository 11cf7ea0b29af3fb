"""Images and texts as vectors: what an encoder is, and its answers on disk, so that any number of them can be used.

An encoder of your own is a function that takes nothing and returns an :class:`ImageEncoder` or a :class:`TextModel`;
``--set cml.encoder=my_module:my_function`` calls it. CheXzero, BiomedCLIP or CXR-BERT are a few lines each, under their
own licences; nothing of them comes with ChexNode.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chextrain.config import ConfigError
from chextrain.data.arrays import Arrays
from chextrain.fit.mixture import Rows, chunks


@runtime_checkable
class ImageEncoder(Protocol):
    """An image encoder that no longer learns."""

    dimension: int
    """D."""
    name: str
    """Of the network and its weights: answers are found again on disk by it."""

    def __call__(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` float32 in [0,1], MONOCHROME2, of side ``data.size`` -> ``(B,D)``."""
        ...


@runtime_checkable
class TextModel(Protocol):
    """A text encoder that no longer learns; its embeddings are projected by a layer that does."""

    dimension: int
    """T."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts -> ``(B,T)``."""
        ...


def brought(name: str, kind: type[Any], key: str) -> Any:
    """What ``module:function`` returns; raises ``ConfigError`` where it is not there or is no ``kind``."""
    module, separator, function = name.partition(":")
    try:
        made = getattr(import_module(module), function)() if separator else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}: {error}") from error
    if not isinstance(made, kind):
        raise ConfigError(f"{key}: {name} is no {kind.__name__}: module:function, see chextrain.fit.embeddings")
    return made


@torch.inference_mode()
def embedded(
    encoder: ImageEncoder, arrays: Arrays, folder: Path, split: str, batch_size: int = 32
) -> NDArray[np.float32]:
    """Answers ``(N,D)`` of ``encoder`` to the images of ``arrays``, as a mapped file in ``folder``.

    The file is there the next time, for the same encoder and the same pixels.
    """
    digest = hashlib.sha256(f"{encoder.name} {arrays.images.shape}".encode())
    for start in range(0, len(arrays.images), 64):
        digest.update(np.ascontiguousarray(arrays.images[start : start + 64]).data)
    path = folder / f"{split}-{digest.hexdigest()[:16]}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        made = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.float32, shape=(len(arrays.images), encoder.dimension)
        )
        device = next(encoder.parameters()).device if isinstance(encoder, nn.Module) else torch.device("cpu")
        for start in range(0, len(arrays.images), batch_size):
            batch = torch.from_numpy(np.array(arrays.images[start : start + batch_size]))[:, None].to(device) / 255
            made[start : start + batch_size] = encoder(batch).float().cpu().numpy()
        made.flush()
        part.rename(path)
    return cast("NDArray[np.float32]", np.load(path, mmap_mode="r"))


def stored(rows: Rows, change: Callable[[NDArray[Any]], NDArray[np.float32]], width: int, path: Path) -> Rows:
    """``change`` of ``rows (N,d)``, ``(N,width)``, computed slice by slice into the mapped file ``path``."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows.shape[0], width))
    start = 0
    for part in chunks(rows):
        made[start : start + len(part)] = change(part)
        start += len(part)
    made.flush()
    return cast(Rows, made)


def sentence(present: Sequence[str], absent: Sequence[str]) -> str:
    """A report in small: "mass. effusion. no pneumothorax." Empty of both, "no finding."."""
    said = [*present, *(f"no {name}" for name in absent)] or ["no finding"]
    return " ".join(f"{each}." for each in said)


def sentences(target: NDArray[np.bool_], findings: Sequence[str], mentioned: int, seed: int) -> list[str]:
    """A :func:`sentence` for each row of ``target (N,C)``: all that is there and, drawn by ``seed``, up to
    ``mentioned`` of what is not, as a report mentions some of it. Where nothing is there it says "no finding" too."""
    rng = np.random.default_rng(seed)
    found = []
    for row in target:
        there = [name for name, is_there in zip(findings, row, strict=True) if is_there]
        others = [name for name, is_there in zip(findings, row, strict=True) if not is_there]
        count = min(len(others), int(rng.integers(mentioned + 1)))
        absent = [others[k] for k in rng.choice(len(others), count, replace=False)] if count else []
        found.append(sentence(there or ["no finding"], absent))
    return found
