"""Every kind of model that is shipped, on a real radiograph: from Orthanc through the node to Orthanc, and in OHIF.

A localiser by anomaly (DDAD) marks and has a heat map, a classifier (CXR-CML) names and marks nothing, and a stack of
CheX-Nomaly with both does each, and says so where two of its members differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage
from typer.testing import CliRunner

from chexmodels.bundle import read_card
from chexmodels.interpret import MODELS_DISAGREE
from chexnode.encode.caption import COLOUR
from chextrain.cli import app
from support.nodes import AE_TITLE, Node, loopback_destination
from support.servers import LOOPBACK, Orthanc
from viewers import screen
from viewers.browser import Chromium, StudyPage
from viewers.ohif import Ohif
from viewers.shown import keep

SR, SEG, OVERLAY, HEAT = "SR", "SEG", "AI Overlay", "AI Heat Map"


@dataclass(frozen=True)
class Answer:
    """What came back of one radiograph."""

    study: str
    job: dict[str, Any]
    objects: dict[str, Dataset]
    """By modality, or of a Secondary Capture by the name of its series."""

    @property
    def words(self) -> str:
        """All text of the report."""
        return " | ".join(_texts(self.objects[SR]))

    @property
    def named(self) -> dict[str, str]:
        """What the report calls present or absent as a code, of the image as a whole."""
        (remarks,) = (item for item in self.objects[SR].ContentSequence if _name(item) == "Qualitative Evaluations")
        codes = [item for item in remarks.ContentSequence if item.ValueType == "CODE"]
        assert all(item.ConceptNameCodeSequence[0].CodingSchemeDesignator in ("SCT", "99CHEXNODE") for item in codes)
        return {_name(item): item.ConceptCodeSequence[0].CodeMeaning for item in codes}


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning) if "ConceptNameCodeSequence" in item else ""


def _texts(ds: Dataset) -> Iterator[str]:
    for item in ds.get("ContentSequence", ()):
        if item.ValueType == "TEXT":
            yield str(item.TextValue)
        yield from _texts(item)


def analysed(folder: Path, pacs: Orthanc, file: Path, bundle: str, operating_point: str) -> Answer:
    """Let the PACS send ``file`` to a node of ``bundle``; return what the PACS then has of it."""
    node = Node(
        folder,
        model={"bundle": bundle, "device": "cpu", "operating_point": operating_point},
        destination=[loopback_destination("pacs", "ORTHANC", pacs.port, heat_map=True)],
    )
    known = pacs.http.put("/modalities/chexnode", json={"AET": AE_TITLE, "Host": LOOPBACK, "Port": node.port})
    known.raise_for_status()
    with node.up:
        pacs.store("chexnode", pacs.post(file))
        ((settled,),) = node.wait_until_settled(1).values()
        ledger = node.ledger()
        job = asdict(ledger.views.job(settled["id"]))
        ledger.close()
    assert job["state"] == "DONE", job
    study = str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)
    objects: dict[str, Dataset] = {}
    for instance in pacs.instances():
        ds = pacs.dataset(instance)
        if ds.get("Manufacturer") == "ChexNode" and study == ds.StudyInstanceUID:
            name = next((name for name in (OVERLAY, HEAT) if name in ds.SeriesDescription), ds.Modality)
            assert objects.setdefault(name, ds) is ds, f"two {name}"
    return Answer(study, job, objects)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stack of three shipped bundles, made by the command that the how-to names."""
    folder = tmp_path_factory.mktemp("bundles") / "stack"
    members = ("--localiser", "chexnomaly", "--scorer", "ddad", "--classifier", "cml")
    done = CliRunner().invoke(app, ["stack", *members, "--name", "stack", "--version", "1", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return str(folder)


@pytest.fixture(scope="module")
def by_stack(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc, shared: Path, stack: str) -> Answer:
    """A chest with masses on both sides."""
    file = shared / "data/dicom/chest/rg1_cr_pa_j2k_lossy.dcm"
    return analysed(tmp_path_factory.mktemp("stack"), pacs, file, stack, "second_reader")


def test_a_stack_outlines_names_and_says_where_its_members_differ(by_stack: Answer, stack: str) -> None:
    assert by_stack.objects.keys() >= {SR, SEG, OVERLAY, HEAT}
    assert by_stack.job["regions"]
    assert MODELS_DISAGREE in by_stack.job["notes"]
    assert "a second AI differs on whether anything is abnormal" in by_stack.words
    lined = read_card(Path(stack)).operating_points["second_reader"].classes
    assert len(by_stack.named) == len(lined) == 12
    assert "Pleural effusion" in by_stack.named
    assert by_stack.objects[SEG].SOPClassUID == SegmentationStorage
    assert "stack 1" in by_stack.words


@pytest.mark.long
def test_an_anomaly_is_marked_with_its_heat_and_no_probability(
    tmp_path: Path, pacs: Orthanc, ohif: Ohif, chromium: Chromium, shared: Path, pictures: Path | None
) -> None:
    file = shared / "data/dicom/chest/siim_cr_pa_jpeg_baseline.dcm"
    answer = analysed(tmp_path, pacs, file, "ddad", "triage")
    assert answer.objects.keys() >= {SR, OVERLAY, HEAT}
    assert (SEG in answer.objects) == bool(answer.job["regions"])
    assert answer.named == {}
    assert "not a probability" in answer.objects[HEAT].DerivationDescription
    assert "probability" not in answer.words
    with chromium.open(ohif.url, answer.study) as page:
        assert_coloured(page, HEAT, pictures, "ddad-heat")
        show(page, OVERLAY, pictures, "ddad-overlay")
        assert page.errors == []


@pytest.mark.long
def test_a_classifier_names_and_marks_nothing(
    tmp_path: Path, pacs: Orthanc, ohif: Ohif, chromium: Chromium, shared: Path, pictures: Path | None
) -> None:
    answer = analysed(tmp_path, pacs, shared / "data/dicom/chest/nih_dx_implicit.dcm", "cml", "triage")
    assert answer.objects.keys() == {SR, OVERLAY}, "a model without a map has neither a Segmentation nor a heat map"
    assert set(answer.named.values()) <= {"Present", "Absent"}
    assert "Present" in answer.named.values()
    with chromium.open(ohif.url, answer.study) as page:
        page.show_until(SR, "Scores by name")
        keep(page, pictures, "cml-sr")
        assert "Scores by name" in page.words()
        show(page, OVERLAY, pictures, "cml-overlay")
        assert page.errors == []


@pytest.mark.long
def test_a_stack_is_seen(
    tmp_path: Path, pacs: Orthanc, ohif: Ohif, chromium: Chromium, shared: Path, stack: str, pictures: Path | None
) -> None:
    """A bedside chest: OHIF shows the 15-bit radiograph of the other test black, whoever made what lies upon it."""
    file = shared / "data/dicom/chest/rsna_cr_ap_jpeg_baseline.dcm"
    answer = analysed(tmp_path, pacs, file, stack, "triage")
    with chromium.open(ohif.url, answer.study) as page:
        assert_coloured(page, HEAT, pictures, "stack-heat")
        for series, name in (((SEG, ""), "stack-seg"), (("", OVERLAY), "stack-overlay")):
            page.show(*series)
            shown = page.wait(lambda picture: bool(screen.coloured(picture, COLOUR).any()))
            keep(page, pictures, name)
            assert screen.coloured(shown, COLOUR).any()
        assert page.errors == []


def show(page: StudyPage, series: str, pictures: Path | None, name: str) -> screen.Picture:
    """Load a Secondary Capture, which has the modality of its radiograph, and keep the screen; return what is shown."""
    page.show("", series)
    shown = page.wait(lambda picture: bool(picture.any()))
    keep(page, pictures, name)
    return shown


def assert_coloured(page: StudyPage, series: str, pictures: Path | None, name: str) -> None:
    """A picture is shown that is not all grey: at least a hundredth of it has a colour to be seen."""
    page.show("", series)
    shown = page.wait(lambda picture: bool(np.mean(np.ptp(picture, axis=2) > 20) > 0.01))
    keep(page, pictures, name)
    assert np.mean(np.ptp(shown, axis=2) > 20) > 0.01
