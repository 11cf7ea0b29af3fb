"""OHIF in Chromium, before Orthanc: the lesion is shown where it was drawn, on a picture that is the right way up.

Only pixels of the screen are judged: the image is found by its frame, the lesion by the colour laid over it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chexmodels.finding import Findings
from support import servers
from support.radiographs import part10
from viewers import screen
from viewers.browser import Chromium
from viewers.cases import CASES, SHORT, Case
from viewers.ohif import Ohif
from viewers.shown import GREEN, assert_picture_surrounds, assert_segmentation_fills, keep, plain_image

each_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=() if case in SHORT else pytest.mark.long) for case in CASES]
)


@each_case
def test_the_lesion_is_shown_where_it_is(
    case: Case, pacs: servers.Orthanc, ohif: Ohif, chromium: Chromium, pictures: Path | None
) -> None:
    store(pacs, case, case.findings)
    with chromium.open(ohif.url, str(case.dataset.StudyInstanceUID)) as page:
        image = plain_image(page, case)
        assert_segmentation_fills(page, image, case.mask)
        keep(page, pictures, f"{case.name}-seg")

        outlined = page.show_until("SR", "Certainty of Finding: 91.00 %")
        keep(page, pictures, f"{case.name}-sr")
        assert "Certainty of Finding: 91.00 %" in page.words()
        green = screen.coloured(outlined, GREEN)
        outline = image.place(case.mask if case.outline == "contour" else case.box_mask, outlined)
        if case.has_square_pixels:
            screen.assert_surrounds(green, outline, gap=3)
        else:  # OHIF takes the row spacing for the column spacing, cornerstone3D issue 2758
            assert not (green & screen.grown(outline, 20)).any(), "OHIF can do it: ask of it what the other cases do"

        assert_picture_surrounds(page, case, case.mask)
        keep(page, pictures, f"{case.name}-sc")
        assert page.errors == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("abnormal", "words"), [(False, "Absent"), (None, "NOT EVALUATED: unlike the images that the AI learnt from")]
)
def test_a_report_without_a_finding_is_read_in_words(
    abnormal: bool | None, words: str, pacs: servers.Orthanc, ohif: Ohif, chromium: Chromium, pictures: Path | None
) -> None:
    evaluated = abnormal is not None
    case = Case("no-finding" if evaluated else "not-evaluated", "DX", "MONOCHROME2", 600, 500 if evaluated else 510)
    notes = () if evaluated else ("out-of-distribution",)
    store(pacs, case, Findings(None, np.zeros(case.shape, bool), (), 0.1, abnormal, "CheX-Nomaly 1.2.3", notes=notes))
    with chromium.open(ohif.url, str(case.dataset.StudyInstanceUID)) as page:
        page.wait(lambda picture: screen.find_frame(picture) is not None)
        page.show_until("SR", words)
        keep(page, pictures, case.name)
        assert words in page.words()
        assert "Research use only - not for diagnosis" in page.words()
        assert page.errors == []


def store(pacs: servers.Orthanc, case: Case, findings: Findings) -> None:
    """Put the radiograph and its results into the PACS, as the modality and the node would."""
    pacs.post(part10(case.dataset))
    for result in case.results(findings):
        pacs.post(result.data)
