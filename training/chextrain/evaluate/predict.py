"""Run a network over arrays: what fitting and evaluation start from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chexmodels.bundle import Calibration
from chexmodels.calibration import heat_score, image_probability, pixel_probability
from chexmodels.nets.siamese import Siamese
from chexmodels.pixels import Geometry
from chextrain.data.arrays import Arrays
from chextrain.data.pairs import PairList


def device() -> torch.device:
    """A GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def logits(network: nn.Module, arrays: Arrays, batch_size: int = 16) -> NDArray[np.float32]:
    """Logits ``(N,S,S)`` float32 of every image, in order; the network is left in evaluation mode."""
    network.eval()
    parts = [network(batch)[:, 0].float().cpu().numpy() for batch in _batches(network, arrays, batch_size)]
    return np.concatenate(parts) if parts else np.zeros((0, *arrays.images.shape[1:]), dtype=np.float32)


@torch.inference_mode()
def similarities(network: Siamese, arrays: Arrays, pairs: PairList, batch_size: int = 16) -> NDArray[np.float32]:
    """Similarity ``(P,)`` in [0, 1] that a Siamese network gives each of the ``pairs`` of images."""
    network.eval()
    embedded = torch.cat([network.embed(batch) for batch in _batches(network, arrays, batch_size)])
    said = []
    for start in range(0, len(pairs.first), batch_size):
        part = slice(start, start + batch_size)
        said.append(network.compare(embedded[pairs.first[part]], embedded[pairs.second[part]])[1])
    return torch.sigmoid(torch.cat(said).float()).cpu().numpy()


def probabilities(heat: NDArray[np.float32], arrays: Arrays, calibration: Calibration) -> NDArray[np.float32]:
    """Calibrated probabilities of logits, both ``(N,S,S)``; 0 in the border of the letterbox, which shows nothing."""
    prob = pixel_probability(heat, calibration.temperature)
    for one, case in zip(prob, arrays.cases, strict=True):
        content = Geometry(case.rows, case.columns, prob.shape[-1]).content
        inside = one[content.y0 : content.y1, content.x0 : content.x1].copy()
        one[:] = 0
        one[content.y0 : content.y1, content.x0 : content.x1] = inside
    return prob


def raw_scores(prob: NDArray[np.float32]) -> NDArray[np.float64]:
    """Uncalibrated image score ``(N,)`` of probabilities ``(N,S,S)``."""
    return np.array([heat_score(one, one.shape[0]) for one in prob])


def image_scores(prob: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float64]:
    """Calibrated image score ``(N,)`` of probabilities ``(N,S,S)``."""
    return np.array([image_probability(raw, calibration) for raw in raw_scores(prob)])


def _batches(network: nn.Module, arrays: Arrays, batch_size: int) -> Iterator[Tensor]:
    device = next(network.parameters()).device
    for start in range(0, len(arrays.cases), batch_size):
        images = np.array(arrays.images[start : start + batch_size])
        yield torch.from_numpy(images)[:, None].to(device, torch.float32) / 255
