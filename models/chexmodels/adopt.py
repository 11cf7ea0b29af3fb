"""A stranger's model as a bundle of ours: a MONAI bundle or an ONNX file, and a small mapping in TOML.

What a MONAI bundle says of itself (``metadata.json``) need not be said again; the mapping adds to it or overrides it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from monai.bundle.config_parser import ConfigParser
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from chexmodels.bundle import (
    RESEARCH_USE_ONLY,
    BundleError,
    Calibration,
    Manifest,
    ModelCard,
    OperatingPoint,
    write_bundle,
)
from chexmodels.nets.adopted import SINGLE, OnnxNetwork
from chexmodels.nets.monai_networks import MonaiNetwork

METADATA = "configs/metadata.json"
INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
CHECKPOINTS = ("models/model.pt", "models/model.safetensors")
NETWORK_KEYS = ("network_def", "network", "net")


class _Mapping(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PointMapping(_Mapping):
    """An operating point; without figures of its own nobody has measured what it does."""

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    relative_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_area: Annotated[int, Field(ge=0)] = 0
    image_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    sensitivity: Annotated[float, Field(ge=0, le=1)] = 0.0
    clean_normals: Annotated[float, Field(ge=0, le=1)] = 0.0
    classes: Mapping[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Class -> score from which it is called present."""


class AdoptionMapping(_Mapping):
    """What the mapping may say."""

    name: str = ""
    """Of the bundle; else the file's or the MONAI bundle's."""
    version: str = "1"
    size: int = 0
    """Side of the square input, pixels; else the MONAI bundle's or the graph's."""
    geometry: Literal["letterbox", "squash"] = "letterbox"
    channels: int = 1
    """Of the input; all hold the same grey values."""
    low: float = 0.0
    """What black becomes before the network sees it."""
    high: float = 1.0
    """What white becomes."""
    heat: str = SINGLE
    """Output with the map, perhaps with a channel: ``"pred:1"``; empty: the model localises nothing."""
    score: str = ""
    """Output with the score of the image; empty: it is derived from the map or the classes."""
    classes: str = ""
    """Output with a number for each of ``class_names``."""
    class_names: tuple[str, ...] = ()
    kind: Literal["logits", "probability", "softmax"] = "logits"
    """What the outputs hold; ``softmax``: logits of classes that exclude each other."""
    temperature: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0
    operating_points: Mapping[str, PointMapping] = Field(default_factory=lambda: {"second_reader": PointMapping()})
    licence: str = ""
    training_data: str = "Not known here; see the model's own documentation."
    intended_use: str = RESEARCH_USE_ONLY


def adopt(source: Path, out: Path, mapping: Path | None = None) -> ModelCard:
    """Write the MONAI bundle (a folder) or ONNX file ``source`` as a bundle into the folder ``out``.

    Raises ``BundleError`` that says what of it or of ``mapping`` does not fit.
    """
    try:
        said = tomllib.loads(mapping.read_text()) if mapping else {}
        if source.is_dir():
            return _monai(source, out, said)
        return _onnx(source, out, said)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{mapping or source}: {faults}") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise BundleError(f"{source}: {error}") from error


def _monai(source: Path, out: Path, said: Mapping[str, Any]) -> ModelCard:
    metadata = json.loads((source / METADATA).read_text()) if (source / METADATA).is_file() else {}
    given = AdoptionMapping.model_validate({**_of_metadata(metadata, source.name), **said})
    files = [source / name for name in INFERENCE if (source / name).is_file()]
    if not files:
        raise BundleError(f"{source}: no {' or '.join(INFERENCE)}")
    config = ConfigParser.load_config_file(files[0])  # reads, and evaluates nothing
    definition = next((config[key] for key in NETWORK_KEYS if isinstance(config.get(key), dict)), None)
    if definition is None:
        raise BundleError(f"{files[0]}: no definition of a network under {', '.join(NETWORK_KEYS)}")
    plain = json.dumps(_resolved(definition, config))
    network = MonaiNetwork(plain, **_arguments(given))
    network.network.load_state_dict(_checkpoint(source))
    return _write(out, given, "monai", {"network": plain, **_arguments(given)}, network)


