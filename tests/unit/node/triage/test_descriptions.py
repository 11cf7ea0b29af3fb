"""Descriptions as the world's PACS hold them: view and part of each, by the verdict that it leads to.

``descriptions.csv``: language, description, view (F frontal, L lateral, O oblique, D decubitus, U not said), part
(C chest, O other, U not said).
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from chexnode.settings.gate import GateSettings
from chexnode.triage.gate import triage_header
from chexnode.triage.header import Header
from chexnode.triage.lexicon import Lexicon, LexiconError, lexicon
from chexnode.triage.reading import BodyPart, View, body_part, is_by_algorithm, view
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Verdict
from chexnode.vocabulary.series import OUR_NAMES, SeriesName, SeriesNames
from chexnode.vocabulary.states import InstanceState
from support.radiographs import parsed, radiograph

VIEWS = {"F": View.FRONTAL, "L": View.LATERAL, "O": View.OBLIQUE, "D": View.DECUBITUS, "U": View.UNKNOWN}
PARTS = {"C": BodyPart.CHEST, "O": BodyPart.OTHER, "U": BodyPart.UNKNOWN}
SILENT: dict[str, Any] = {
    "ViewPosition": None,
    "PatientOrientation": None,
    "BodyPartExamined": None,
    "StudyDescription": None,
    "SpecificCharacterSet": "ISO_IR 192",
}


def rows() -> list[list[str]]:
    with Path(__file__).with_name("descriptions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def judged(settings: GateSettings | None = None, **attributes: Any) -> Verdict:
    ds = parsed(radiograph("CR", **{**SILENT, **attributes}))
    return triage_header(ds, settings or GateSettings(), has_pixel_data=True, max_pixels=10**8)


def test_the_table_is_large_and_of_many_languages() -> None:
    assert len(rows()) >= 300
    assert len({language for language, *_rest in rows()}) >= 12


def test_at_most_two_in_a_hundred_descriptions_are_read_wrongly() -> None:
    wrong = []
    for language, text, said, part in rows():
        header = Header(parsed(radiograph("CR", **{**SILENT, "SeriesDescription": text})))
        read = view(header, lexicon()).said, body_part(header, lexicon()).said
        if read != (VIEWS[said], PARTS[part]):
            wrong.append(f"{language} {text}: {read[0].value}, {read[1].value}")
    assert len(wrong) <= 0.02 * len(rows()), "\n".join(wrong)


def test_no_lateral_is_analysed_without_a_note() -> None:
    noted = {Note.VIEW_UNKNOWN, Note.VIEW_CONTRADICTORY}
    for _language, text, said, _part in rows():
        if said in "LO":
            verdict = judged(SeriesDescription=text)
            assert verdict.state is not InstanceState.ANALYSABLE or noted & set(verdict.notes), text


@pytest.mark.parametrize(
    "attributes",
    [
        {"SeriesDescription": "CHEST LATERAL"},
        {"ProtocolName": "Chest Lat"},
        {"AcquisitionDeviceProcessingDescription": "CHEST,LAT"},
        {"StudyDescription": "XR CHEST PA AND LATERAL", "SeriesDescription": "Lateral L"},
        {"SeriesDescription": "TORAX PERFIL"},
        {"ViewPosition": "PERFIL"},
        {"PatientOrientation": ["AL", "F"]},
        {"PatientOrientation": ["PR", "FL"]},
        {"SeriesDescription": "胸部側面"},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_lateral_in_words_is_refused(attributes: dict[str, Any]) -> None:
    verdict = judged(BodyPartExamined="CHEST", **attributes)
    assert verdict.reason is Reason.LATERAL_VIEW
    assert verdict.detail


def test_the_character_set_of_the_header_is_heeded() -> None:
    verdict = judged(SpecificCharacterSet="ISO_IR 144", SeriesDescription="ОГК боковая")
    assert verdict.reason is Reason.LATERAL_VIEW
    verdict = judged(SpecificCharacterSet=["", "ISO 2022 IR 87"], SeriesDescription="胸部側面")
    assert verdict.reason is Reason.LATERAL_VIEW


def test_a_study_of_two_views_decides_nothing() -> None:
    for text in ("XR CHEST PA AND LATERAL", "CHEST LATERAL", "Thorax seitlich"):
        verdict = judged(StudyDescription=text, BodyPartExamined="CHEST")
        assert verdict.state is InstanceState.ANALYSABLE
        assert Note.VIEW_UNKNOWN in verdict.notes


def test_a_description_against_the_view_position_is_noted() -> None:
    verdict = judged(ViewPosition="PA", SeriesDescription="Chest lateral")
    assert verdict.state is InstanceState.ANALYSABLE
    assert Note.VIEW_CONTRADICTORY in verdict.notes
    assert 'Series Description has "LATERAL*"' in verdict.detail
    assert "View Position" in verdict.detail


@pytest.mark.parametrize(
    "text", ["Beckenübersicht", "Knie links ap", "EPAULE DROITE FACE", "Таз", "腹部", "XR ABD", "AXR"]
)
def test_another_part_in_words_is_refused(text: str) -> None:
    assert judged(ViewPosition="AP", StudyDescription=text).reason is Reason.BODY_PART


@pytest.mark.parametrize(
    "text",
    [
        "POITRINE",
        "KLATKA PIERSIOWA",
        "AKCIĞER",
        "Tórax",
        "Hrudník",
        "Mellkas",
        "Грудная клетка",
        "胸部",
        "흉부",
        "Θώρακας",
    ],
)
def test_the_chest_in_other_words_is_analysed(text: str) -> None:
    ds = radiograph("CR", **{**SILENT, "ViewPosition": "PA"})
    ds.add_new("BodyPartExamined", "LO", text)  # no code string, but that is how it comes
    verdict = triage_header(parsed(ds), GateSettings(), has_pixel_data=True, max_pixels=10**8)
    assert (verdict.state, verdict.notes) == (InstanceState.ANALYSABLE, ())


def test_a_body_part_that_all_descriptions_deny_is_not_believed() -> None:
    elsewhere = {"StudyDescription": "XR ABDOMEN AP", "SeriesDescription": "Abdomen AP", "ProtocolName": "Abdomen"}
    assert judged(BodyPartExamined="CHEST", **elsewhere).reason is Reason.BODY_PART
    one = judged(BodyPartExamined="CHEST", ViewPosition="AP", SeriesDescription="Abdomen AP")
    assert Note.BODY_PART_CONTRADICTORY in one.notes
    assert judged(BodyPartExamined="CHEST", ViewPosition="AP", StudyDescription="CHEST AND ABDOMEN").notes == ()


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientSexNeutered": "ALTERED"},
        {"ViewPosition": "DV"},
        {"ViewPosition": "VD"},
        {"StudyDescription": "Thorax Hund"},
        {"StudyDescription": "THORAX CHIEN"},
        {"StudyDescription": "TORAX PERRO"},
        {"StudyDescription": "CHEST CAT"},
        {"StudyDescription": "胸部 犬"},
        {"InstitutionName": "Animal Hospital"},
        {"InstitutionName": "Tierklinik am Park"},
        {"InstitutionName": "動物病院"},
    ],
)
def test_animals_are_refused(attributes: dict[str, Any]) -> None:
    assert judged(**{"BodyPartExamined": "CHEST", **attributes}).reason is Reason.NON_HUMAN


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SeriesDescription": "DE Chest PA Bone", "ImageType": ["DERIVED", "PRIMARY", "", "BONE"]}, Reason.PROCESSED),
        ({"SeriesDescription": "Chest PA Bone Suppressed"}, Reason.PROCESSED),
        ({"ImageType": ["DERIVED", "SECONDARY", "SUBTRACTION"]}, Reason.PROCESSED),
        ({"SeriesDescription": "Temporal Subtraction"}, Reason.PROCESSED),
        ({"QualityControlImage": "YES"}, Reason.PROCESSED),
        ({"SeriesDescription": "Thorax Subtraktion"}, Reason.PROCESSED),
        ({"ManufacturerModelName": "AI-Rad Companion Chest X-ray"}, Reason.AI_RESULT),
        ({"Manufacturer": "Lunit Inc."}, Reason.AI_RESULT),
        ({"ManufacturerModelName": "qXR"}, Reason.AI_RESULT),
        ({"SeriesDescription": "AI results"}, Reason.AI_RESULT),
    ],
)
def test_processed_images_are_refused(attributes: dict[str, Any], reason: Reason) -> None:
    verdict = judged(**{"BodyPartExamined": "CHEST", "ViewPosition": "PA", **attributes})
    assert verdict.reason is reason
    assert verdict.detail


def test_children_are_noted() -> None:
    assert Note.CHILD in judged(PatientAge="003D").notes
    assert Note.CHILD not in judged(PatientAge="003D", settings=GateSettings(child_years=0)).notes
    assert Note.CHILD not in judged(PatientAge="050Y").notes


def test_a_site_adds_its_own_words(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[view.lateral]\ncodes = ["LOCAL7"]\nen = ["SIDEWISE*"]\n[part.chest]\nde = ["OBERKOERPER"]\n', "utf-8"
    )
    settings = GateSettings(lexicon=own)
    verdict = judged(settings, SeriesDescription="Oberkörper sidewise2", BodyPartExamined="OBERKOERPER")
    assert verdict.reason is Reason.LATERAL_VIEW
    assert verdict.detail == 'Series Description has "SIDEWISE*" (en)'
    assert judged(SeriesDescription="sidewise", BodyPartExamined="CHEST").state is InstanceState.ANALYSABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[view.lateral", "own.toml"),
        ('[view.latral]\nen = ["X"]', "no meaning is called view.latral"),
        ('[view.lateral]\nen = "X"', "is no list of terms"),
        ("view = 1", "is no table of meanings"),
    ],
)
def test_a_lexicon_that_cannot_be_used_says_why(text: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text, "utf-8")
    with pytest.raises(LexiconError, match=message):
        lexicon(own)
    with pytest.raises(LexiconError, match="absent"):
        lexicon(tmp_path / "absent.toml")


def test_terms_match_words_phrases_and_scripts_without_spaces() -> None:
    words = Lexicon([{"g": {"m": {"en": ["ABC", "DE* FG", "*XY", "!ABC Z"], "ja": ["胸部"]}}}])
    for text in ("abc", "x abc-d", "déu fg", "WXY", "x胸部y", "ＡＢＣ"):
        assert words.find(text), text
    for text in ("abcd", "fg", "xyw", "胸", "abc z", ""):
        assert not words.find(text), text


@pytest.mark.parametrize("name", dataclasses.fields(SeriesNames), ids=lambda field: field.name)
def test_series_of_our_results_are_known_by_their_names(name: dataclasses.Field[SeriesName]) -> None:
    """Archives list Series Description and perhaps Manufacturer: either is enough to pass a result over."""
    described = getattr(OUR_NAMES, name.name).description
    assert is_by_algorithm("", described)
    assert is_by_algorithm("ChexNode", "renamed by the site")
    assert not is_by_algorithm("Siemens", "Chest PA")
