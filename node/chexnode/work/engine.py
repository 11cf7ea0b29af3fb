"""The model on its device: batches in, raw outputs out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chexmodels import registry
from chexmodels.bundle import BundleError, ModelCard
from chexmodels.model import Raw, RawItem
from chexmodels.registry import EngineName
from chexnode.vocabulary.errors import BadEnvironment, Transient

log = logging.getLogger(__name__)


class Engine:
    """A loaded bundle. ``device``: auto, cpu, cuda or cuda:N; ``engine``: what runs its networks.

    Raises BadEnvironment if it cannot be loaded there.
    """

    def __init__(self, folder: Path, device: str, engine: EngineName = "pytorch") -> None:
        self.device = torch.device(pick_device(device, engine))
        try:
            self._model = registry.load(folder, self.device, engine)
        except (BundleError, RuntimeError) as error:
            raise BadEnvironment(f"cannot load the model: {error}") from error

    @property
    def card(self) -> ModelCard:
        """The bundle's card."""
        return self._model.card

    def infer(self, images: Sequence[NDArray[np.float32]]) -> list[RawItem]:
        """Run images, each (S, S) float32 in [0, 1], as one batch; one raw output for each, in order.

        Out of GPU memory: in halves. Raises Transient if even one image does not fit.
        """
        try:
            return self._run(images)
        except torch.OutOfMemoryError as error:
            if len(images) == 1:
                raise Transient("out of memory on the device") from error
        torch.cuda.empty_cache()
        half = len(images) // 2
        log.warning("out of memory with %d images: running in halves", len(images))
        return self.infer(images[:half]) + self.infer(images[half:])

    def _run(self, images: Sequence[NDArray[np.float32]]) -> list[RawItem]:
        batch = torch.from_numpy(np.stack(images)[:, None]).to(self.device)  # (B, 1, S, S)
        half = torch.autocast("cuda", dtype=torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with torch.inference_mode(), half:
            raw: Raw = self._model(batch)
        return raw.items()


def pick_device(device: str, engine: EngineName = "pytorch") -> str:
    """``auto`` becomes the first GPU, or the CPU. Raises BadEnvironment for a GPU that is not there, or that the engine
    does not use."""
    if engine == "onnx":
        if device not in ("auto", "cpu"):
            raise BadEnvironment(f"model.device is {device}, and model.engine onnx runs on the CPU")
        return "cpu"
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise BadEnvironment(f"model.device is {device} and torch sees {torch.cuda.device_count()} CUDA device(s)")
    return device
