"""OHIF at the node's own /viewer, on its own /dicom-web and with no PACS: what came is shown with what was found in it.

The node analyses drawn radiographs with the model that knows those. Its Segmentation must lie on the drawn lesion, and
OHIF must show it exactly there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from highdicom.seg import Segmentation
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless, SegmentationStorage

from chexnode.settings.tree import Settings
from chexnode.vocabulary.scopes import TokenScope
from support import dicomweb, senders
from support.nodes import Node
from support.radiographs import part10
from support.servers import LOOPBACK
from viewers.browser import Chromium, StudyPage
from viewers.cases import SHORT, Case
from viewers.screen import Mask
from viewers.shown import assert_picture_surrounds, assert_segmentation_fills, keep, plain_image

DX, CR = SHORT


class Viewed(Node):
    """A node that runs with nothing beside it, and has the viewer."""

    @property
    def origin(self) -> str:
        """Where its web role is."""
        return f"http://{LOOPBACK}:{self.web_port}"

    @property
    def viewer(self) -> str:
        """Where its viewer is."""
        return f"{self.origin}/viewer"

    def send(self, *files: bytes) -> None:
        """Send by C-STORE, and wait for the results."""
        before = len(self.jobs())
        for file in files:
            assert senders.store_file(self.port, senders.take_apart(file)).status == 0
        self.wait_until_settled(before + len(files), seconds=240)

    def mask(self, ds: Dataset) -> Mask:
        """What its Segmentation says of an image, as DICOMweb has it, ``(rows, columns)`` bool."""
        root = f"{self.origin}/dicom-web"
        query = {"StudyInstanceUID": str(ds.StudyInstanceUID), "SOPClassUID": SegmentationStorage}
        (found,) = httpx.get(f"{root}/instances", params=query).json()
        answer = httpx.get(found["00081190"]["Value"][0], headers={"Accept": "application/dicom"}).raise_for_status()
        seg = Segmentation.from_dataset(dcmread(BytesIO(answer.content)))
        frames = seg.get_pixels_by_source_instance([ds.SOPInstanceUID], ignore_spatial_locations=True)
        return np.asarray(frames[0, :, :, 0], bool)


@pytest.fixture(scope="module")
def node(chromium: Chromium, viewer_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewed]:
    """The node, started once there is a browser and a viewer."""
    node = Viewed(tmp_path_factory.mktemp("node"), web={"viewer": str(viewer_home)})
    with node.up:
        yield node


def settings(folder: Path, viewer_home: Path) -> Settings:
    """Of a web role by itself."""
    database = {"url": f"sqlite:///{folder / 'chexnode.db'}"}
    return Settings(node={"data_dir": folder / "var"}, database=database, web={"viewer": viewer_home})


def assert_well(page: StudyPage, *asked: str) -> None:
    """The browser had nothing to complain of, everything came, and each of ``asked`` was asked for."""
    assert page.errors == []
    assert {status for status, _ in page.answers} <= {200, 304}
    for part in asked:
        assert any(part in url for _, url in page.answers), f"{part} was not asked for"
    assert page.page.evaluate("crossOriginIsolated"), "its workers share no memory"


@pytest.mark.parametrize("case", [pytest.param(DX, id=DX.name), pytest.param(CR, id=CR.name, marks=pytest.mark.long)])
def test_a_study_is_shown_from_the_node_alone(
    case: Case, node: Viewed, chromium: Chromium, pictures: Path | None
) -> None:
    node.send(part10(case.dataset))
    mask = node.mask(case.dataset)
    assert (mask & case.mask).sum() > 0.5 * (mask | case.mask).sum(), "what was found is not the lesion"

    with chromium.open(node.viewer, str(case.dataset.StudyInstanceUID)) as page:
        image = plain_image(page, case)
        assert_segmentation_fills(page, image, mask)
        keep(page, pictures, f"node-{case.name}-seg")
        page.show_until("SR", "Certainty of Finding")
        assert "Certainty of Finding" in page.words()
        assert_picture_surrounds(page, case, mask)
        root = f"/dicom-web/studies/{case.dataset.StudyInstanceUID}"
        assert_well(page, "/dicom-web/studies?", f"{root}/series?", "/metadata", "/frames/1", "/thumbnail?")


@pytest.mark.long
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda uid: UID(uid).name)
def test_a_compressed_image_is_decoded_under_the_workers_policy(syntax: UID, node: Viewed, chromium: Chromium) -> None:
    sizes = {JPEG2000Lossless: 640, JPEGLSLossless: 648, RLELossless: 656}  # each is an image of its own
    case = replace(DX, name=syntax.keyword, rows=sizes[syntax], columns=512)
    ds = case.dataset
    ds.compress(syntax, generate_instance_uid=False)
    node.send(part10(ds))
    with chromium.open(node.viewer, str(ds.StudyInstanceUID)) as page:
        plain_image(page, case)
        stored = [url for _, url in page.answers if f"{ds.SOPInstanceUID}/frames/1" in url]
        asked = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}  # as OHIF does
        assert f"transfer-syntax={syntax}\r\n".encode() in httpx.get(stored[0], headers=asked).content[:400]
        assert_well(page)


@pytest.mark.long
def test_real_radiographs_open(node: Viewed, chromium: Chromium, shared: Path) -> None:
    files = sorted((shared / "data" / "dicom" / "chest").glob("*.dcm"))
    node.send(*(path.read_bytes() for path in files))
    for study in {str(dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in files}:
        with chromium.open(node.viewer, study) as page:
            picture = page.wait(lambda picture: picture.std() > 20)
            assert picture.std() > 20, "nothing is shown"
            assert_well(page, "/frames/1", "/thumbnail?")


@pytest.mark.long
def test_the_study_list_is_paged(chromium: Chromium, viewer_home: Path, tmp_path: Path) -> None:
    with dicomweb.serving(settings(tmp_path, viewer_home)) as service:
        for number in range(1, 61):
            ds = replace(DX, name=f"listed-{number:02}", rows=64, columns=64).dataset
            ds.PatientName = f"Listed^{number:02}"
            ds.StudyDate = f"2026{1 + number // 28:02}{1 + number % 28:02}"
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(ds, keyword, f"{ds[keyword].value[:50]}.{number}")
            assert service.store(part10(ds)).status_code == 200
        viewer = service.url.removesuffix("/dicom-web") + "/viewer"
        # The latest study comes first.
        for query, here, elsewhere in (("", "Listed, 60", "Listed, 01"), ("?pageNumber=2", "Listed, 01", "Listed, 60")):
            page = StudyPage(chromium.page())
            with page:
                page.go(f"{viewer}/{query}")
                page.page.get_by_text(here).wait_for()
                assert page.page.get_by_text(elsewhere).count() == 0
                assert_well(page, "/dicom-web/studies?limit=101")


@pytest.mark.long
def test_the_study_list_is_filtered_by_modality_and_shows_a_study_without_any(
    chromium: Chromium, viewer_home: Path, tmp_path: Path
) -> None:
    with dicomweb.serving(settings(tmp_path, viewer_home)) as service:
        for number, (name, modality) in enumerate((("Digital", "DX"), ("Computed", "CR"), ("Unknown", ""))):
            ds = replace(DX, name=f"listed-{name}", rows=64, columns=64).dataset
            ds.PatientName, ds.Modality = f"{name}^List", modality
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(ds, keyword, f"{ds[keyword].value[:50]}.{number}")
            assert service.store(part10(ds)).status_code == 200
        viewer = service.url.removesuffix("/dicom-web") + "/viewer"
        everyone = {"Digital", "Computed", "Unknown"}
        for query, shown in (
            ("", everyone),
            ("?modalities=DX", {"Digital"}),
            ("?modalities=CR,DX", everyone - {"Unknown"}),
        ):
            page = StudyPage(chromium.page())
            with page:
                page.go(f"{viewer}/{query}")
                for name in shown:
                    page.page.get_by_text(f"{name}, List").or_(page.page.get_by_text(f"List, {name}")).first.wait_for()
                assert {name for name in everyone if page.page.get_by_text(name).count()} == shown
                assert_well(page, "/dicom-web/studies?")


@pytest.mark.long
def test_a_token_is_asked_for_and_kept(chromium: Chromium, viewer_home: Path, tmp_path: Path) -> None:
    with dicomweb.serving(settings(tmp_path, viewer_home)) as service:
        assert service.store(part10(DX.dataset)).status_code == 200
        _, secret = service.ledger.tokens.add("radiologist", [TokenScope.READ])
        page = StudyPage(chromium.page())
        with page:
            origin = service.url.removesuffix("/dicom-web")
            page.go(f"{origin}/viewer/viewer?StudyInstanceUIDs={DX.dataset.StudyInstanceUID}")
            page.page.get_by_label("Token").fill(secret + "x")
            page.page.get_by_role("button").click()
            page.page.get_by_text("unknown, revoked or expired").wait_for()
            page.page.get_by_label("Token").fill(secret)
            page.page.get_by_role("button").click()
            page.wait_until_drawn()
            plain_image(page, DX)
            assert "chexnode" not in page.page.evaluate("document.cookie"), "a script can read it"
            assert {status for status, url in page.answers if "/dicom-web" in url} == {200}
            service.ledger.tokens.revoke("radiologist")
            page.page.reload(wait_until="domcontentloaded")
            page.page.get_by_label("Token").wait_for()