def _onnx(source: Path, out: Path, said: Mapping[str, Any]) -> ModelCard:
    graph = source.read_bytes()
    given = AdoptionMapping.model_validate({"name": source.stem, **said})
    network = OnnxNetwork(len(graph), **_arguments(given))
    network.graph = torch.frombuffer(bytearray(graph), dtype=torch.uint8)
    return _write(out, given, "onnx", {"length": len(graph), **_arguments(given)}, network)


def _write(out: Path, given: AdoptionMapping, kind: str, parameters: dict[str, Any], network: nn.Module) -> ModelCard:
    """Run it once, so that what does not fit is found now, and write the bundle; weights stay as exact as they are."""
    if not given.size:
        raise BundleError("size: say in the mapping how large the square input is")
    with torch.inference_mode():
        answers = network.eval()(torch.full((1, 1, given.size, given.size), 0.5))
    count = answers["classes"].shape[1] if "classes" in answers else 0
    if count != len(given.class_names):
        raise BundleError(f"class_names: the model has {count} classes, {len(given.class_names)} are named")
    manifest = Manifest(
        format=1,
        name=given.name,
        version=given.version,
        architecture=kind,
        parameters=parameters,
        size=given.size,
        geometry=given.geometry,
        heat_kind="probability",
        classes=given.class_names,
        calibration=Calibration(temperature=given.temperature, slope=given.slope, intercept=given.intercept),
        operating_points={name: OperatingPoint(**dict(line)) for name, line in given.operating_points.items()},
        weights_sha256="0" * 64,
        licence=given.licence,
        intended_use=given.intended_use,
        training_data=given.training_data,
    )
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    return write_bundle(out, manifest, safetensors.torch.save(state), _card(manifest))


def _card(manifest: Manifest) -> str:
    return (
        f"# {manifest.name} {manifest.version}\n\n**{manifest.intended_use}.** Digest (model.json and weights): "
        f"`{{digest}}`.\n\nMade by others and brought in; architecture `{manifest.architecture}`, input "
        f"{manifest.size} x {manifest.size} px. Its operating points and calibration are those of the mapping.\n\n"
        f"{manifest.training_data}\n\n{manifest.licence}\n"
    )


def _arguments(given: AdoptionMapping) -> dict[str, Any]:
    return {name: getattr(given, name) for name in ("channels", "low", "high", "heat", "score", "classes", "kind")}


def _of_metadata(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What ``metadata.json`` (MONAI's bundle specification) says in the mapping's words."""
    found: dict[str, Any] = {"name": name, "version": str(metadata.get("version", "1"))}
    found["licence"] = str(metadata.get("copyright", metadata.get("license", "")))
    if use := metadata.get("intended_use"):
        found["intended_use"] = str(use)
    if data := metadata.get("data_source"):
        found["training_data"] = str(data)
    formats = metadata.get("network_data_format", {})
    image: Mapping[str, Any] = next(iter(formats.get("inputs", {}).values()), {})
    sides = [side for side in image.get("spatial_shape", ()) if isinstance(side, int)]
    if len(sides) == 2 and sides[0] == sides[1]:
        found["size"] = sides[0]
    if isinstance(image.get("num_channels"), int):
        found["channels"] = image["num_channels"]
    if len(ends := image.get("value_range", ())) == 2:
        found["low"], found["high"] = map(float, ends)
    output: Mapping[str, Any] = next(iter(formats.get("outputs", {}).values()), {})
    if isinstance(output.get("num_channels"), int) and output["num_channels"] > 1:
        found["heat"], found["kind"] = f"{SINGLE}:1", "softmax"
    return found


def _resolved(value: Any, config: Mapping[str, Any]) -> Any:
    """``value`` with references such as ``@channels`` to plain entries of the configuration replaced by them."""
    if isinstance(value, dict):
        return {key: _resolved(each, config) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, config) for each in value]
    if isinstance(value, str) and value.startswith("@") and value[1:] in config:
        return _resolved(config[value[1:]], {key: each for key, each in config.items() if key != value[1:]})
    return value


def _checkpoint(source: Path) -> dict[str, Tensor]:
    """The state dictionary of the bundle, read without executing anything."""
    for name in CHECKPOINTS:
        path = source / name
        if not path.is_file():
            continue
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model", "network", "net"):
            if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
                loaded = loaded[key]
        return dict(loaded)
    raise BundleError(f"{source}: no {' or '.join(CHECKPOINTS)}")
