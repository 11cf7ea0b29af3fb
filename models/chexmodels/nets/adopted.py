"""Networks that others trained, behind one mapping of inputs and outputs: ONNX graphs here, MONAI's by name in
:mod:`chexmodels.nets.monai_networks`.

Nothing of a stranger's is executed as Python: an ONNX graph is run by ONNX Runtime (the extra ``onnx``).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["logits", "probability", "softmax"]
"""What an output holds: logits; probabilities; or logits of classes that exclude each other, background first."""
SINGLE = "pred"
"""Name of the output of a network that has one."""
SMALLEST = 1e-6
"""A probability is kept this far from 0 and 1 before it becomes a logit."""


class Adopted(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> outputs by the names ``heat (B,1,S,S)``, ``score (B,)``, ``classes (B,C)``.

    ``channels``: of the network's input, all alike. ``low``, ``high``: what 0 and 1 become. ``heat``, ``score`` and
    ``classes`` name an output each, ``heat`` and ``score`` perhaps with a channel as in ``"pred:1"``; empty: there is
    none. ``kind``: what these outputs hold. Heat and classes become logits, the score a probability.
    """

    def __init__(
        self,
        channels: int = 1,
        low: float = 0.0,
        high: float = 1.0,
        heat: str = SINGLE,
        score: str = "",
        classes: str = "",
        kind: Kind = "logits",
    ) -> None:
        super().__init__()
        if not (heat or score or classes):
            raise ValueError("name an output: heat, score or classes")
        self.channels, self.low, self.high, self.kind = channels, low, high, kind
        self.names = {"heat": heat, "score": score, "classes": classes}

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """The network's answers to ``(B,channels,S,S)``, by name."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Those of ``heat``, ``score`` and ``classes`` that there are; raises ``ValueError`` for one that is not."""
        scaled = self.low + (self.high - self.low) * image
        given = self.outputs(scaled.expand(-1, self.channels, -1, -1))
        found: dict[str, Tensor] = {}
        for what, name in self.names.items():
            if not name:
                continue
            output, _, channel = name.partition(":")
            if output not in given:
                raise ValueError(f"{what}: there is no output {output!r}, there are {', '.join(sorted(given))}")
            answer = given[output].float()
            if what == "classes":
                found[what] = self._logits(answer)
                continue
            number = int(channel or 0)
            if answer.ndim < 2 or number >= answer.shape[1]:
                raise ValueError(f"{what}: output {output!r} has the shape {tuple(answer.shape)}")
            logits = self._channel(answer, number)
            found[what] = logits[:, None] if what == "heat" else torch.sigmoid(logits.flatten(1)[:, 0])
        if "heat" in found and found["heat"].ndim != 4:
            raise ValueError(f"heat: output has the shape {tuple(found['heat'].shape)}, not (B,C,h,w)")
        if "heat" in found and found["heat"].shape[-2:] != image.shape[-2:]:
            size = image.shape[-2:]
            found["heat"] = F.interpolate(found["heat"], size=size, mode="bilinear", align_corners=False)
        return found

    def _channel(self, answer: Tensor, number: int) -> Tensor:
        """Logits of one channel of ``(B,C,...)``; with one channel or of independent ones it is taken as it is."""
        if self.kind == "softmax" and answer.shape[1] > 1:
            others = [index for index in range(answer.shape[1]) if index != number]
            return answer[:, number] - torch.logsumexp(answer[:, others], dim=1)
        return self._logits(answer[:, number])

    def _logits(self, answer: Tensor) -> Tensor:
        return torch.logit(answer.clamp(SMALLEST, 1 - SMALLEST)) if self.kind == "probability" else answer


class OnnxNetwork(Adopted):
    """An ONNX graph of ``length`` bytes, which are its only "weights"; run on the CPU by ONNX Runtime.

    The graph has one input, ``(B,channels,S,S)`` float32 with any B or with 1.
    """

    def __init__(self, length: int, **mapping: Any) -> None:
        super().__init__(**mapping)
        self.register_buffer("graph", torch.zeros(length, dtype=torch.uint8))
        self.session: Any = None

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        if self.session is None:
            self.session = session(self.graph.cpu().numpy().tobytes())  # type: ignore[operator]
        (given,) = self.session.get_inputs()
        names = [output.name for output in self.session.get_outputs()]
        batch = image.float().cpu().numpy()
        steps = [batch] if not isinstance(given.shape[0], int) else np.split(batch, len(batch))
        parts = [self.session.run(names, {given.name: np.ascontiguousarray(step)}) for step in steps]
        joined = (np.concatenate(part) for part in zip(*parts, strict=True))
        return {name: torch.from_numpy(value).to(image.device) for name, value in zip(names, joined, strict=True)}


def session(graph: bytes, threads: int = 0) -> Any:
    """ONNX Runtime's session of a graph, on ``threads`` threads (0: as many as there are cores).

    Raises ``ValueError`` where it is none, or ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ValueError("ONNX Runtime is not installed: pip install 'chexnode[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        found = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class but this
        raise ValueError(f"no ONNX graph that can be run: {str(error).splitlines()[0]}") from error
    if len(found.get_inputs()) != 1:
        raise ValueError(f"the graph has {len(found.get_inputs())} inputs, not one")
    return found
