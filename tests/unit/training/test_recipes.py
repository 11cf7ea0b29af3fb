"""Recipes on phantoms: what each method learns from, that its runs load, and that ensembles are out of fold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from chexmodels.nets.attention import AttentionUNet
from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.ensembles import MaxEnsemble, ModelEnsemble
from chexmodels.nets.siamese import siamese as twins
from chexmodels.nets.unet import UNet
from chextrain.cli import app
from chextrain.config import Config, ConfigError, load_config
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.data.cases import Case
from chextrain.data.selection import boxed_in, select
from chextrain.fit.trainer import Localisation
from chextrain.recipes import attention, chexnomaly, max_ensemble, model_ensemble, siamese, specialist, supermodel
from chextrain.runs import BEST, Run, committee, load_network

TINY = (
    "data.size=64",
    "network.preset=nano",
    "network.dropout=0",
    "siamese.preset=nano",
    "siamese.pairs=8",
    "ensemble.least=1",
    "training.epochs=1",
    "training.batch_size=8",
    "training.precision=32-true",
)
LESIONS = ("large lesion", "small lesion")
Data = dict[str, Arrays]


def config(*overrides: str) -> Config:
    return load_config(None, [*TINY, *overrides])


@pytest.fixture(scope="module")
def data() -> Data:
    collection = phantom.collection(train=64, val=24, test=1)
    return {split: load(collection, split, 64, cache=None) for split in ("train", "val")}


def names(case: Case) -> set[str]:
    return {name for found in case.box_findings for name in found}


def same(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class TestSpecialists:
    @pytest.mark.parametrize("negatives", ["others", "normal"])
    @pytest.mark.parametrize("finding", LESIONS)
    def test_learn_from_as_many_images_with_the_finding_as_without(
        self, data: Data, finding: str, negatives: str
    ) -> None:
        shown = select(data["train"], finding, negatives, seed=0)
        before = {case.image_id: case for case in data["train"].cases}
        having = [finding in names(before[case.image_id]) for case in shown.cases]
        assert sum(having) == sum(finding in names(case) for case in before.values())
        candidates = [c for c in before.values() if finding not in names(c)]
        available = sum(negatives == "others" or c.label == "normal" for c in candidates)
        assert 5 < len(having) - sum(having) == min(sum(having), available)
        for case, has, target in zip(shown.cases, having, shown.targets, strict=True):
            assert names(case) == ({finding} if has else set())
            assert target.any() == has
        labels = {before[case.image_id].label for case, has in zip(shown.cases, having, strict=True) if not has}
        assert labels == ({"normal", "abnormal"} if negatives == "others" else {"normal"})

    def test_see_the_boxes_of_their_finding_alone(self, data: Data) -> None:
        both = next(i for i, case in enumerate(data["train"].cases) if names(case) == set(LESIONS))
        whole = data["train"].targets[both]
        parts = [data["train"].only(finding).targets[both] for finding in LESIONS]
        assert np.array_equal(parts[0] | parts[1], whole)
        assert all(part.any() and not np.array_equal(part, whole) for part in parts)

    def test_are_not_shown_as_negatives_what_somebody_named_without_a_box(self, data: Data) -> None:
        cases = tuple(replace(c, findings=c.findings | {"large lesion"}) for c in data["train"].cases)
        shown = select(replace(data["train"], cases=cases), "large lesion", "others", seed=0)
        assert all(names(case) for case in shown.cases)

    def test_the_seed_draws_the_negatives(self, data: Data) -> None:
        def ids(seed: int) -> list[str]:
            return [c.image_id for c in select(data["train"], "large lesion", "others", seed).cases]

        assert ids(1) == ids(1) != ids(2)

    @pytest.mark.parametrize(("finding", "named"), [("lesoin", "lesion"), ("Atelectasis", "Atelectasis")])
    def test_unknown_findings_are_refused(self, data: Data, finding: str, named: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=named):
            specialist.train(data["train"], data["val"], config(f"specialist.finding={finding}"), tmp_path)

    def test_a_finding_must_be_named(self) -> None:
        with pytest.raises(ConfigError, match=r"specialist\.finding"):
            specialist.parameters(config())

    @pytest.mark.parametrize(
        ("large", "small", "trained"),
        [
            ("Nodule/Mass", "Rib fracture", ("Nodule/Mass",)),  # of VinDr-CXR's 22, the 14
            ("Nodule/Mass", "Nodule", ("Nodule", "Nodule/Mass")),  # of another set all, whatever some are called
        ],
    )
    def test_what_is_trained(self, data: Data, large: str, small: str, trained: tuple[str, ...]) -> None:
        to = {"large lesion": large, "small lesion": small}
        train, val = (
            replace(part, cases=tuple(replace(c, box_findings=_renamed(c, to)) for c in part.cases))
            for part in data.values()
        )
        assert boxed_in(train, val) == trained

    def test_what_nobody_boxed_to_validate_by_is_not_trained(self, data: Data) -> None:
        without = data["val"].where(["small lesion" not in names(case) for case in data["val"].cases])
        assert boxed_in(data["train"], data["val"]) == LESIONS
        assert boxed_in(data["train"], without) == LESIONS[:1]

    def test_what_is_too_rare_to_learn_is_not_trained(self, data: Data) -> None:
        large, small = (sum(name in names(case) for case in data["train"].cases) for name in LESIONS)
        assert large != small
        most = max(large, small)
        assert boxed_in(data["train"], data["val"], most) == (LESIONS[small == most],)
        assert boxed_in(data["train"], data["val"], most + 1) == ()


def _renamed(case: Case, to: dict[str, str]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(to[name] for name in found) for found in case.box_findings)


@pytest.fixture(scope="module")
def specialists(data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MaxEnsemble]:
    folder = tmp_path_factory.mktemp("max")
    return folder, max_ensemble.train(data["train"], data["val"], config(), folder, findings=LESIONS)


class TestEnsembles:
    @pytest.mark.parametrize("recipe", [max_ensemble, model_ensemble])
    def test_of_nothing_are_refused(self, recipe: ModuleType) -> None:
        with pytest.raises(ConfigError, match=r"ensemble\.least"):
            recipe.parameters(config(), ())

    def test_members_are_the_specialists_that_were_trained(self, specialists: tuple[Path, MaxEnsemble]) -> None:
        folder, network = specialists
        assert network.findings == LESIONS
        for finding, member in zip(LESIONS, network.members, strict=True):
            assert same(member, torch.load(folder / finding / BEST, weights_only=True))
        assert same(network, torch.load(folder / BEST, weights_only=True))
        assert not torch.equal(network.members[0].head.weight, network.members[1].head.weight)

    def test_finished_specialists_are_not_trained_again(
        self, data: Data, specialists: tuple[Path, MaxEnsemble]
    ) -> None:
        folder, network = specialists
        (folder / BEST).unlink()
        (folder / LESIONS[1] / "last.ckpt").unlink()  # the second was never finished
        written = {path: path.stat().st_mtime_ns for path in folder.rglob(BEST)}
        again = max_ensemble.train(data["train"], data["val"], config(), folder, findings=LESIONS, resume=True)
        changed = {path.parent.name for path, when in written.items() if path.stat().st_mtime_ns != when}
        assert changed == {LESIONS[1]}
        assert same(again, network.state_dict())

    def test_the_combiner_learns_from_maps_of_patients_their_specialists_have_not_seen(
        self, data: Data, specialists: tuple[Path, MaxEnsemble], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        learnt: dict[int, set[str]] = {id(specialists[1]): {c.group for c in data["train"].cases}}
        mapped: list[tuple[int, set[str]]] = []
        train, maps_of = max_ensemble.train, model_ensemble.maps_of

        def watched_train(train_set: Arrays, *rest: Any, **more: Any) -> MaxEnsemble:
            network = train(train_set, *rest, **more)
            learnt[id(network)] = {case.group for case in train_set.cases}
            kept.append(network)  # so that no other takes its id
            return network

        def watched_maps(network: MaxEnsemble, arrays: Arrays, scale: int) -> Iterator[Any]:
            mapped.append((id(network), {case.group for case in arrays.cases}))
            return maps_of(network, arrays, scale)

        kept: list[MaxEnsemble] = []
        monkeypatch.setattr(max_ensemble, "train", watched_train)
        monkeypatch.setattr(model_ensemble, "maps_of", watched_maps)
        network = model_ensemble.train(
            data["train"], data["val"], config(), tmp_path, findings=LESIONS, specialists=specialists[1]
        )
        assert len(mapped) == 3  # two folds, and the validation images
        assert all(groups and not learnt[who] & groups for who, groups in mapped)
        assert mapped[0][1] | mapped[1][1] == {case.group for case in data["train"].cases}
        assert same(network.specialists, specialists[1].state_dict())
        assert same(network.combiner, torch.load(tmp_path / "combiner" / BEST, weights_only=True))
        assert same(network, torch.load(tmp_path / BEST, weights_only=True))
        assert not list(tmp_path.glob("*.npy"))

    def test_in_sample_is_the_papers_way_and_trains_no_folds(
        self, data: Data, specialists: tuple[Path, MaxEnsemble], tmp_path: Path
    ) -> None:
        values = config("ensemble.in_sample=true", "ensemble.scale=1")
        network = model_ensemble.train(
            data["train"], data["val"], values, tmp_path, findings=LESIONS, specialists=specialists[1]
        )
        assert {path.name for path in tmp_path.iterdir()} == {"combiner", BEST}
        assert network(torch.rand(1, 1, 64, 64)).shape == (1, 1, 64, 64)

    def test_folds_are_by_patient_and_stay_when_data_are_added(self, data: Data) -> None:
        values = config()
        fold = model_ensemble.folds(data["train"], data["val"], values, LESIONS)
        assert set(fold) == {0, 1}
        groups = [data["train"].cases[i - i % 2].group for i in range(64)]
        paired = [replace(case, group=group) for case, group in zip(data["train"].cases, groups, strict=True)]
        pairs = replace(data["train"], cases=tuple(paired))
        by_patient = model_ensemble.folds(pairs, data["val"], values, LESIONS)
        assert np.array_equal(by_patient[::2], by_patient[1::2])
        first = data["train"].where([i < 40 for i in range(64)])
        assert np.array_equal(model_ensemble.folds(first, data["val"], values, LESIONS), fold[:40])

    def test_a_finding_that_a_fold_would_lack_is_named_before_anything_is_trained(
        self, data: Data, tmp_path: Path
    ) -> None:
        cases = data["train"].cases
        one = next(i for i, case in enumerate(cases) if names(case) == {"large lesion"})
        few = data["train"].where([i == one or "large lesion" not in names(case) for i, case in enumerate(cases)])
        with pytest.raises(ConfigError, match="large lesion"):
            model_ensemble.train(few, data["val"], config(), tmp_path, findings=LESIONS)
        assert not list(tmp_path.iterdir())


def test_the_attention_supermodel_trains(data: Data, tmp_path: Path) -> None:
    network = attention.train(data["train"], data["val"], config(), tmp_path)
    assert isinstance(network, AttentionUNet)
    assert same(network, torch.load(tmp_path / BEST, weights_only=True))


def test_maps_of_single_findings_are_learnt_by_and_not_kept(data: Data, tmp_path: Path) -> None:
    few = data["train"].where([i < 24 for i in range(64)])
    assert set(few.boxed()) == set(LESIONS)
    assert few.boxed(least=25) == ()
    trained = {}
    for weight in (0.0, 1.0):
        folder = tmp_path / str(weight)
        trained[weight] = supermodel.train(few, data["val"], config(f"loss.findings={weight}"), folder)
        assert trained[weight].state_dict().keys() == UNet("nano").state_dict().keys()
    assert not same(trained[0.0], trained[1.0].state_dict())
    chexnomaly.train(
        few, data["val"], config("loss.findings=1"), tmp_path, supermodel=trained[1.0], siamese=twins(preset="nano")
    )
    with pytest.raises(ConfigError, match=r"loss\.findings"):
        attention.train(few, data["val"], config("loss.findings=1"), tmp_path / "attention")


def test_a_finding_is_looked_for_where_its_bit_is() -> None:
    module = Localisation(UNet("nano"), config(), 0.5, LESIONS)
    named = torch.zeros(1, 1, 8, 8)
    named[..., :4, :4], named[..., 4:, 4:] = 1, 2
    right = torch.full((1, 2, 4, 4), -30.0)
    right[:, 0, :2, :2], right[:, 1, 2:, 2:] = 30, 30
    everywhere = torch.ones(1, 1, 8, 8)
    assert module._single_loss(right, named, everywhere) < 1e-6
    assert module._single_loss(right.flip(1), named, everywhere) > 10
    assert module._single_loss(right.flip(1), named, 0 * everywhere) == 0


def test_members_of_a_committee_may_differ_in_dropout_alone(tmp_path: Path) -> None:
    folders = []
    for index, override in enumerate(("network.dropout=0.1", "network.dropout=0.2", "network.preset=half")):
        values, folder = config(override), tmp_path / str(index)
        parameters = supermodel.parameters(values)
        Run("supermodel", "phantom", "unet", parameters, values.model_dump(mode="json")).write(folder)
        torch.save(UNet(**supermodel.parameters(values)).state_dict(), folder / BEST)
        folders.append(folder)
    run, network = committee(folders[:2], mirror=False)
    assert run.parameters["count"] == 2
    image, members = torch.rand(1, 1, 64, 64), [load_network(folder) for folder in folders[:2]]
    assert torch.allclose(network(image), (members[0](image) + members[1](image)) / 2, atol=1e-6)
    with pytest.raises(ConfigError, match="not of one architecture"):
        committee([folders[0], folders[2]], mirror=False)


@pytest.mark.parametrize("variant", ["map", "cnn"])
def test_every_siamese_variant_trains_and_is_transferred(data: Data, tmp_path: Path, variant: str) -> None:
    values = config(f"siamese.variant={variant}", "chexnomaly.inject=bottleneck")
    extractor = siamese.train(data["train"], data["val"], values, tmp_path / "siamese")
    assert type(extractor) is type(twins(variant))
    network = chexnomaly.train(
        data["train"], data["val"], values, tmp_path / "chexnomaly", supermodel=UNet("nano"), siamese=extractor
    )
    assert same(network.extractor, extractor.state_dict())
    assert network.unet.injection.weight.any()


@pytest.mark.parametrize(
    ("override", "taken_over", "moved"),
    [
        ("chexnomaly.extractor=random", False, None),
        ("chexnomaly.frozen=false", None, True),
        ("chexnomaly.features_only=true", True, False),
        ("chexnomaly.warm_start=false", True, False),
    ],
)
def test_ablations_change_what_they_name(
    data: Data, tmp_path: Path, override: str, taken_over: bool | None, moved: bool | None
) -> None:
    few = data["train"].where([i < 24 for i in range(64)])
    extractor, supermodel = twins(preset="nano"), UNet("nano")
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    values = config(override)
    network = chexnomaly.train(few, data["val"], values, tmp_path, supermodel=supermodel, siamese=extractor)
    assert isinstance(network, CheXNomaly)
    assert same(extractor, before)
    if taken_over is not None:
        assert same(network.extractor, before) == taken_over
    if moved is not None:
        assert same(network.extractor, before) != moved


def test_a_stage_that_is_left_out_need_not_be_given(data: Data, tmp_path: Path) -> None:
    assert chexnomaly.stages(config()) == ("supermodel", "siamese")
    neither = config("chexnomaly.extractor=random", "chexnomaly.warm_start=false")
    assert chexnomaly.stages(neither) == ()
    few = data["train"].where([i < 16 for i in range(64)])
    chexnomaly.train(few, data["val"], neither, tmp_path / "neither")
    with pytest.raises(ConfigError, match="siamese"):
        chexnomaly.train(few, data["val"], config(), tmp_path / "both", supermodel=UNet("nano"))
    values = config("siamese.variant=cnn")
    with pytest.raises(ConfigError, match="siamese"):
        chexnomaly.train(few, data["val"], values, tmp_path, supermodel=UNet("nano"), siamese=twins(preset="nano"))


@pytest.mark.parametrize("recipe", ["specialist", "max_ensemble", "model_ensemble"])
def test_one_command_trains_it(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = phantom.collection(train=48, val=16, test=1)
    monkeypatch.setattr(phantom, "collection", lambda: few)
    out = tmp_path / "run"
    extra = ("specialist.finding=Small Lesion",) if recipe == "specialist" else ()
    words = [word for override in (*TINY, *extra) for word in ("--set", override)]
    result = CliRunner().invoke(app, ["train", recipe, "--format", "phantom", "--out", str(out), *words])
    assert result.exit_code == 0, result.output
    network = load_network(out)
    kinds = {"specialist": UNet, "max_ensemble": MaxEnsemble, "model_ensemble": ModelEnsemble}
    assert type(network) is kinds[recipe]
    assert network(torch.rand(1, 1, 64, 64)).shape == (1, 1, 64, 64)
    if recipe != "specialist":
        assert json.loads((out / "run.json").read_text())["parameters"]["findings"] == list(LESIONS)
    else:
        assert "--set 'specialist.finding=Small Lesion'" in Run.read(out).commands[-1]
