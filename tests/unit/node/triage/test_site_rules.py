"""Rules that a site writes itself: which one decides, what it decides, and that a wrong one is refused at start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from chexnode.cli.commands import app
from chexnode.deliver.routing import routes
from chexnode.settings.gate import GateSettings
from chexnode.settings.rule import RuleSettings
from chexnode.settings.tree import Settings
from chexnode.triage.gate import triage_header
from chexnode.triage.rules import deciding_rule
from chexnode.vocabulary.records import Priority, Verdict
from support.radiographs import parsed, part10, radiograph

RULES = [
    RuleSettings(name="phantoms", station="QA*", action="refuse", reason="quality control room"),
    RuleSettings(name="trauma", description="*TRAUMA*", modality="dx", urgent=True, destinations=["PACS"]),
    RuleSettings(name="old reader", manufacturer="R?NTGEN*", action="analyse", destinations=["ARCHIVE"]),
    RuleSettings(name="night", calling_ae_title="NIGHT*", urgent=True),
    RuleSettings(name="branch", institution="Süd*", destinations=[]),
]


def verdict(caller: str = "", **attributes: Any) -> Verdict:
    return triage_header(
        parsed(radiograph("DX", **attributes)),
        GateSettings(),
        has_pixel_data=True,
        max_pixels=1 << 26,
        rules=RULES,
        calling_ae_title=caller,
    )


@pytest.mark.parametrize(
    ("attributes", "caller", "name"),
    [
        ({"StationName": "qa-3", "Manufacturer": "X"}, "", "phantoms"),
        ({"StudyDescription": "chest, Trauma room", "Manufacturer": "X"}, "", "trauma"),
        ({"SeriesDescription": "TRAUMA"}, "", "trauma"),
        ({"ProtocolName": "TRAUMA", "Modality": "CR", "Manufacturer": "X"}, "", None),
        ({}, "", "old reader"),
        ({"Manufacturer": "X"}, "night2", "night"),
        ({"Manufacturer": "X", "InstitutionName": "SÜDKLINIK"}, "", "branch"),
        ({"Manufacturer": None}, "DAY", None),
    ],
)
def test_the_first_rule_whose_conditions_hold_decides(attributes: Any, caller: str, name: str | None) -> None:
    rule = deciding_rule(RULES, parsed(radiograph("DX", **attributes)), caller)
    assert (None if rule is None else rule.name) == name


def test_a_rule_refuses_with_its_reason() -> None:
    refused = verdict(StationName="QA1")
    assert (refused.state, refused.reason) == ("NOT_ANALYSED", "site-rule")
    assert refused.detail == "rule 'phantoms': quality control room"


def test_a_rule_has_an_image_analysed_that_the_header_speaks_against_and_it_is_noted() -> None:
    analysed = verdict(ViewPosition="LL", ViewCodeSequence=None)
    assert analysed.state == "ANALYSABLE"
    assert "site-rule" in analysed.notes
    assert analysed.detail.startswith("rule 'old reader'; despite lateral-view")
    assert "site-rule" not in verdict().notes
    assert verdict(Manufacturer="X", ViewPosition="LL", ViewCodeSequence=None).reason == "lateral-view"


def test_no_rule_lets_through_what_cannot_be_analysed() -> None:
    assert verdict(Rows=0).reason == "image-attributes"
    assert verdict(ManufacturerModelName="ChexNode", Manufacturer="Röntgen", Modality="SEG").reason == "modality"


def test_a_rule_makes_urgent() -> None:
    assert verdict("NIGHT", Manufacturer="X").priority is Priority.URGENT
    assert verdict("DAY", Manufacturer="X").priority is Priority.ROUTINE


def test_a_rule_says_who_gets_results() -> None:
    settings = Settings(
        destination=[
            {"name": "PACS", "kind": "dicom", "ae_title": "PACS", "host": "localhost", "port": 104},
            {"name": "ARCHIVE", "kind": "dicom", "ae_title": "A", "host": "localhost", "port": 104},
        ]
    )

    def to(rule: RuleSettings | None) -> set[str]:
        return {route.destination for route in routes(settings.destination, "CR", True, rule)}

    assert to(None) == to(RULES[3]) == {"PACS", "ARCHIVE"}
    assert to(RULES[1]) == {"PACS"}
    assert to(RULES[4]) == set()


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"name": "a"}, "needs a condition"),
        ({"name": "a", "station": "X", "action": "refuse"}, "a reason belongs"),
        ({"name": "a", "station": "X", "reason": "because"}, "a reason belongs"),
        ({"name": "a", "station": "X", "action": "refuse", "reason": "r", "urgent": True}, "is not urgent"),
        ({"name": "a", "station": "X", "destinations": ["PASC"]}, "no destination is called PASC"),
        ({"name": "a", "station": "X", "colour": "red"}, "colour"),
        ({"name": "a", "station": ""}, "station"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Settings(rule=[rule])


def test_names_of_rules_differ() -> None:
    with pytest.raises(ValidationError, match="rule names must differ"):
        Settings(rule=[{"name": "a", "station": "X"}, {"name": "a", "station": "Y"}])


TOML = """
[node]
data_dir = "data"
[[destination]]
name = "PACS"
kind = "dicom"
ae_title = "PACS"
host = "localhost"
port = 104
send = "abnormal"
[[rule]]
name = "stretchers"
station = "STRETCHER"
urgent = true
"""


def test_check_says_what_would_be_done_with_a_file(tmp_path: Path) -> None:
    settings, file = tmp_path / "chexnode.toml", tmp_path / "a.dcm"
    settings.write_text(TOML)
    file.write_bytes(part10(radiograph("DX", StationName="STRETCHER")))
    ran = CliRunner().invoke(app, ["--config", str(settings), "check", "--file", str(file), "--json"])
    assert ran.exit_code == 0, ran.output
    (said,) = json.loads(ran.stdout)
    assert (said["state"], said["rule"], said["priority"]) == ("ANALYSABLE", "stretchers", "urgent")
    assert (said["destinations"], said["destinations_without_finding"]) == (["PACS"], [])
    assert "View Position" in said["detail"]
    file.write_bytes(part10(radiograph("DX", ViewPosition="LL", ViewCodeSequence=None)))
    shown = CliRunner().invoke(app, ["--config", str(settings), "check", "--file", str(file)])
    assert "lateral-view" in shown.stdout
    file.write_bytes(b"no DICOM")
    assert CliRunner().invoke(app, ["--config", str(settings), "check", "--file", str(file)]).exit_code != 0


@pytest.mark.parametrize(
    ("words", "place"), [("[view.lateral\nde = 1", "line 1"), ('[view.lateral]\nde = "SEITE"', r"\[view.lateral\] de")]
)
def test_words_that_cannot_be_read_are_refused_at_start(words: str, place: str, tmp_path: Path) -> None:
    settings = tmp_path / "chexnode.toml"
    settings.write_text('[node]\ndata_dir = "data"\n[gate]\nlexicon = "words.toml"\n')
    (tmp_path / "words.toml").write_text(words)
    ran = CliRunner().invoke(app, ["--config", str(settings), "receive"])
    with pytest.raises(Exception, match=f"words.toml.*{place}"):
        raise ran.exception or AssertionError
