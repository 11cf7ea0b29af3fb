"""Run a network over arrays: what fitting and evaluation start from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chexmodels.bundle import AnomalyCalibration, Calibration
from chexmodels.calibration import calibrated_heat, heat_score, image_probability, image_score
from chexmodels.nets.siamese import Siamese
from chexmodels.pixels import Geometry
from chextrain.data.arrays import Arrays
from chextrain.data.pairs import PairList


def device() -> torch.device:
    """A GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def logits(network: nn.Module, arrays: Arrays, batch_size: int = 16) -> NDArray[np.float32]:
    """Logits or anomaly heat ``(N,S,S)`` float32 of every image, in order; the network is left in evaluation mode."""
    network.eval()
    parts = [network(batch)[:, 0].float().cpu().numpy() for batch in batches(network, arrays, batch_size)]
    return np.concatenate(parts) if parts else np.zeros((0, *arrays.images.shape[1:]), dtype=np.float32)


@torch.inference_mode()
def similarities(network: Siamese, arrays: Arrays, pairs: PairList, batch_size: int = 16) -> NDArray[np.float32]:
    """Similarity ``(P,)`` in [0, 1] that a Siamese network gives each of the ``pairs`` of images."""
    network.eval()
    embedded = torch.cat([network.embed(batch) for batch in batches(network, arrays, batch_size)])
    said = []
    for start in range(0, len(pairs.first), batch_size):
        part = slice(start, start + batch_size)
        said.append(network.compare(embedded[pairs.first[part]], embedded[pairs.second[part]])[1])
    return torch.sigmoid(torch.cat(said).float()).cpu().numpy()


def probabilities(
    heat: NDArray[np.float32], arrays: Arrays, calibration: Calibration | AnomalyCalibration
) -> NDArray[np.float32]:
    """Calibrated maps of logits or anomaly heat, both ``(N,S,S)``; 0 in the letterbox's border, which shows nothing."""
    prob = calibrated_heat(heat, calibration)
    for one, case in zip(prob, arrays.cases, strict=True):
        content = Geometry(case.rows, case.columns, prob.shape[-1]).content
        inside = one[content.y0 : content.y1, content.x0 : content.x1].copy()
        one[:] = 0
        one[content.y0 : content.y1, content.x0 : content.x1] = inside
    return prob


def content_means(heat: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    """Mean ``(N,)`` of each map ``(S,S)`` inside the letterbox: the raw image score of anomaly heat."""
    insides = (Geometry(case.rows, case.columns, heat.shape[-1]).content for case in arrays.cases)
    parts = (one[box.y0 : box.y1, box.x0 : box.x1] for one, box in zip(heat, insides, strict=True))
    return np.array([part.mean(dtype=np.float64) for part in parts])


def calibrated(
    heat: NDArray[np.float32], arrays: Arrays, calibration: Calibration | AnomalyCalibration
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Maps ``(N,S,S)`` and image scores ``(N,)``, all in [0,1], of what a network answered, ``heat (N,S,S)``."""
    prob = probabilities(heat, arrays, calibration)
    if isinstance(calibration, AnomalyCalibration):
        return prob, np.array([image_score(raw, calibration) for raw in content_means(heat, arrays)])
    return prob, image_scores(prob, calibration)


def raw_scores(prob: NDArray[np.float32]) -> NDArray[np.float64]:
    """Uncalibrated image score ``(N,)`` of probabilities ``(N,S,S)``."""
    return np.array([heat_score(one, one.shape[0]) for one in prob])


def image_scores(prob: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float64]:
    """Calibrated image score ``(N,)`` of probabilities ``(N,S,S)``."""
    return np.array([image_probability(raw, calibration) for raw in raw_scores(prob)])


def batches(network: nn.Module, arrays: Arrays, batch_size: int) -> Iterator[Tensor]:
    """Images ``(B,1,S,S)`` float32 in [0,1] on the network's device."""
    device = next(network.parameters()).device
    for start in range(0, len(arrays.cases), batch_size):
        images = np.array(arrays.images[start : start + batch_size])
        yield torch.from_numpy(images)[:, None].to(device, torch.float32) / 255
