"""Run a network over arrays: what fitting and evaluation start from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from chextrain.data.arrays import Arrays


@torch.inference_mode()
def logits(network: nn.Module, arrays: Arrays, batch_size: int = 16) -> NDArray[np.float32]:
    """Logits ``(N,S,S)`` float32 of every image, in order; the network is left in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(arrays.cases), batch_size):
        images = np.array(arrays.images[start : start + batch_size])
        batch = torch.from_numpy(images)[:, None].to(device, torch.float32) / 255
        parts.append(network(batch)[:, 0].float().cpu().numpy())
    return np.concatenate(parts)
