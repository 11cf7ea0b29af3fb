"""Stacks and classifiers: how they are read, joined and written, and that nothing of a member is lost in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from chexmodels.bundle import (
    AnomalyCalibration,
    BundleError,
    Calibration,
    Manifest,
    OperatingPoint,
    Role,
    find,
    read_card,
    write_bundle,
)
from chexmodels.compose import compose
from chexmodels.interpret import MODELS_DISAGREE, OUTPUT_INVALID, interpret
from chexmodels.model import Raw, RawItem
from chexmodels.nets.embedding import EmbeddingClassifier
from chexmodels.pixels import Geometry
from chexmodels.registry import Stack, load, serialise
from chexmodels.trial import faults

NAMES = ("Edema", "Mass")
POINT = OperatingPoint(threshold=0.5, min_area=1, image_threshold=0.5, sensitivity=0.9, clean_normals=0.9)


def manifest(**changes: object) -> Manifest:
    values = {
        "format": 1,
        "name": "m",
        "version": "1",
        "architecture": "unet",
        "parameters": {},
        "size": 32,
        "geometry": "letterbox",
        "heat_kind": "probability",
        "classes": (),
        "calibration": Calibration(temperature=1, slope=1, intercept=0),
        "operating_points": {"triage": POINT},
        "weights_sha256": "0" * 64,
        "licence": "",
        "intended_use": "",
        "training_data": "",
    }
    return Manifest.model_validate({**values, **changes})


LOCALISER = manifest(name="where")
SCORER = manifest(
    name="whether",
    heat_kind="anomaly",
    size=64,
    calibration=AnomalyCalibration(heat=((0.0, 0.0), (1.0, 1.0)), normals=(0.1, 0.2, 0.3)),
)
CLASSIFIER = manifest(name="which", heat_kind="none", classes=NAMES)
STACK = manifest(
    name="all",
    architecture="stack",
    members={"localiser": LOCALISER, "scorer": SCORER, "classifier": CLASSIFIER},
)
GEOMETRY = Geometry(48, 64, 32)


def localised(*, marked: bool) -> RawItem:
    heat = np.full((32, 32), -9.0, np.float32)
    if marked:
        heat[14:18, 10:16] = 9.0
    return RawItem(heat)


def scored(high: bool) -> RawItem:
    heat = np.full((64, 64), 0.9 if high else 0.01, np.float32)
    return RawItem(heat)


def classified(*logits: float) -> RawItem:
    return RawItem(None, classes=np.array(logits, np.float32))


def joined(members: Mapping[Role, RawItem]) -> RawItem:
    return RawItem(None, members=members)


class TestReading:
    @pytest.mark.parametrize("marked", [False, True])
    @pytest.mark.parametrize("high", [False, True])
    def test_the_localiser_decides_and_the_scorer_may_disagree(self, marked: bool, high: bool) -> None:
        where = localised(marked=marked)
        raw = joined({"localiser": where, "scorer": scored(high), "classifier": classified(1.0, -2.0)})
        found, alone = interpret(raw, STACK, "triage", GEOMETRY), interpret(where, LOCALISER, "triage", GEOMETRY)
        assert (found.abnormal, found.score, found.regions) == (marked, alone.score, alone.regions)
        np.testing.assert_array_equal(found.mask, alone.mask)  # type: ignore[arg-type]
        assert found.classes == pytest.approx({"Edema": 1 / (1 + math.exp(-1)), "Mass": 1 / (1 + math.exp(2))})
        assert found.model == "all 1"
        assert (MODELS_DISAGREE in found.notes) == (marked != high)

    def test_each_member_is_read_by_its_own_calibration_and_grid(self) -> None:
        """The anomaly's p-value, of a map of another size than the localiser's."""
        raw = joined({"scorer": scored(high=True), "classifier": classified(0.0, 0.0)})
        found = interpret(raw, STACK, "triage", GEOMETRY)
        assert found.score == pytest.approx(3 / 4)
        assert found.heat is not None
        assert found.heat.shape == (48, 64)

    def test_no_answer_is_none_of_the_second_model_either(self) -> None:
        broken = RawItem(np.full((32, 32), np.nan, np.float32))
        found = interpret(joined({"localiser": broken, "scorer": scored(high=True)}), STACK, "triage", GEOMETRY)
        assert found.abnormal is None
        assert OUTPUT_INVALID in found.notes
        assert MODELS_DISAGREE not in found.notes
        other = joined({"localiser": localised(marked=True), "classifier": classified(np.nan, 0)})
        assert interpret(other, STACK, "triage", GEOMETRY).notes == (OUTPUT_INVALID,)

    def test_a_classifier_alone_marks_nothing(self) -> None:
        found = interpret(classified(2.0, -2.0), CLASSIFIER, "triage", GEOMETRY)
        assert (found.heat, found.mask, found.regions) == (None, None, ())
        assert found.abnormal is True
        assert found.score == pytest.approx(max(found.classes.values()))

    def test_a_batch_is_taken_apart(self) -> None:
        heat, classes = torch.zeros(2, 1, 4, 4), torch.tensor([[1.0], [2.0]])
        items = Raw(None, members={"localiser": Raw(heat), "classifier": Raw(None, classes=classes)}).items()
        assert [float(item.members["classifier"].classes[0]) for item in items] == [1.0, 2.0]  # type: ignore[index]
        assert items[0].members["localiser"].heat.shape == (4, 4)  # type: ignore[index, union-attr]


def test_kinds() -> None:
    assert [one.kind for one in (LOCALISER, SCORER, CLASSIFIER, STACK)] == [
        "localiser",
        "localiser",
        "classifier",
        "stack",
    ]
    with pytest.raises(ValidationError, match="classes"):
        manifest(heat_kind="none")
    with pytest.raises(ValidationError, match="no stack"):
        manifest(members={"localiser": STACK})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    parameters = {"encoder": "efficientnet-lite0", "findings": NAMES, "width": 8, "dimension": 4}
    points = {
        name: POINT.model_copy(update={"classes": {"Edema": 0.4}}) for name in ("second_reader", "triage", "other")
    }
    folder = tmp_path_factory.mktemp("classifier")
    network = EmbeddingClassifier(**parameters)  # type: ignore[arg-type]
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        network(torch.rand(8, 1, 64, 64) * torch.rand(8, 1, 1, 1))  # maps of random weights fade without statistics
    network.eval()
    own = manifest(
        name="which",
        architecture="cml",
        parameters=parameters,
        size=64,
        heat_kind="none",
        classes=NAMES,
        operating_points=points,
    )
    write_bundle(folder, own, serialise(network), "{digest}")
    return folder


def test_a_classifiers_bundle_runs(classifier: Path) -> None:
    model = load(classifier)
    (item,) = model(torch.rand(1, 1, 64, 64)).items()
    assert item.heat is None
    assert item.classes is not None
    assert item.classes.shape == (2,)
    assert model.card.kind == "classifier"
    assert faults(classifier, "triage") == []


def test_a_stack_answers_as_its_members_do(classifier: Path, tmp_path: Path) -> None:
    folders: dict[Role, Path] = {"localiser": find("phantom64"), "scorer": find("ddad"), "classifier": classifier}
    card = compose(folders, tmp_path / "stack", "all", "1")
    stack = load(tmp_path / "stack")
    assert isinstance(stack, Stack)
    assert (card.kind, card.size, card.classes) == ("stack", read_card(find("phantom64")).size, NAMES)
    assert card.operating_points.keys() == {"second_reader", "triage"}
    assert card.operating_points["triage"].classes == {"Edema": 0.4}
    image = torch.rand(2, 1, card.size, card.size)
    answers = stack(image)
    assert answers.members is not None
    for role, folder in folders.items():
        alone = load(folder)
        if alone.card.size == card.size:
            for part, own in zip(answers.members[role], alone(image), strict=True):
                assert part is own or torch.equal(part, own)
    items = answers.items()
    found = interpret(items[0], card, "triage", Geometry(64, 64, card.size))
    assert found.classes.keys() == set(NAMES)
    assert faults(tmp_path / "stack", "triage") == []
    assert read_card(tmp_path / "stack").digest == card.digest


def test_what_is_no_stack_is_refused(classifier: Path, tmp_path: Path) -> None:
    phantom, ddad = find("phantom64"), find("ddad")
    with pytest.raises(BundleError, match="at least two"):
        compose({"localiser": phantom}, tmp_path / "a", "n", "1")
    with pytest.raises(BundleError, match="no localiser"):
        compose({"localiser": classifier, "scorer": ddad}, tmp_path / "b", "n", "1")
    with pytest.raises(BundleError, match="no classifier"):
        compose({"localiser": phantom, "classifier": ddad}, tmp_path / "c", "n", "1")
    compose({"localiser": phantom, "scorer": ddad}, tmp_path / "d", "n", "1")
    with pytest.raises(BundleError, match="no scorer"):
        compose({"localiser": phantom, "scorer": tmp_path / "d"}, tmp_path / "e", "n", "1")
    written = json.loads((tmp_path / "d" / "model.json").read_text())
    written["members"]["scorer"]["architecture"] = "nothing"
    (tmp_path / "d" / "model.json").write_text(json.dumps(written))
    with pytest.raises(BundleError, match="nothing"):
        load(tmp_path / "d")
