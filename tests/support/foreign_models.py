"""Models as others' tools write them: a MONAI bundle, and an ONNX graph with the mapping that a site writes for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from torch import Tensor, nn

UNET = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": "@dims",
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8, 8],
    "strides": [2, 2],
}


def monai_bundle(folder: Path, network: dict[str, Any] | None = None) -> Path:
    """As MONAI's tools lay one out."""
    inference = {"dims": 2, "network_def": network or UNET, "network": "$@network_def.to('cpu')"}
    image = {"num_channels": 1, "spatial_shape": [64, 64], "value_range": [-1, 1]}
    formats = {"inputs": {"image": image}, "outputs": {"pred": {"num_channels": 2, "spatial_shape": [64, 64]}}}
    metadata = {"version": "0.3", "copyright": "somebody", "network_data_format": formats}
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    made = ConfigParser({"dims": 2, "network_def": UNET}).get_parsed_content("network_def")
    torch.save(made.state_dict(), folder / "models" / "model.pt")
    return folder


class Two(nn.Module):
    """A map of probabilities and three classes of an image with three channels of 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 1, 3, padding=1, stride=2)
        self.classes = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.map(image / 255)), torch.sigmoid(self.classes(image.mean(dim=(2, 3)) / 255))


MAPPING = """
size = 64
channels = 3
high = 255.0
heat = "where"
classes = "what"
class_names = ["a", "b", "c"]
kind = "probability"
[operating_points.second_reader]
threshold = 0.4
sensitivity = 0.7
clean_normals = 0.6
"""


def onnx_graph(folder: Path) -> tuple[Path, Two]:
    """``two.onnx`` and ``mapping.toml`` in ``folder``, and the network that the graph is of."""
    torch.manual_seed(0)
    network, path = Two().eval(), folder / "two.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 64, 64),), str(path), output_names=["where", "what"], dynamo=False)
    (folder / "mapping.toml").write_text(MAPPING)
    return path, network
