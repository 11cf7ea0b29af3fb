"""A PyTorch network run by ONNX Runtime, which on a CPU is faster than PyTorch."""

from __future__ import annotations

import tempfile
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from chexmodels.nets.adopted import session
from chexmodels.nets.scope import pooled


class Traced(nn.Module):
    """``network``, which answers ``(B,1,size,size)`` float in [0,1] with one map of the same shape, as an ONNX graph.

    With ``layer``, the mean over space of the maps that this layer of the network returned first is kept as by
    :class:`chexmodels.nets.scope.Watched`. Runs on the CPU. Raises ``ValueError`` for a network that has no graph or
    answers with more than a map, and without ONNX Runtime (the extra ``onnx``).
    """

    def __init__(self, network: nn.Module, size: int, layer: str = "") -> None:
        super().__init__()
        self._seen = threading.local()
        if find_spec("onnx") is None:
            raise ValueError("what writes ONNX graphs is not installed: pip install 'chexnode[onnx]'")
        outputs = ["answer", "features"] if layer else ["answer"]
        image = torch.zeros(1, 1, size, size)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of what the tracing takes for constant, as sizes are
            if not isinstance(network(image), Tensor):
                raise ValueError("it answers with more than a map")
            watched = _WithLayer(network, layer) if layer else network
            graph = Path(folder) / "network.onnx"
            try:
                torch.onnx.export(  # not the newer exporter ("dynamo"), which needs onnxscript
                    watched, (image,), graph, input_names=["image"], output_names=outputs, dynamo=False
                )
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"the network has no ONNX graph: {str(error).splitlines()[0]}") from error
            self._session: Any = session(graph.read_bytes(), torch.get_num_threads())

    def forward(self, image: Tensor) -> Tensor:
        """``(B,1,size,size)`` -> the network's map, ``(B,1,size,size)``; one image after the other."""
        parts = [self._session.run(None, {"image": one[None]}) for one in image.float().numpy()]
        joined = [torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)]
        if len(joined) > 1:
            self._seen.features = joined[1]
        return joined[0]

    def take(self) -> Tensor:
        """Features ``(B,D)`` of this thread's last run; forgotten with this."""
        features = cast(Tensor, self._seen.features)
        self._seen.features = None
        return features


class _WithLayer(nn.Module):
    """A network that also returns the mean of the maps that its layer ``name`` returned first."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self._found: list[Tensor] = []
        network.get_submodule(name).register_forward_hook(lambda module, given, answer: self._found.append(answer))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        self._found.clear()
        answer = self.network(image)
        return answer, pooled(self._found[0])
