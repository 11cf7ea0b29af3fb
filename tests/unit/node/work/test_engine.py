"""Batches on a device, and what happens when one does not fit.

No GPU is needed to run out of memory: a network that raises torch's own error for more than it is told to hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from chexmodels import bundle
from chexmodels.bundle import ModelCard
from chexmodels.model import Raw
from chexnode.vocabulary.errors import BadEnvironment, Transient
from chexnode.work.engine import Engine, pick_device

FOLDER = bundle.find("phantom64")


@dataclass
class Tight:
    """A model on a device that holds ``room`` images."""

    card: ModelCard
    room: int
    sizes: list[int] = field(default_factory=list)

    def __call__(self, image: Tensor) -> Raw:
        self.sizes.append(len(image))
        if len(image) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Raw(heat=image * 10)


def tight(room: int) -> tuple[Engine, Tight]:
    engine = Engine(FOLDER, "cpu")
    model = Tight(engine.card, room)
    engine._model = model  # type: ignore[assignment]
    return engine, model


def images(count: int) -> list[np.ndarray]:
    return [np.full((64, 64), number / 10, np.float32) for number in range(count)]


def test_a_batch_that_does_not_fit_runs_in_halves_and_keeps_its_order() -> None:
    engine, model = tight(room=2)
    raws = engine.infer(images(7))
    assert [round(float(raw.heat[0, 0])) for raw in raws if raw.heat is not None] == list(range(7))
    assert max(size for size in model.sizes if size <= 2) == 2


def test_one_image_that_does_not_fit_is_transient() -> None:
    engine, _ = tight(room=0)
    with pytest.raises(Transient, match="out of memory"):
        engine.infer(images(3))


def test_the_shipped_bundle_gives_one_finite_map_an_image() -> None:
    raws = Engine(FOLDER, "auto").infer(images(3))
    assert [raw.heat.shape for raw in raws if raw.heat is not None] == [(64, 64)] * 3
    assert all(np.isfinite(raw.heat).all() for raw in raws if raw.heat is not None)


def test_a_batch_gives_what_single_images_give() -> None:
    engine = Engine(FOLDER, "cpu")
    rng = np.random.default_rng(0)
    batch = [rng.random((64, 64), np.float32) for _ in range(4)]
    together = engine.infer(batch)
    alone = [engine.infer([image])[0] for image in batch]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-4)  # type: ignore[arg-type]


def test_onnx_runtime_gives_what_pytorch_gives() -> None:
    rng = np.random.default_rng(0)
    batch = [rng.random((64, 64), np.float32) for _ in range(3)]
    by_pytorch, by_onnx = (Engine(FOLDER, "auto", engine).infer(batch) for engine in ("pytorch", "onnx"))
    for one, other in zip(by_pytorch, by_onnx, strict=True):
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-3)  # type: ignore[arg-type]


def test_onnx_runtime_takes_no_gpu() -> None:
    assert pick_device("auto", "onnx") == "cpu"
    with pytest.raises(BadEnvironment, match=r"model.device is cuda:0, and model.engine onnx runs on the CPU"):
        pick_device("cuda:0", "onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(BadEnvironment, match="cuda:3"):
        pick_device("cuda:3")


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadEnvironment, match="cannot load the model"):
        Engine(tmp_path, "cpu")
