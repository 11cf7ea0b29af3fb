"""The recipe of CXR-CML on phantoms: what it learns from, clusters that keep their number, text, tables and bundles."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from chexmodels.bundle import read_card
from chexmodels.nets.embedding import TextEncoder
from chexmodels.registry import load as load_bundle
from chextrain.cli import app
from chextrain.config import Config, ConfigError, load_config
from chextrain.data import nih, phantom
from chextrain.data.arrays import Arrays, load
from chextrain.data.build import build
from chextrain.data.long_tail import COMMON, RARE, rare
from chextrain.evaluate.classes import class_logits, macro, report
from chextrain.evaluate.export_classifier import calibrations
from chextrain.fit.embeddings import embedded, sentence, sentences
from chextrain.fit.metric_learning import Clusters, Known, MetricLearning, macro_auc, read_labels
from chextrain.recipes import cml
from chextrain.runs import BEST, Run, committee, load_network

LESIONS = ("large lesion", "small lesion")
TINY = (
    "data.size=32",
    "encoder.weights=random",
    "training.epochs=3",
    "training.batch_size=16",
    'training.loggers=["csv"]',
    "cml.width=16",
    "cml.dimension=8",
    "cml.pca=4",
    "cml.starts=1",
)
CROSSES = ModuleType("crosses")
"""Encoders as a user would bring them."""


class Means(nn.Module):
    """Means of an image's quarters, which is all that tells one drawn picture from another here."""

    dimension = 4
    name = "means"

    def forward(self, image: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)


class Phrases:
    """Texts as which phrases are in them."""

    known = ("no large", "no small", "no finding", "large", "small")
    dimension = len(known)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(phrase in text) for phrase in self.known] for text in texts])


CROSSES.images = Means  # type: ignore[attr-defined]
CROSSES.texts = Phrases  # type: ignore[attr-defined]
CROSSES.neither = object  # type: ignore[attr-defined]


def config(*overrides: str) -> Config:
    return load_config(None, [*TINY, *overrides], cml.RECIPE.defaults)


@pytest.fixture(scope="module")
def data() -> dict[str, Arrays]:
    collection = phantom.collection(train=48, val=24, test=24)
    return {split: load(collection, split, 32, cache=None) for split in ("train", "val")}


