"""Bundles: what is read, what is refused, and that nothing passes for what it is not."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chexmodels import bundle, registry
from chexmodels.bundle import BundleError, Manifest, find, read_card, write_bundle
from chexmodels.nets.unet import UNet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the small shipped bundle, to be spoilt."""
    return Path(shutil.copytree(find("phantom64"), tmp_path / "spoilt"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", bundle.shipped())
def test_shipped_bundles_load_and_stay_small(name: str) -> None:
    folder = find(name)
    model = registry.load(folder)
    assert model.card.name == name
    assert {"second_reader", "triage"} <= set(model.card.operating_points)
    assert (folder / "model.safetensors").stat().st_size < 30e6
    assert model.card.digest in (folder / "card.md").read_text()
    raw = model(torch.rand(1, 1, model.card.size, model.card.size))
    answer = raw.classes if raw.heat is None else raw.heat
    assert answer is not None
    assert torch.isfinite(answer).all()


def test_digest_is_of_model_json_and_weights_and_not_of_the_card(folder: Path) -> None:
    expected = hashlib.sha256((folder / "model.json").read_bytes() + (folder / "model.safetensors").read_bytes())
    (folder / "card.md").write_text("other words")
    assert read_card(folder).digest == expected.hexdigest()


def test_tampered_weights_are_refused_with_both_digests(folder: Path) -> None:
    path = folder / "model.safetensors"
    expected = read_card(folder).weights_sha256
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(BundleError) as caught:
        registry.load(folder)
    assert expected in str(caught.value)
    assert hashlib.sha256(spoilt).hexdigest() in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"format": 2}, "format"),
        ({"name": "../evil"}, "name"),
        ({"size": 31}, "size"),
        ({"operating_points": {}}, "operating_points"),
        ({"calibration": {"temperature": 0.0, "slope": 1.0, "intercept": 0.0}}, "temperature"),
        ({"weights_sha256": "abc"}, "weights_sha256"),
    ],
)
def test_malformed_manifests_name_the_key(folder: Path, changes: dict[str, object], named: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=named):
        read_card(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"format": NaN}', "\xff"])
def test_manifests_that_are_no_object_are_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        read_card(folder)


@pytest.mark.parametrize(
    "changes", [{"architecture": "os.system"}, {"parameters": {"preset": "base"}}, {"parameters": {"preset": "none"}}]
)
def test_weights_that_do_not_fit_the_architecture_are_refused(folder: Path, changes: dict[str, object]) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match="architecture"):
        registry.load(folder)


def test_weights_that_are_no_safetensors_are_refused(folder: Path) -> None:
    junk = b"\x80\x04junk that is a pickle's beginning"
    (folder / "model.safetensors").write_bytes(junk)
    edit(folder, weights_sha256=hashlib.sha256(junk).hexdigest())
    with pytest.raises(BundleError):
        registry.load(folder)


def test_absent_bundles_name_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="phantom64"):
        find("no-such-model")
    with pytest.raises(BundleError, match=str(tmp_path)):
        find(tmp_path)


def test_what_is_written_is_read_back(tmp_path: Path, folder: Path) -> None:
    network = UNet("nano").eval()
    manifest = Manifest.model_validate_json((folder / "model.json").read_bytes())
    card = write_bundle(tmp_path / "new", manifest, registry.serialise(network), "Digest {digest}.")
    assert (tmp_path / "new" / "card.md").read_text() == f"Digest {card.digest}."
    image = torch.rand(1, 1, 64, 64)
    loaded = registry.load(tmp_path / "new")
    assert loaded.card == card
    assert torch.allclose(loaded(image).heat, network.half().float()(image))
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}


def test_reading_a_card_needs_no_torch() -> None:
    code = (
        "import sys; from chexmodels.bundle import find, read_card; import chexmodels.interpret;"
        "read_card(find('phantom64')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
