"""``chexnode analyze`` on files: the worker's own pipeline, with the sandbox and the 64 px test bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from chexmodels.bundle import find, read_card
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.vocabulary.reports import FileReport
from chexnode.work.analyze import analyze
from support.phantoms import phantom_files
from support.radiographs import radiograph

KEYS = [
    "file", "sop_instance_uid", "state", "reason", "error", "score", "abnormal", "regions", "notes", "model",
    "model_digest", "seconds", "outputs",
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms, one of them twice under the same stem; a PNG of the first; and files of every other end."""
    folder = tmp_path_factory.mktemp("inputs")
    first, second = phantom_files(folder / "phantoms", 2)
    first.rename(folder / "one.dcm")
    (folder / "other").mkdir()
    second.rename(folder / "other" / "one.dcm")
    pixels = pydicom.dcmread(folder / "one.dcm").pixel_array.astype(np.float64)
    grey = np.uint8(255 * (pixels - pixels.min()) / np.ptp(pixels))
    Image.fromarray(grey).save(folder / "picture.png")
    Image.fromarray(grey).convert("RGB").save(folder / "picture.jpg", quality=95)
    lateral = radiograph(ViewPosition="LL")
    lateral.save_as(folder / "lateral.dcm", enforce_file_format=True)
    flat = radiograph()
    flat.PixelData = bytes(len(flat.PixelData))
    flat.save_as(folder / "flat.dcm", enforce_file_format=True)
    (folder / "broken.dcm").write_bytes((folder / "one.dcm").read_bytes()[:700])
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "broken.png").write_bytes((folder / "picture.png").read_bytes()[:200])
    (folder / "words.txt").write_text("no image at all")
    return folder


def analysed(out: Path, *files: Path, heat: bool = False) -> list[FileReport]:
    """Without the command line, which takes seconds to start."""
    settings = Settings(model={"bundle": "phantom64", "device": "cpu"}, worker={"decoders": 1})
    return list(analyze(settings, files, out, heat))


