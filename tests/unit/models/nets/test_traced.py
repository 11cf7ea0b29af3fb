"""ONNX Runtime runs a network as PyTorch does, its scope's layer included; what it cannot run is said so."""

from __future__ import annotations

import importlib.util
import sys
import threading

import pytest
import torch
from torch import Tensor, nn

from chexmodels import registry
from chexmodels.bundle import BundleError, find
from chexmodels.nets.traced import Traced
from chexmodels.trial import pictures


def test_a_bundle_with_a_scope_answers_the_same_by_both_engines() -> None:
    usual, traced = (registry.load(find("efficientnet-unet"), engine=engine) for engine in ("pytorch", "onnx"))
    images = pictures(usual.card.size)
    by_pytorch, by_onnx = usual(images), traced(images)
    assert by_pytorch.heat is not None
    assert by_onnx.heat is not None
    assert torch.allclose(by_onnx.heat, by_pytorch.heat, atol=1e-3)
    assert by_pytorch.distance is not None
    assert by_onnx.distance is not None
    assert by_onnx.distance.shape == (len(images),)
    assert torch.allclose(by_onnx.distance, by_pytorch.distance, rtol=1e-3)


def test_threads_do_not_see_each_others_features() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)).eval()
    traced = Traced(network, 8, layer="0")
    images = [torch.rand(2, 1, 8, 8) for _ in range(4)]
    taken: dict[int, Tensor] = {}
    together = threading.Barrier(len(images))

    def run(index: int) -> None:
        traced(images[index])
        together.wait()
        taken[index] = traced.take()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        for index, image in enumerate(images):
            assert torch.allclose(taken[index], network[0](image).mean(dim=(2, 3)), atol=1e-5)


class Two(nn.Module):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"heat": image}


class Ungraphed(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        small = nn.functional.interpolate(image, size=(4, 4), mode="bilinear", antialias=True)
        return nn.functional.interpolate(small, size=image.shape[-2:])


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(ValueError, match="more than a map"):
        Traced(Two(), 8)
    with pytest.raises(ValueError, match="has no ONNX graph: Exporting the operator"):
        Traced(Ungraphed(), 8)
    with pytest.raises(BundleError, match=r"cml .* does not run on ONNX Runtime: it answers with more than a map"):
        registry.load(find("cml"), engine="onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_its_packages_the_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("chexmodels.nets.traced.find_spec", lambda name: None if name == missing else find_spec(name))
    if missing == "onnxruntime":
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BundleError, match=r"pip install 'chexnode\[onnx\]'"):
        registry.load(find("phantom64"), engine="onnx")