def points(seed: int = 0, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of three kinds with their classes: one, the other, none."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=count)
    centres = np.array([[4.0, 0, 0, 0, 0, 0], [0, 4, 0, 0, 0, 0], [3, 3, 3, 0, 0, 0]])
    target = np.stack([kind == 0, kind == 1], axis=1)
    return (centres[kind] + rng.normal(size=(count, 6))).astype(np.float32), target


def trained(values: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """A network trained on :func:`points` in place of an encoder's answers, and others' logits and classes."""
    sets = {"train": points(0), "val": points(1)}
    monkeypatch.setattr(cml, "embedded", lambda encoder, arrays, folder, split: sets[split][0])
    monkeypatch.setattr(
        Arrays, "classes", lambda arrays, names: sets["train" if len(arrays.cases) == 240 else "val"][1]
    )
    few = phantom.collection(train=240, val=239, test=0)
    sets["val"] = sets["val"][0][:239], sets["val"][1][:239]
    blank = [np.zeros((count, 2, 2), np.uint8) for count in (240, 239)]
    arrays = [
        Arrays(few.split(split), images, images > 0)  # type: ignore[arg-type]
        for split, images in zip(("train", "val"), blank, strict=True)
    ]
    monkeypatch.setitem(sys.modules, "crosses", CROSSES)
    monkeypatch.setattr(Means, "dimension", 6)
    network = cml.train(*arrays, values, folder, findings=LESIONS)
    features, target = points(2)
    with torch.inference_mode():
        logits = network(torch.from_numpy(features))["classes"].numpy()
    return network, logits, target


OWN = "cml.encoder=crosses:images"


class TestLearning:
    @pytest.mark.parametrize("more", [(), ("cml.metric=0", "cml.scores=prototypes")])
    def test_classes_are_told_apart(
        self, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = config(OWN, "training.epochs=6", "training.learning_rate=0.01", *more)
        _, logits, target = trained(values, tmp_path, monkeypatch)
        assert macro_auc(logits, target) > 0.93
        assert (tmp_path / BEST).is_file()
        assert (tmp_path / "components-0.npy").is_file() == ("cml.metric=0" not in more)

    @pytest.mark.parametrize("more", [(), ("cml.text_encoder=crosses:texts",)])
    def test_text_alone_teaches_the_classes_too(
        self,
        more: tuple[str, ...],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Zero-shot: no layer of the classes is trained; the texts' prompts score the images."""
        rates = ("training.epochs=12", "training.learning_rate=0.01")
        network, logits, target = trained(config(OWN, "cml.text=true", *rates, *more), tmp_path, monkeypatch)
        assert macro_auc(logits, target) > 0.85
        assert not network.classes.bias.any()  # type: ignore[operator, union-attr]
        assert ("no CLIP" in caplog.text) == (not more)


class TestClusters:
    def test_numbers_last_and_the_doubtful_are_dropped(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        centres = np.eye(3, 8) * 6
        kind = np.repeat([0, 1, 2], [80, 80, 20])
        clusters = Clusters(config("cml.components=3", "cml.starts=4"), 9, tmp_path)
        fits = []
        for epoch in range(3):
            moved = centres + 0.2 * epoch
            rows = (moved[kind] + rng.normal(size=(180, 8)) * 0.5).astype(np.float32)
            rows[0] = moved.mean(axis=0)
            labels, weights = clusters.fit(rows)
            assert clusters.components == 3
            fits.append(labels)
            few = np.bincount(labels[labels >= 0], minlength=3).argmin()
            assert weights.argmax() == few
        assert (fits[0][1:] == fits[1][1:]).mean() > 0.97
        assert (fits[1][1:] == fits[2][1:]).mean() > 0.97
        strict = Clusters(
            config("cml.components=3", "cml.starts=4", "cml.cut=0.999999", "cml.weighted=false"), 9, tmp_path
        )
        labels, weights = strict.fit(rows)
        assert (labels < 0).any()
        assert weights.tolist() == [1, 1, 1]

    def test_the_criterion_chooses_how_many(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        rows = (np.repeat(np.eye(4) * 9, 100, axis=0) + rng.normal(size=(400, 4))).astype(np.float32)
        clusters = Clusters(config("cml.bic=[2, 4, 12]", "cml.starts=4", "cml.nu=0"), 9, tmp_path)
        clusters.fit(rows)
        assert clusters.components == 4

    def test_texts_are_clustered_beside_the_images(self, tmp_path: Path) -> None:
        features, target = points()
        values = config("cml.text=true", "cml.text_weight=2.0", "cml.encoder=x:y")
        network = cml.EmbeddingClassifier("", LESIONS, width=0, dimension=8, features=6)
        texts = sentences(target, LESIONS, 1, seed=0)
        reading = read_labels(target, LESIONS, texts, TextEncoder(["no", "large", "small", "lesion", "finding"], 8))
        module = MetricLearning(network, values, Known(features, target), tmp_path, reading)
        rows = module._clustered()
        assert rows.shape == (240, 16)
        both = np.asarray(rows[0:240])
        np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(both[:, 8:], axis=1), 2 / np.sqrt(5), atol=1e-5)


class TestSentences:
    def test_labels_become_sentences(self) -> None:
        assert sentence(["mass"], ["edema"]) == "mass. no edema."
        assert sentence([], []) == "no finding."
        target = np.array([[True, False, True], [False, False, False]])
        for seed in range(5):
            one, none = sentences(target, ["a", "b", "c"], 2, seed)
            assert one in ("a. c.", "a. c. no b.")
            assert none.startswith("no finding.")
            assert "b. " not in none.replace("no b. ", "")


def test_labels_are_those_of_the_report(tmp_path: Path) -> None:
    columns = [*nih.COLUMNS, "report_findings"]
    reports = ['["Pleural_Thickening", "Mass"]', '["No Finding"]', ""]
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, columns)
        table.writeheader()
        for number, text in enumerate(reports):
            boxes = json.dumps([{"box": [1, 1, 5, 5], "label": "Nodule"}] if number == 2 else [])
            label = "abnormal" if number != 1 else "normal"
            row = [str(number), f"{number}.png", "train", label, "nlp", boxes, "none", str(number), "9", "9", text]
            table.writerow(dict(zip(columns, row, strict=True)))
    cases = build(nih.listing(tmp_path), probe=False).collection.cases
    assert [set(case.classes) for case in cases] == [{"Pleural Thickening", "Mass"}, set(), {"Nodule"}]


def test_classes_are_what_enough_training_images_show(data: dict[str, Arrays]) -> None:
    assert cml.findings(data["train"], data["val"], config()) == LESIONS
    assert cml.findings(data["train"], data["val"], config("cml.least=40")) == ()


class TestRare:
    def test_the_articles_twelve_of_forty(self) -> None:
        assert (len(COMMON), len(RARE)) == (28, 12)
        assert rare(dict.fromkeys([*COMMON, *RARE], 5)) == set(RARE)

    def test_elsewhere_the_least_frequent_three_of_ten(self) -> None:
        assert rare({"a": 9, "b": 2, "c": 1, "Fibrosis": 50, **{f"x{k}": 60 for k in range(6)}}) == {"a", "b", "c"}

    def test_macro_auc_by_hand(self, data: dict[str, Arrays]) -> None:
        """Of three classes one is told rightly, one wrongly half the time, and one is on no image."""
        cases = data["val"].cases
        truth = np.array([["large lesion" in case.classes, "small lesion" in case.classes] for case in cases])
        scores = np.stack([truth[:, 0], np.zeros(len(cases)), np.zeros(len(cases))], axis=1).astype(float)
        found = report("m", "s", scores, cases, (*LESIONS, "nowhere"), data["train"].cases)
        assert found.macro["all"].value == pytest.approx(0.75)
        assert found.counted == {"all": 2, "base": 2, "rare": 0}
        assert [one.is_rare for one in found.classes] == [False, False, True]
        assert np.isnan(found.macro["rare"].value)
        assert "| rare | 0 | - |" in found.markdown()
        assert found.macro["all"].low <= 0.75 <= found.macro["all"].high
        lacking = macro([lambda w: np.array([0.5, np.nan]), lambda w: np.array([1.0, 1.0])])
        assert lacking(np.ones((2, 1))).tolist() == [0.75, 1.0]


def test_each_class_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    truth = np.stack([rng.random(400) < 0.3, np.arange(400) < 2], axis=1)
    logits = np.stack([3 * (truth[:, 0] + rng.normal(size=400)), rng.normal(size=400)], axis=1).astype(np.float32)
    slopes, intercepts = calibrations(logits, truth)
    prob = 1 / (1 + np.exp(-(slopes * logits + intercepts)))
    assert prob[:, 0].mean() == pytest.approx(truth[:, 0].mean(), abs=0.01)
    assert slopes[1] == pytest.approx(slopes[0])  # too few: the others' slope
    assert prob[:, 1].mean() == pytest.approx(2.5 / 401, rel=1e-3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command line."""
    out = tmp_path_factory.mktemp("runs") / "cml"
    few = phantom.collection(train=48, val=24, test=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chextrain.cli.read", lambda *options: few)
        values = [word for each in TINY for word in ("--set", each)]
        said = CliRunner().invoke(app, ["train", "cml", "--format", "phantom", "--out", str(out), *values])
    assert said.exit_code == 0, said.output + str(said.exception)
    return out


def test_a_run_loads_and_its_embeddings_are_kept(finished: Path, data: dict[str, Arrays]) -> None:
    run = Run.read(finished)
    assert (run.architecture, tuple(run.parameters["findings"])) == ("cml", LESIONS)
    logits = class_logits(load_network(finished), data["val"])
    assert logits.shape == (24, 2)
    assert np.isfinite(logits).all()
    before = sorted(finished.glob("train-*.npy"))
    assert len(before) == 1
    network = load_network(finished)
    again = embedded(cml._ours(network, config()), data["train"], finished, "train")  # type: ignore[arg-type]
    assert sorted(finished.glob("train-*.npy")) == before
    assert again.shape == (48, 640)


def test_the_table_and_a_bundle(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = phantom.collection(train=48, val=24, test=24)
    monkeypatch.setattr("chextrain.cli.read", lambda *options: few)
    said = CliRunner().invoke(
        app, ["evaluate", str(finished), "--format", "phantom", "--out", str(tmp_path / "report")]
    )
    assert said.exit_code == 0, said.output + str(said.exception)
    assert "by class" in said.output
    assert "| small lesion | " in said.output
    assert "CheX-Nomaly" not in said.output
    assert json.loads((tmp_path / "report" / "report.json").read_text())["classes"][0]["counted"]["all"] == 2
    failures = tmp_path / "failures.md"
    failures.write_text("It fails often.")
    words = ["export", str(finished), "--out", str(tmp_path / "bundle"), "--name", "c", "--version", "1"]
    said = CliRunner().invoke(app, [*words, "--failures", str(failures), "--format", "phantom", "--anyway"])
    assert said.exit_code == 0, said.output + str(said.exception)
    card = read_card(tmp_path / "bundle")
    assert (card.kind, card.classes, card.size) == ("classifier", LESIONS, 32)
    assert card.operating_points.keys() == {"second_reader", "triage"}
    assert set(card.operating_points["triage"].classes) <= set(LESIONS)
    model = load_bundle(tmp_path / "bundle")
    (item,) = model(torch.rand(1, 1, 32, 32)).items()
    assert item.classes is not None
    assert item.heat is None
    text = (tmp_path / "bundle" / "card.md").read_text()
    for words_ in ("used no box", "marks nothing", "Research use only", "It fails often."):
        assert words_ in text


def test_what_cannot_be_learnt_is_refused(
    data: dict[str, Arrays], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "crosses", CROSSES)

    def run(*overrides: str, findings: Sequence[str] = LESIONS) -> None:
        cml.train(data["train"], data["val"], config(*overrides), tmp_path, findings=findings)

    with pytest.raises(ConfigError, match="not two"):
        run(findings=LESIONS[:1])
    with pytest.raises(ConfigError, match="prompts need"):
        run("cml.scores=prompts")
    with pytest.raises(ConfigError, match="less than a batch"):
        run("cml.components=100")
    with pytest.raises(ConfigError, match=r"data\.size"):
        run("data.size=40")
    with pytest.raises(ConfigError, match="no efficientnet-lite0"):
        run("encoder.weights=nowhere.pth")
    for name in ("crosses", "crosses:nothing", "nowhere:images", "crosses:neither"):
        with pytest.raises(ConfigError, match=r"cml\.encoder"):
            run(f"cml.encoder={name}")
    with pytest.raises(ConfigError, match="not averaged"):
        committee([finished, finished], mirror=False)
    own = Run.read(finished)
    own.parameters["encoder"] = ""
    own.write(tmp_path / "own")
    with pytest.raises(ConfigError, match="no bundle"):
        committee([tmp_path / "own"], mirror=False)