@pytest.fixture(scope="module")
def ran(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of results and the reports of one call on all of them, failures in between."""
    folder = tmp_path_factory.mktemp("run")
    names = [
        "one.dcm", "lateral.dcm", "broken.dcm", "other/one.dcm", "picture.png", "flat.dcm", "empty.dcm", "broken.png",
        "words.txt", "nowhere.dcm", "other", "picture.jpg",
    ]  # fmt: skip
    (folder / "chexnode.toml").write_text('[model]\nbundle = "phantom64"\ndevice = "cpu"\n[worker]\nbatch_size = 2\n')
    files = [str(inputs / name) for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "chexnode.cli", "analyze", *files, "--out", "results", "--heat", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    reports = json.loads(done.stdout)
    assert [report["file"] for report in reports] == [str(inputs / name) for name in names]
    return folder / "results", reports


def test_every_file_has_its_end(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    ends = [(Path(r["file"]).name, r["state"], r["reason"]) for r in ran[1]]
    assert ends == [
        ("one.dcm", "DONE", None),
        ("lateral.dcm", "NOT_ANALYSED", "lateral-view"),
        ("broken.dcm", "QUARANTINED", "malformed"),
        ("one.dcm", "DONE", None),
        ("picture.png", "DONE", None),
        ("flat.dcm", "REFUSED", "constant-pixels"),
        ("empty.dcm", "QUARANTINED", "malformed"),
        ("broken.png", "REFUSED", "undecodable"),
        ("words.txt", "QUARANTINED", "malformed"),
        ("nowhere.dcm", "REFUSED", "source-missing"),
        ("other", "REFUSED", "source-missing"),
        ("picture.jpg", "DONE", None),
    ]


def test_reports_have_their_shape_and_are_also_files(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    out, reports = ran
    card = read_card(find("phantom64"))
    for report in reports:
        assert list(report) == KEYS
        assert (report["model"], report["model_digest"]) == (card.title, card.digest)
        assert (report["error"] is None) == (report["state"] == "DONE")
        assert (report["outputs"] == []) == (report["state"] != "DONE")
        assert (report["score"] is None) == (report["state"] != "DONE")
        assert all((out / name).is_file() for name in report["outputs"])
    written = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert sorted(written, key=lambda r: r["file"]) == sorted(reports, key=lambda r: r["file"])


def test_inputs_with_one_stem_do_not_meet(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    out, reports = ran
    first, second = (r for r in reports if r["file"].endswith("one.dcm"))
    assert set(first["outputs"]).isdisjoint(second["outputs"])
    assert json.loads((out / "one.json").read_text())["file"] == first["file"]
    assert json.loads((out / "one-2.json").read_text())["file"] == second["file"]
    everything = [name for report in reports for name in report["outputs"]]
    assert len(everything) == len(set(everything))
    assert {path.name for path in out.iterdir()} == {*everything, *(p.name for p in out.glob("*.json"))}


def test_dicom_files_give_dicom_results(ran: tuple[Path, list[dict[str, Any]]], inputs: Path) -> None:
    out, reports = ran
    source = pydicom.dcmread(inputs / "one.dcm", stop_before_pixels=True)
    report = reports[0]
    assert report["sop_instance_uid"] == source.SOPInstanceUID
    capture = pydicom.dcmread(out / "one.sc.dcm")
    assert (capture.SOPClassUID, capture.StudyInstanceUID) == (SecondaryCaptureImageStorage, source.StudyInstanceUID)
    for name, sop_class_uid in (
        ("one.sr.dcm", Comprehensive3DSRStorage), ("one.heat.dcm", SecondaryCaptureImageStorage)
    ):  # fmt: skip
        assert pydicom.dcmread(out / name, stop_before_pixels=True).SOPClassUID == sop_class_uid
    heat_map = pydicom.dcmread(out / "one.heat.dcm", stop_before_pixels=True)
    assert "calibrated probability" in heat_map.DerivationDescription, "as the model's card has it"
    reports = [r for r in reports if r["file"].endswith("one.dcm")]
    assert any(r["abnormal"] for r in reports), "neither phantom has a finding: this test sees nothing"
    for report, stem in zip(reports, ("one", "one-2"), strict=True):
        assert (f"{stem}.seg.dcm" in report["outputs"]) == (report["abnormal"] is True)
        assert (f"{stem}.pr.dcm" in report["outputs"]) == (report["abnormal"] is True)
        if report["abnormal"]:
            seg, pr = (pydicom.dcmread(out / f"{stem}.{end}.dcm") for end in ("seg", "pr"))
            assert (seg.SOPClassUID, seg.Rows, seg.Columns) == (SegmentationStorage, source.Rows, source.Columns)
            assert pr.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage


def test_regions_lie_in_the_image(ran: tuple[Path, list[dict[str, Any]]], inputs: Path) -> None:
    source = pydicom.dcmread(inputs / "one.dcm", stop_before_pixels=True)
    regions = [region for report in ran[1] for region in report["regions"] if report["file"].endswith("one.dcm")]
    for region in regions:
        x0, y0, x1, y1 = region["box"]
        assert 0 <= x0 < x1 <= source.Columns
        assert 0 <= y0 < y1 <= source.Rows
        assert 0 < region["area"] <= (x1 - x0) * (y1 - y0)
        assert 0 <= region["mean"] <= region["peak"] <= 1
    assert regions, "neither phantom has a finding: this test sees nothing"


def test_heat_covers_the_whole_image(ran: tuple[Path, list[dict[str, Any]]], inputs: Path) -> None:
    source = pydicom.dcmread(inputs / "one.dcm", stop_before_pixels=True)
    for stem, report in (("one", ran[1][0]), ("picture", ran[1][4])):
        with np.load(ran[0] / f"{stem}.npz") as saved:
            heat, score = saved["heat"], saved["score"]
        assert (heat.shape, heat.dtype) == ((source.Rows, source.Columns), np.float16)
        assert 0 <= heat.min() < heat.max() <= 1
        assert float(score) == pytest.approx(report["score"], abs=1e-6)


def test_pictures_give_an_overlay_and_the_answer_of_their_dicom_twin(ran: tuple[Path, list[dict[str, Any]]]) -> None:
    out, reports = ran
    png, jpeg = (next(r for r in reports if r["file"].endswith(name)) for name in ("picture.png", "picture.jpg"))
    assert sorted(png["outputs"]) == ["picture.npz", "picture.overlay.png"]
    assert sorted(jpeg["outputs"]) == ["picture-2.npz", "picture-2.overlay.png"]
    with Image.open(out / "picture.overlay.png") as overlay:
        assert overlay.mode == "RGB"
    assert png["sop_instance_uid"] is None
    assert png["score"] == pytest.approx(reports[0]["score"], abs=0.05)


def test_without_heat_there_is_none(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "results"
    (report,) = analysed(out, inputs / "one.dcm")
    assert report.state == "DONE"
    assert {path.name for path in out.iterdir()} == {"one.json", *report.outputs}
    assert not {"one.npz", "one.heat.dcm"} & set(report.outputs)


def test_an_input_is_never_overwritten(inputs: Path, tmp_path: Path) -> None:
    source = (inputs / "one.dcm").read_bytes()
    files = tmp_path / "a.dcm", tmp_path / "a.sc.dcm"
    for file in files:
        file.write_bytes(source)
    first, second = analysed(tmp_path, *files)
    assert [file.read_bytes() for file in files] == [source, source]
    assert "a-2.sc.dcm" in first.outputs
    assert "a.sc.sc.dcm" in second.outputs


def test_two_runs_share_no_uid(inputs: Path, tmp_path: Path) -> None:
    """Their content differs, in the time at least: one UID for both would be a lie."""
    uids = set()
    for out in ("a", "b"):
        analysed(tmp_path / out, inputs / "one.dcm")
        uids.add(pydicom.dcmread(tmp_path / out / "one.sc.dcm", stop_before_pixels=True).SOPInstanceUID)
    assert len(uids) == 2


def test_an_unusable_folder_or_model_is_the_environment(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadEnvironment, match="cannot write to"):
        analysed(tmp_path / "file" / "results", inputs / "one.dcm")
    with pytest.raises(BadEnvironment, match="shipped are"):
        list(analyze(Settings(model={"bundle": "nothing-of-the-kind"}), [inputs / "one.dcm"], tmp_path, False))


def test_an_anomaly_model_writes_heat_and_score_and_never_says_probability(tmp_path: Path) -> None:
    (phantom,) = phantom_files(tmp_path / "in", 1)
    settings = Settings(model={"bundle": "ddad", "device": "cpu"}, worker={"decoders": 1})
    (report,) = analyze(settings, [phantom], tmp_path / "out", heat=True)
    assert report.state == "DONE"
    assert report.model == "ddad 0.1"
    assert report.score is not None
    assert 0 <= report.score < 1  # one minus an empirical p-value is never 1
    stem = tmp_path / "out" / phantom.stem
    kept = np.load(stem.with_suffix(".npz"))
    assert kept["heat"].shape == (512, 432)
    assert 0 <= kept["heat"].min() < kept["heat"].max() <= 1
    assert float(kept["score"]) == pytest.approx(report.score)
    assert read_card(find("ddad")).heat_kind == "anomaly"
    written = sorted((tmp_path / "out").glob("*.dcm"))
    assert stem.with_suffix(".heat.dcm") in written
    for path in written:
        elements = pydicom.dcmread(path, stop_before_pixels=True).iterall()
        said = [text for text in (str(element.value).lower() for element in elements) if "probab" in text]
        assert not [text for text in said if "not a probability" not in text and "no probability" not in text], (
            path.name
        )
