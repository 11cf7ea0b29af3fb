"""Scope: distances by hand, the layer that is watched, and what the node makes of an image that is of another kind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import numpy as np
import pydicom
import pytest
import torch

from chexmodels import registry
from chexmodels.bundle import ScopeLine, find, read_card
from chexmodels.dicom.decode import decode
from chexmodels.interpret import OUT_OF_DISTRIBUTION, interpret, is_out_of_scope
from chexmodels.model import RawItem
from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.committee import Committee, Panel
from chexmodels.nets.ddad import DDAD
from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.scope import Scope, Watched
from chexmodels.nets.unet import UNet
from chexmodels.pixels import Geometry, Reading
from chexmodels.trial import pictures
from chexnode.settings.gate import GateSettings
from chexnode.settings.model import ModelSettings
from chexnode.vocabulary.errors import Refused
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.work.answer import pack, unpack
from chexnode.work.pipeline import Pipeline
from chexnode.work.prepared import Prepared
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.evaluate.fit_scope import deepest, features, fit


def test_the_distance_by_hand() -> None:
    scope = Scope(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([4.0, 0.25]))
    given = torch.tensor([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [2.0, 0.0, 0.0], [2.0, 2.0, 1.0]])
    squares = torch.tensor([0.0, 4 / 4, 1 / 0.25, 4 / 4 + 2 / 0.25])
    assert torch.allclose(scope(given), torch.sqrt(squares / 3))


def test_what_is_like_the_training_images_is_about_one_away_and_other_directions_are_far() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([5.0, 2.0, *([0.1] * 14)])
    learnt = torch.randn(800, 16, generator=generator) * spread
    scope = Scope.fit(learnt, directions=2)
    near = scope(torch.randn(200, 16, generator=generator) * spread)
    assert float(near.mean()) == pytest.approx(1, abs=0.1)
    far = torch.zeros(1, 16)
    far[0, 9] = 3.0  # less than the training images' own spread, but where they have none
    assert float(scope(far)) > 4 * float(near.max())


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (UNet("nano"), "body.down_4"),
        (UNet("early"), "body.down.3"),
        (EncoderUNet("efficientnet-lite0"), "encoder.blocks.15"),
        (Committee([UNet("residual"), UNet("residual")], mirror=True), "members.0.body.down.3"),
        (
            Panel([UNet("nano"), Committee([EncoderUNet("efficientnet-lite0")], mirror=True)], (128, 64), (1, 1)),
            "members.1.members.0.encoder.blocks.15",
        ),
        (CheXNomaly("early", "residual-half"), "unet.body.down.3"),
        (DDAD("ae", 2, width=8), ""),
    ],
)
def test_the_deepest_layer_is_watched(network: torch.nn.Module, layer: str) -> None:
    assert deepest(network) == layer
    if layer:
        watched = Watched(network.eval(), layer)
        with torch.no_grad():
            network(torch.rand(2, 1, 128, 128))
        assert watched.take().shape[0] == 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``phantom64`` with a scope."""
    from chexmodels.bundle import Manifest, write_bundle

    model = registry.load(find("phantom64"))
    collection = phantom.collection(train=48, val=40, test=1)
    train, val = (load(collection, split, 64, None) for split in ("train", "val"))
    fitted = fit(model.network, train, val)
    assert fitted is not None
    line, scope = fitted
    card = {name: getattr(model.card, name) for name in Manifest.model_fields}
    folder = tmp_path_factory.mktemp("scope") / "bundle"
    write_bundle(folder, Manifest(**{**card, "scope": line}), registry.serialise(model.network, scope), "{digest}")
    return folder


def test_drawn_chests_are_in_and_other_pictures_are_out(bundle: Path) -> None:
    model = registry.load(bundle)
    others: Arrays = load(phantom.collection(train=1, val=1, test=40), "test", 64, None)
    chests = torch.from_numpy(np.array(others.images))[:, None].float() / 255
    inside = [is_out_of_scope(item, model.card) for item in model(chests).items()]
    assert np.mean(inside) <= 0.1
    outside = [is_out_of_scope(item, model.card) for item in model(pictures(64)[:4]).items()]
    assert all(outside), model(pictures(64)).distance
    own = registry.load(find("phantom64"))
    assert torch.allclose(own(chests).heat, model(chests).heat, atol=1e-3)  # type: ignore[arg-type]
    assert own(chests).distance is None


