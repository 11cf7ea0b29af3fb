"""Whole evaluations: which images count, what the baselines score, and what the command writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chexmodels.bundle import OperatingPoint, find
from chexmodels.pixels import Geometry
from chexmodels.registry import load as load_model
from chextrain.cli import app
from chextrain.data import phantom
from chextrain.data.arrays import Arrays, load
from chextrain.data.cases import Case, Collection
from chextrain.evaluate.baselines import (
    LUNG_FIELDS,
    MODEL,
    THUMBNAIL,
    best_cut,
    lung_fields,
    mean_mask,
    shortcut_numbers,
    shortcut_scores,
)
from chextrain.evaluate.chexnomaly_stages import score_specialists
from chextrain.evaluate.evaluation import MEAN_MASK, evaluate
from chextrain.evaluate.froc import FrocPoint
from chextrain.evaluate.models import ScoredModel, read_model
from chextrain.evaluate.report import assemble, write
from chextrain.evaluate.scored_split import NothingToScore, ScoredSplit, is_scored

SIZE = 64
POINT = OperatingPoint(threshold=0.5, min_area=0, image_threshold=0.0, sensitivity=1.0, clean_normals=1.0)


def case(name: str, label: str, **changes: object) -> Case:
    """One image of 100 x 100; abnormal ones have a box of 20 x 20 at its centre."""
    boxes = ((40.0, 40.0, 60.0, 60.0),) if label == "abnormal" else ()
    usual = Case(name, name, "test", label, boxes, 100, 100, True, frozenset(["mass"] if boxes else []), True)  # type: ignore[arg-type]
    shown = {"box_findings": (frozenset(["mass"]),) * len(boxes), "votes": (1,) * len(boxes)}
    return replace(usual, **{**shown, **changes})  # type: ignore[arg-type]


def arrays(*cases: Case) -> Arrays:
    images = np.zeros((len(cases), SIZE, SIZE), dtype=np.uint8)
    return load(Collection("made", cases, lambda *_: images[0] / np.float32(1), "", ""), "test", SIZE, cache=None)


def collection(*cases: Case) -> Collection:
    train = tuple(replace(one, image_id=f"train-{one.image_id}", split="train") for one in cases)
    return Collection("made", (*train, *cases), lambda *_: np.zeros((SIZE, SIZE), np.float32), "", "")


def test_only_what_an_expert_judged_is_scored() -> None:
    cases = {
        "boxed": case("boxed", "abnormal"),
        "unboxed": case("unboxed", "abnormal", boxes=()),
        "report abnormal": case("report abnormal", "abnormal", boxes=(), expert=False),
        "normal": case("normal", "normal"),
        "no finding": case("no finding", "normal", expert=False),
        "conflict": case("conflict", "conflict", boxes=((1.0, 1.0, 9.0, 9.0),)),
    }
    assert [name for name, one in cases.items() if is_scored(one)] == ["boxed", "unboxed", "normal"]
    split = ScoredSplit("test", arrays(*cases.values()), rounds=2)
    assert [one.image_id for one in split.arrays.cases] == ["boxed", "unboxed", "normal"]
    assert split.boxed.tolist() == [True, False, False]
    assert split.abnormal.tolist() == [True, True, False]
    assert split.clean.tolist() == [False, False, True]


def test_false_regions_count_only_where_every_finding_is_known() -> None:
    one_boxed = case("a", "abnormal", exhaustive=False)
    split = ScoredSplit("test", arrays(one_boxed, case("b", "normal")), rounds=2)
    prob = np.zeros((2, SIZE, SIZE), dtype=np.float32)
    prob[0, 28:36, 28:36], prob[0, 4:8, 4:8] = 0.5, 0.9  # right, and one that may be right
    assert split.numbers(split.map_statistics(prob)[0])["froc_1"].value == 1
    assert split.map_statistics(prob)[1].points()[0].max() == 0
    prob[1, 4:8, 4:8] = 0.9
    assert split.map_statistics(prob)[1].points()[0].max() == 1


def test_a_model_that_knows_the_truth_and_the_baselines_that_know_nothing() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for index in range(40):
        x, y = rng.uniform(5, 75, 2)
        box = ((x, y, x + 20, y + 20),) if index % 2 else ()
        cases.append(case(str(index), "abnormal" if box else "normal", boxes=box, strata={"view": "PA"}))
    data = collection(*cases)
    split = ScoredSplit("test", arrays(*cases), rounds=50)
    truth = split.truth.astype(np.float32)
    found = evaluate("oracle", split, truth * 0.9, truth.max(axis=(1, 2)).astype(float), {"only": POINT}, data)
    perfect = ("pixel_ap", "small_ap", "pointing", "froc_1", "box_iou", "dice", "image_auroc", "image_ap")
    assert {key: found.rows["only"][key].value for key in perfect} == dict.fromkeys(perfect, 1.0)
    assert found.rows["only"]["brier"].value == found.rows["only"]["ece"].value == 0
    empty, mean, lungs = (found.rows[name] for name in ("all empty", MEAN_MASK, "lung-field boxes"))
    assert empty["pixel_ap"].value == pytest.approx(split.truth[split.boxed].mean())
    assert (empty["sensitivity"].value, empty["clean_normals"].value) == (0, 1)
    assert empty["froc_1"].value == empty["box_iou"].value == empty["pointing"].value == 0
    for row in (mean, lungs):
        assert (row["sensitivity"].value, row["clean_normals"].value, row["image_auroc"].value) == (1, 0, 0.5)
        assert empty["pixel_ap"].value < row["pixel_ap"].value < 0.6
    gain = found.gain["pixel_ap"]
    assert gain.value == pytest.approx(1 - mean["pixel_ap"].value)
    assert 0 < gain.low < gain.value < gain.high
    assert {(one.kind, one.group) for one in found.breakdowns} >= {
        ("finding", "mass"),
        ("size", "small"),
        ("view", "PA"),
    }
    assert found.paper["only"].strict.tp == found.boxed == 20
    assert found.paper["all empty"].iou_image_empty1 == 0.5


def test_findings_are_hit_by_size_kind_and_agreement() -> None:
    panel = ("R1", "R2", "R3")
    big = case("big", "abnormal", boxes=((20.0, 20.0, 80.0, 80.0),), votes=(3,), panel=panel)
    small = case("small", "abnormal", boxes=((70.0, 70.0, 76.0, 76.0),), votes=(1,), panel=panel)
    split = ScoredSplit("test", arrays(big, small, case("n", "normal")), rounds=2)
    prob = np.zeros((3, SIZE, SIZE), dtype=np.float32)
    prob[0, 20:44, 20:44] = 0.8
    numbers = split.froc_numbers(split.map_statistics(prob)[1])
    assert numbers[FrocPoint(1, "3 of 3 readers")].value == numbers[FrocPoint(1, "large boxes")].value == 1
    assert numbers[FrocPoint(1, "1 of 3 readers")].value == numbers[FrocPoint(1, "small boxes")].value == 0
    assert numbers[FrocPoint(1, "mass")].value == numbers[FrocPoint(0.125)].value == 0.5
    assert [str(at) for at in (FrocPoint(0.125), FrocPoint(1, "mass"))] == ["at 0.125", "at 1, mass"]


def test_the_mean_mask_is_cut_where_it_fits_the_training_boxes() -> None:
    data = collection(*(case(str(i), "abnormal") for i in range(3)), case("odd", "abnormal", boxes=((0, 0, 90, 90),)))
    mean = mean_mask(data, SIZE)
    assert mean.max() == 1
    assert mean[2, 2] == 0.25
    kept = mean >= best_cut(mean, data.split("train"))
    assert kept.sum() == 12 * 12


def test_lung_fields_lie_in_the_image_and_not_in_its_border() -> None:
    narrow = case("narrow", "normal", columns=50)
    mask = lung_fields([narrow], SIZE)[0]
    content = Geometry(100, 50, SIZE).content
    assert mask[:, : content.x0].sum() == mask[:, content.x1 :].sum() == 0
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in LUNG_FIELDS)
    assert mask.mean() == pytest.approx(area / 2, rel=0.1)


def test_shortcuts_are_found_out() -> None:
    """Abnormal images are brighter and taken AP: no finding is needed to tell them."""
    rng = np.random.default_rng(1)
    cases, levels = [], {}
    for index in range(120):
        sick = index % 3 == 0
        name = f"{index}"
        cases.append(
            case(
                name,
                "abnormal" if sick else "normal",
                split="test" if index < 60 else "train",
                strata={"view": "AP" if sick else "PA"},
            )
        )
        levels[name] = 0.6 + 0.1 * sick + 0.02 * rng.normal()
    data = Collection("made", tuple(cases), lambda one, size: np.full((size, size), levels[one.image_id]), "", "")
    split = ScoredSplit("test", load(data, "test", SIZE, None), rounds=20)
    scores = shortcut_scores(data, load(data, "test", THUMBNAIL, None), None)
    numbers = shortcut_numbers(split, {MODEL: np.zeros(60), **scores}, [("1", "0"), ("2", "3"), ("x", "y")])
    assert numbers[MODEL]["all"].value == numbers[MODEL]["matched pairs"].value == 0.5
    for name in scores:
        assert numbers[name]["all"].value > 0.95
        assert numbers[name]["matched pairs"].value == 1
    assert len(scores) == 3
    assert np.isnan(numbers["AP against PA"]["PA only"].value)  # no abnormal image is PA


@pytest.fixture(scope="module")
def few() -> Collection:
    return phantom.collection(train=60, val=40, test=40)


def test_the_report_has_every_table_and_valid_json(few: Collection, tmp_path: Path) -> None:
    elsewhere = phantom.collection(train=0, val=0, test=12)
    report = assemble([read_model("phantom64")], few, "test", external=elsewhere)
    text = report.markdown()
    for number in ("I:", "II:", "III:", "IV:", "V:", "VI:"):
        assert f"## Table {number}" in text
    assert "[0.7487]" in text
    assert "no model given" in text
    assert "0.314" not in text  # table VI is no comparison
    for name in ("all empty", MEAN_MASK, "lung-field boxes", "thumbnail", "second_reader"):
        assert name in text
    paths = write(report, tmp_path / "out")
    tree = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = tree["models"][0]["evaluation"]["rows"]
    assert rows["second_reader"]["pixel_ap"]["value"] > 3 * rows[MEAN_MASK]["pixel_ap"]["value"]
    assert rows["second_reader"]["sensitivity"]["value"] > 0.95
    assert tree["models"][0]["external"]["boxed"] > 0
    assert report.known.startswith("12 of the 12 external images look like"), "they are the first that it has to learn"
    pictures = [path for path in paths if path.suffix == ".png"]
    assert len(pictures) == 2 * 5
    for path in pictures:
        assert np.asarray(Image.open(path).convert("L")).std() > 1


def test_evaluate_takes_several_bundles_and_writes_only_where_told(
    few: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chextrain.cli.read", lambda *_: few)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["evaluate", "phantom64", str(find("phantom64")), "--format", "phantom"])
    assert result.exit_code == 0, result.output
    assert result.output.count("## phantom64 1 on phantom, test") == 2
    assert not list(tmp_path.iterdir())


def test_a_set_of_positives_only_has_no_numbers_that_need_normals(few: Collection) -> None:
    """As RSNA's, the external set of the paper."""
    positives = replace(few, cases=tuple(one for one in few.cases if one.label == "abnormal"))
    (model,) = assemble([read_model("phantom64")], few, "test", external=positives).models
    assert model.external is not None
    row = model.external.rows["second_reader"]
    assert row["pixel_ap"].value > 0.9
    assert row["sensitivity"].value > 0.9
    for key in ("image_auroc", "clean_normals"):
        assert np.isnan(row[key].value)
    assert model.external.paper["second_reader"].f1_pos > 0.9


def test_a_split_without_a_judged_image_is_refused(few: Collection) -> None:
    unread = replace(few, cases=tuple(replace(one, expert=False, boxes=()) for one in few.cases))
    with pytest.raises(NothingToScore, match="phantom, test"):
        assemble([read_model("phantom64")], unread, "test")


def test_specialised_models_are_scored_on_their_finding_and_as_many_others(few: Collection) -> None:
    model = load_model(find("phantom64"))
    names = sorted({name for one in few.cases for names in one.box_findings for name in names})
    model = ScoredModel("s", "unet", "", names[0], model.network, SIZE)
    data = load(few, "test", SIZE, None)
    (row,) = score_specialists(model, data)
    assert row.finding == names[0]
    assert row.positives == sum(bool(one.only(names[0]).boxes) for one in data.cases)
    assert row.f1 > 0.5
    assert 0 < row.mae < 0.1
    assert list(score_specialists(replace(model, finding="unheard of"), data)) == []
