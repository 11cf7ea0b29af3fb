"""Which analysis new images get."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chexmodels import bundle
from chexmodels.interpret import OUTPUT_INVALID
from chexnode.node import job_spec
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.vocabulary.notes import Note


def settings(**tables: object) -> Settings:
    return Settings.model_validate({"model": {"bundle": "phantom64"}} | tables)


def test_what_changes_the_analysis_changes_its_key_and_nothing_else_does() -> None:
    spec = job_spec(settings())
    assert spec.model == "phantom64 1"
    assert spec.model_digest == bundle.digest(bundle.find("phantom64"))
    other_point = job_spec(settings(model={"bundle": "phantom64", "operating_point": "triage"}))
    assert spec.key("1.2.3", "d") != other_point.key("1.2.3", "d")
    elsewhere = job_spec(settings(destination=[{"name": "a", "kind": "folder", "path": "/a"}], node={"ae_title": "X"}))
    assert spec == elsewhere


def test_a_bundle_without_the_operating_point_is_told_before_anything_is_analysed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(bundle.find("phantom64"), folder)
    manifest = json.loads((folder / "model.json").read_text())
    del manifest["operating_points"]["second_reader"]
    (folder / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(BadEnvironment, match="no operating point 'second_reader', only triage"):
        job_spec(settings(model={"bundle": str(folder)}))


def test_no_such_bundle_is_told() -> None:
    with pytest.raises(BadEnvironment, match="no bundle 'nothing'"):
        job_spec(settings(model={"bundle": "nothing"}))


def test_the_note_of_a_model_without_an_answer_is_one_of_ours() -> None:
    assert Note(OUTPUT_INVALID) is Note.MODEL_OUTPUT_INVALID