def test_the_threshold_leaves_half_a_per_cent_of_validation_out(bundle: Path) -> None:
    model = registry.load(bundle)
    val = load(phantom.collection(train=48, val=40, test=1), "val", 64, None)
    assert model.card.scope is not None
    distances = model.scope[1](features(model.network, model.card.scope.layer, val))  # type: ignore[index]
    assert int((distances > model.card.scope.threshold * 1.001).sum()) == 0  # of 40; the farthest is on the line


def test_an_image_out_of_scope_is_noted_and_never_a_negative() -> None:
    card = read_card(find("phantom64")).model_copy(update={"scope": ScopeLine(layer="x", threshold=2.0)})
    raw = RawItem(np.full((64, 64), -9, dtype=np.float32), distance=2.5)
    geometry = Geometry(64, 64, 64)
    assert OUT_OF_DISTRIBUTION in interpret(raw, card, "second_reader", geometry).notes
    assert OUT_OF_DISTRIBUTION not in interpret(raw._replace(distance=1.5), card, "second_reader", geometry).notes
    assert OUT_OF_DISTRIBUTION not in interpret(raw._replace(distance=None), card, "second_reader", geometry).notes


@pytest.mark.parametrize("setting", ["refuse", "note"])
def test_the_node_refuses_or_notes_what_is_out_of_scope(setting: Literal["refuse", "note"]) -> None:
    card = read_card(find("phantom64")).model_copy(update={"scope": ScopeLine(layer="x", threshold=2.0)})
    pipeline = Pipeline.__new__(Pipeline)
    for name, value in (
        ("engine", SimpleNamespace(card=card)),
        ("settings", ModelSettings()),
        ("gate", GateSettings(out_of_distribution=setting)),
    ):
        object.__setattr__(pipeline, name, value)
    prepared = cast(Prepared, SimpleNamespace(geometry=Geometry(64, 64, 64), notes=()))
    raw = RawItem(np.full((64, 64), -9, dtype=np.float32), distance=2.5)
    assert pipeline.interpret(prepared, raw._replace(distance=1.0)).abnormal is False
    if setting == "refuse":
        with pytest.raises(Refused) as refused:
            pipeline.interpret(prepared, raw)
        assert refused.value.reason is Reason.OUT_OF_SCOPE
    else:
        found = pipeline.interpret(prepared, raw)
        assert found.abnormal is None
        assert found.notes == (Note.OUT_OF_DISTRIBUTION,)
        abnormal = pipeline.interpret(prepared, raw._replace(heat=np.full((64, 64), 9, dtype=np.float32)))
        assert abnormal.abnormal is True
        assert abnormal.regions


def test_a_kept_answer_keeps_its_distance() -> None:
    raw = RawItem(np.zeros((2, 2), dtype=np.float32), score=0.5, distance=1.25)
    kept = unpack(pack(raw))
    assert (kept.score, kept.distance) == (0.5, 1.25)
    assert unpack(pack(raw._replace(distance=None))).distance is None


@pytest.mark.parametrize("inside", [True, False], ids=["chests", "others"])
def test_the_shipped_model_tells_chests_from_others(inside: bool, shared: Path) -> None:
    if inside:
        files = [path for path in sorted((shared / "data/dicom/chest").glob("*.dcm")) if "fake" not in path.name]
    else:
        names = ("dental_pano_cr_modality_lut", "dog_thorax_dx_mono1", "rg2_hip_cr_j2ki", "rg3_leg_cr_j2ki")
        files = [shared / f"data/dicom/not_chest/{name}.dcm" for name in names]
        files.append(shared / "data/dicom/chest/siim_cr_fake_monochrome1.dcm")  # its header inverts it
    model = registry.load(find("chexnomaly"))
    for file in files:
        ds = pydicom.dcmread(file)
        image = Reading(ds, decode(ds)).image().pixels
        square = Geometry(*image.shape, model.card.size).forward(image)
        (raw,) = model(torch.from_numpy(square)[None, None]).items()
        assert is_out_of_scope(raw, model.card) != inside, (file.name, raw.distance)
