"""Classes in results: codes, what is called present, where it stands in the report, and that nothing is outlined."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from chexmodels.finding import Findings
from chexmodels.interpret import MODELS_DISAGREE
from chexnode.encode.caption import AMBER, BLUE, DOES_BOTH, NAMES_IT, WHAT_IT_IS, Line, caption
from chexnode.encode.class_codes import SNOMED, class_code
from chexnode.encode.objects import encode
from chexnode.encode.provenance import SCHEME
from chexnode.encode.source import sanitise
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.variants import ResultKind, SrForm, Variant
from support.radiographs import PROVENANCE, lesion, parsed, picture, radiograph
from support.reports import check_sr
from support.validators import dciodvfy

SHAPE = (96, 80)
SCORES = {"Pleural Thickening": 0.3, "Pneumonia": 0.7, "Mass": 0.05, "Nodule": 0.6}
LINES = {"Pleural Thickening": 0.4, "Pneumonia": 0.5, "Mass": 0.2}
NAMING = replace(PROVENANCE, class_thresholds=LINES)
REPORT = Variant(SrForm(seg_profile="planar"))
EVERY = (
    Variant.parse(ResultKind.SEG, "planar"),
    Variant.parse(ResultKind.SC, "rgb"),
    Variant.parse(ResultKind.GSPS, "outline"),
    REPORT,
)
ALONE = Findings(None, None, (), 0.8, True, "cml 0.1", classes=SCORES)


def written(findings: Findings) -> dict[str, Dataset]:
    source = sanitise(parsed(radiograph()))
    made = encode(source, picture((source.rows, source.columns)), findings, NAMING, EVERY)
    found = {one.variant.kind.value: dcmread(BytesIO(one.data)) for one in made}
    check_sr(dcmread(BytesIO(made[-1].data)), source, findings, NAMING, SrForm(seg_profile="planar"))
    return found


def remarks(ds: Dataset) -> list[Dataset]:
    (found,) = (i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "C0034375")
    return list(found.ContentSequence)


def called(ds: Dataset) -> list[tuple[str, str]]:
    return [
        (item.ConceptNameCodeSequence[0].CodeMeaning, item.ConceptCodeSequence[0].CodeMeaning)
        for item in remarks(ds)
        if item.ValueType == "CODE"
    ]


def test_a_name_is_one_code() -> None:
    assert class_code("Pleural_effusion") == class_code("Effusion") == codes.SCT.PleuralEffusion
    own = class_code("Pleural Thickening")
    assert (own.scheme_designator, own.meaning) == (SCHEME, "Pleural Thickening")
    assert own == class_code("pleural_thickening")._replace(meaning=own.meaning)
    assert own.value != class_code("Nodule").value
    assert len(own.value) <= 16
    assert len({code.value for code in SNOMED.values()}) == 12


def test_a_model_without_a_mask_writes_report_and_capture_and_no_segmentation() -> None:
    found = written(ALONE)
    assert found.keys() == {"sc", "sr"}
    assert called(found["sr"]) == [("Pneumonia", "Present"), ("Pleural Thickening", "Absent"), ("Mass", "Absent")]
    (scheme,) = found["sr"].CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == SCHEME
    said = [item.TextValue for item in remarks(found["sr"]) if item.ValueType == "TEXT"]
    assert any("Pneumonia 70% (present), Nodule 60%, Pleural Thickening 30%, Mass 5%" in line for line in said)
    assert any(line.startswith(NAMES_IT) for line in said)
    assert not any(WHAT_IT_IS in line for line in said)


def test_beside_regions_the_classes_are_in_no_group_of_their_own() -> None:
    """OHIF fails over a group without coordinates in a report that has some."""
    regions = lesion((radiograph().Rows, radiograph().Columns))
    with_classes, without = (written(f)["sr"] for f in (replace(regions, classes=SCORES), regions))
    groups = []
    for ds in (with_classes, without):
        (measured,) = (i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
        groups.append(len(measured.ContentSequence))
    assert groups[0] == groups[1] == 2
    assert len(called(with_classes)) == 3
    assert called(without) == []


def test_of_an_image_that_was_not_evaluated_no_class_is_told() -> None:
    failed = replace(ALONE, abnormal=None, notes=("scope-doubtful",))
    assert called(written(failed)["sr"]) == []
    words = caption(failed, NAMING)
    assert not any("Pneumonia" in line.text for line in (*words.above, *words.below))


@pytest.mark.parametrize("outlines", [False, True])
def test_the_first_words_never_contradict_the_names(outlines: bool) -> None:
    """A negative verdict above a name that is called present, or a positive one above none, says so itself."""
    none = dict.fromkeys(SCORES, 0.01)
    image = replace(lesion(SHAPE), classes=SCORES) if outlines else ALONE
    what = DOES_BOTH if outlines else NAMES_IT

    def first(**changes: object) -> Line:
        words = caption(replace(image, **changes), NAMING)  # type: ignore[arg-type]
        assert any(line.text.startswith(what) for line in words.above)
        return words.below[0]

    verdict = "NO ABNORMALITY MARKED" if outlines else "NO ABNORMALITY BY THE IMAGE SCORE"
    assert first(abnormal=False, score=0.1) == Line(f"{verdict}, but present by name: Pneumonia", AMBER)
    assert first(abnormal=False, score=0.1, classes=none) == Line(verdict, BLUE)
    if outlines:
        assert first().text == first(classes=none).text == "1 ABNORMAL REGION MARKED"
    else:
        assert first().text == "ABNORMAL: Pneumonia"
        assert first(classes=none).text == "ABNORMAL, but no finding by name reaches its threshold"


def test_a_second_model_that_differs_is_noted_in_the_report() -> None:
    assert Note(MODELS_DISAGREE) is Note.MODELS_DISAGREE
    doubted = replace(lesion((radiograph().Rows, radiograph().Columns)), notes=(MODELS_DISAGREE,))
    said = [item.TextValue for item in remarks(written(doubted)["sr"]) if item.ValueType == "TEXT"]
    assert any("a second AI differs" in line for line in said)


@pytest.mark.parametrize("abnormal", [True, False])
def test_dciodvfy_finds_nothing_in_it(abnormal: bool) -> None:
    source = sanitise(parsed(radiograph()))
    findings = replace(ALONE, abnormal=abnormal, score=0.8 if abnormal else 0.1)
    (one,) = encode(source, picture((source.rows, source.columns)), findings, NAMING, (REPORT,))
    assert [line for line in dciodvfy(one.data) if SCHEME not in line] == []  # it knows no private scheme
