"""A bundle in the formats of others: an ONNX graph with its mapping, or a MONAI bundle; both proven on real inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chexmodels.bundle import AnomalyCalibration, BundleError, ModelCard, find
from chexmodels.nets.adopted import session
from chexmodels.registry import BUILDERS, load
from chexmodels.trial import pictures

CLOSEST = 1e-3
"""Largest difference of a map from the bundle's own, in logits or anomaly heat, with which it may be written."""
GRAPH, MAPPING = "model.onnx", "mapping.toml"


class NotTheSame(BundleError):
    """What was written answers otherwise than the bundle."""


def to_onnx(source: str, out: Path) -> float:
    """Write ``model.onnx`` and ``mapping.toml`` into ``out``; the largest difference on drawn pictures is returned.

    Raises ``BundleError`` for a network that has no ONNX graph, and ``NotTheSame``.
    """
    model = load(find(source))
    images = pictures(model.card.size)
    out.mkdir(parents=True, exist_ok=True)
    graph = out / GRAPH
    try:
        torch.onnx.export(
            model.network,
            (images[:1],),
            str(graph),
            input_names=["image"],
            output_names=["heat"],
            dynamo=False,  # the other exporter needs onnxscript
        )
        run = session(graph.read_bytes())
    except (RuntimeError, ValueError, TypeError, ModuleNotFoundError) as error:
        raise BundleError(f"{model.card.title} has no ONNX graph: {str(error).splitlines()[0]}") from error
    (out / MAPPING).write_text(_mapping(model.card))
    answers = np.concatenate([run.run(["heat"], {"image": image[None].numpy()})[0] for image in images])
    return _compared(model.network, images, torch.from_numpy(answers))


def to_monai(source: str, out: Path) -> float:
    """Write ``configs/metadata.json``, ``configs/inference.json`` and ``models/model.pt`` into ``out``.

    MONAI's own parser builds the network, from this package's class. Raises ``NotTheSame``.
    """
    from monai.bundle.config_parser import ConfigParser

    model = load(find(source))
    card = model.card
    made: Any = BUILDERS[card.architecture]
    parameters = card.model_dump(mode="json", include={"parameters"})["parameters"]
    inference = {
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "imports": ["$import torch"],
        "network_def": {"_target_": f"{made.__module__}.{made.__qualname__}", **parameters},
        "network": "$@network_def.to(@device).eval()",
        "checkpoint": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True)",
        "load": "$@network.load_state_dict(@checkpoint)",
    }
    for folder in ("configs", "models"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "configs" / "metadata.json").write_text(json.dumps(_metadata(card), indent=2) + "\n")
    (out / "configs" / "inference.json").write_text(json.dumps(inference, indent=2) + "\n")
    torch.save(model.network.state_dict(), out / "models" / "model.pt")
    parser = ConfigParser(ConfigParser.load_config_file(out / "configs" / "inference.json"))
    parser["bundle_root"] = str(out)
    parser.get_parsed_content("load")
    network: nn.Module = parser.get_parsed_content("network").cpu()
    images = pictures(card.size)
    with torch.inference_mode():
        return _compared(model.network, images, torch.cat([network(image[None]) for image in images]))


def _compared(network: nn.Module, images: torch.Tensor, answers: torch.Tensor) -> float:
    with torch.inference_mode():
        own = torch.cat([network(image[None]) for image in images])
    difference = float((own - answers).abs().max())
    if not difference <= CLOSEST:
        raise NotTheSame(f"the map differs by {difference:.2g} from the bundle's")
    return difference


def _mapping(card: ModelCard) -> str:
    """What ``chexnode models add model.onnx --mapping mapping.toml`` reads."""
    if isinstance(card.calibration, AnomalyCalibration):
        raise BundleError(f"{card.title}: a mapping has no calibration of anomaly heat")
    lines = [
        f"name = {json.dumps(card.name)}",
        f"version = {json.dumps(card.version)}",
        f"size = {card.size}",
        f"geometry = {json.dumps(card.geometry)}",
        'heat = "heat"',
        f"temperature = {card.calibration.temperature}",
        f"slope = {card.calibration.slope}",
        f"intercept = {card.calibration.intercept}",
        f"licence = {json.dumps(card.licence)}",
        f"training_data = {json.dumps(card.training_data)}",
    ]
    for name, point in card.operating_points.items():
        lines += ["", f"[operating_points.{json.dumps(name)}]"]
        lines += [f"{key} = {value}" for key, value in point.model_dump(exclude={"classes"}).items()]
        if point.classes:
            lines += [f"[operating_points.{json.dumps(name)}.classes]"]
            lines += [f"{json.dumps(one)} = {score}" for one, score in point.classes.items()]
    return "\n".join(lines) + "\n"


def _metadata(card: ModelCard) -> dict[str, Any]:
    """After MONAI's bundle specification."""
    image = {"type": "image", "format": "magnitude", "modality": "CR", "num_channels": 1}
    image |= {"spatial_shape": [card.size, card.size], "dtype": "float32", "value_range": [0, 1]}
    image |= {"is_patch_data": False, "channel_def": {"0": "image"}}
    meaning = "logit of abnormal" if card.heat_kind == "probability" else "anomaly heat"
    pred = {**image, "format": "segmentation", "value_range": [], "channel_def": {"0": meaning}}
    return {
        "version": card.version,
        "monai_version": "1.5",
        "pytorch_version": "2.8",
        "required_packages_version": {"chexnode": "0.1"},
        "name": card.name,
        "task": "Abnormalities on frontal chest radiographs",
        "description": card.training_data,
        "copyright": card.licence,
        "intended_use": card.intended_use,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }
