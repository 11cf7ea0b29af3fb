"""A MONAI bundle and an ONNX file made by others' tools become bundles of ours; what is code or does not fit is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from torch import nn
from typer.testing import CliRunner

from chexmodels import registry
from chexmodels.adopt import adopt
from chexmodels.bundle import BundleError, find, read_card
from chexmodels.nets.monai_networks import build
from chexmodels.trial import faults, pictures
from chexnode.cli.commands import app
from chextrain.evaluate.convert import NotTheSame, to_monai, to_onnx
from support.foreign_models import MAPPING, UNET, Two, monai_bundle, onnx_graph


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Two]:
    return onnx_graph(tmp_path_factory.mktemp("onnx"))


def test_a_monai_bundle_answers_as_monai_has_it(tmp_path: Path) -> None:
    source = monai_bundle(tmp_path / "spleen")
    card = adopt(source, tmp_path / "ours")
    assert (card.name, card.version, card.licence, card.size) == ("spleen", "0.3", "somebody", 64)
    parser = ConfigParser(ConfigParser.load_config_file(source / "configs" / "inference.json"))
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(source / "models" / "model.pt", weights_only=True))
    images = pictures(64)
    with torch.inference_mode():
        theirs = torch.softmax(network.eval()(2 * images - 1), dim=1)[:, 1:]
        heat = registry.load(tmp_path / "ours")(images).heat
    assert heat is not None
    assert torch.allclose(torch.sigmoid(heat), theirs, atol=1e-5)
    assert faults(tmp_path / "ours") == [
        "operating point second_reader: on the images it was fitted on it marks nothing, or nobody has measured what "
        "it does"
    ]


@pytest.mark.parametrize(
    ("network", "match"),
    [
        ({**UNET, "act": "$__import__('os').system('true')"}, "is an expression or a reference"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, "is no network of monai.networks.nets"),
        ({"_target_": "monai.networks.nets.../os.system"}, "is no network of monai.networks.nets"),
        ({**UNET, "out_channels": 3}, "size mismatch"),
        ({**UNET, "channels": "@nowhere"}, "is an expression or a reference"),
        ({**UNET, "surprise": 1}, "surprise"),
    ],
)
def test_what_is_code_or_does_not_fit_is_refused(tmp_path: Path, network: dict[str, Any], match: str) -> None:
    source = monai_bundle(tmp_path / "theirs", network)
    with pytest.raises(BundleError, match=re.escape(match)):
        adopt(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_class_that_only_looks_like_a_network_is_refused() -> None:
    for target in ("monai.networks.nets.unet.Optional", "UNet.__init__", "monai.networks.nets"):
        with pytest.raises(ValueError, match="is no network"):
            build({"_target_": target})


def test_an_onnx_file_answers_as_its_network(graph: tuple[Path, Two], tmp_path: Path) -> None:
    path, network = graph
    card = adopt(path, tmp_path / "ours", path.parent / "mapping.toml")
    assert (card.name, card.classes) == ("two", ("a", "b", "c"))
    images = pictures(64)
    raw = registry.load(tmp_path / "ours")(images)  # five images, and the graph takes one at a time
    with torch.inference_mode():
        where, what = network(255 * images.expand(-1, 3, -1, -1))
    wanted = nn.functional.interpolate(torch.logit(where), size=(64, 64), mode="bilinear", align_corners=False)
    assert raw.heat is not None
    assert raw.classes is not None
    assert torch.allclose(raw.heat, wanted, atol=1e-3)
    assert torch.allclose(torch.sigmoid(raw.classes), what, atol=1e-3)
    by_onnx = registry.load(tmp_path / "ours", engine="onnx")(images).heat  # it is a graph already
    assert by_onnx is not None
    assert torch.equal(by_onnx, raw.heat)
    assert faults(tmp_path / "ours", "second_reader") == []
    assert faults(tmp_path / "ours", "triage") == ["it has no operating point triage, only second_reader"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (('heat = "where"', 'heat = "nowhere"'), "there is no output 'nowhere', there are what, where"),
        (('heat = "where"', 'heat = "where:1"'), "has the shape"),
        (('["a", "b", "c"]', '["a"]'), "the model has 3 classes, 1 are named"),
        (("size = 64", ""), "how large the square input is"),
        (("channels = 3", "colours = 3"), "colours: Extra inputs are not permitted"),
        (("threshold = 0.4", "threshold = 4"), "operating_points.second_reader.threshold"),
    ],
)
def test_a_mapping_that_does_not_fit_is_named(
    graph: tuple[Path, Two], tmp_path: Path, change: tuple[str, str], match: str
) -> None:
    (tmp_path / "mapping.toml").write_text(MAPPING.replace(*change))
    with pytest.raises(BundleError, match=re.escape(match)):
        adopt(graph[0], tmp_path / "ours", tmp_path / "mapping.toml")


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    (tmp_path / "mapping.toml").write_text("size = 64")
    with pytest.raises(BundleError, match="no ONNX graph that can be run"):
        adopt(tmp_path / "broken.onnx", tmp_path / "ours", tmp_path / "mapping.toml")


def test_a_bundle_goes_out_as_onnx_and_comes_back(tmp_path: Path) -> None:
    assert to_onnx("phantom64", tmp_path / "out") <= 1e-3
    card = adopt(tmp_path / "out" / "model.onnx", tmp_path / "back", tmp_path / "out" / "mapping.toml")
    own = read_card(find("phantom64"))
    assert (card.name, card.operating_points, card.calibration) == (own.name, own.operating_points, own.calibration)
    images = pictures(own.size)
    first, second = (registry.load(folder)(images).heat for folder in (find("phantom64"), tmp_path / "back"))
    assert first is not None
    assert second is not None
    assert torch.allclose(first, second, atol=1e-3)


def test_a_bundle_goes_out_as_a_monai_bundle(tmp_path: Path) -> None:
    assert to_monai("phantom64", tmp_path) <= 1e-3
    parser = ConfigParser(ConfigParser.load_config_file(tmp_path / "configs" / "inference.json"))
    parser["bundle_root"] = str(tmp_path)
    assert not parser.get_parsed_content("load").missing_keys
    metadata = ConfigParser.load_config_file(tmp_path / "configs" / "metadata.json")
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [64, 64]


def test_what_answers_otherwise_is_not_written_as_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chextrain.evaluate.convert.CLOSEST", -1.0)
    with pytest.raises(NotTheSame, match="the map differs by"):
        to_monai("phantom64", tmp_path)


def test_the_command_adds_lists_and_checks(
    graph: tuple[Path, Two], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chexnode.toml").write_text('[node]\ndata_dir = "data"\n[model]\nbundle = "phantom64"\n')

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, list(words))

    added = run("models", "add", str(graph[0]), "--mapping", str(graph[0].parent / "mapping.toml"), "--json")
    assert added.exit_code == 0, added.output
    folder = tmp_path / "data" / "models" / "two"
    assert json.loads(added.output)["folder"] == str(folder)
    again = run("models", "add", str(graph[0]))
    assert "is there already" in str(again.exception)
    copied = run("models", "add", str(find("phantom64")), "--name", "mine")
    assert copied.exit_code == 0, copied.output
    listed = json.loads(run("models", "list", "--json").output)
    assert {"two 1", "phantom64 1"} <= {row["model"] for row in listed}
    assert str(tmp_path / "data" / "models" / "mine") in {row["folder"] for row in listed}
    assert run("models", "check").output == "phantom64 1: works\n"
    checked = run("models", "check", str(folder))
    assert (checked.exit_code, checked.output) == (0, "two 1: works\n")
