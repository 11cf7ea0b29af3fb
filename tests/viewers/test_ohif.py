"""OHIF in Chromium, before Orthanc: the lesion is shown where it was drawn, on a picture that is the right way up.

Only pixels of the screen are judged: the image is found by its frame, the lesion by the colour laid over it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import servers
from chexmodels.finding import Findings
from chexnode.encode.preview import COLOUR
from radiographs import part10
from viewers import screen
from viewers.browser import Chromium, StudyPage
from viewers.cases import CASES, SHORT, Case
from viewers.ohif import Ohif
from viewers.screen import Picture, Rectangle

#: OHIF's first annotation colour, which it draws a report's outline in.
GREEN = (0, 255, 0)

each_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=() if case in SHORT else pytest.mark.long) for case in CASES]
)


@each_case
def test_the_lesion_is_shown_where_it_is(
    case: Case, pacs: servers.Orthanc, ohif: Ohif, chromium: Chromium, pictures: Path | None
) -> None:
    store(pacs, case, case.findings)
    with chromium.open(ohif.url, str(case.dataset.StudyInstanceUID)) as page:
        plain = page.wait(lambda picture: screen.find_frame(picture) is not None)
        image = shown_image(plain, case)
        assert not screen.coloured(plain, COLOUR).any()
        assert not screen.coloured(plain, GREEN).any()

        page.show("SEG")
        filled = page.wait(lambda picture: bool(screen.coloured(picture, COLOUR).any()))
        keep(page, pictures, f"{case.name}-seg")
        screen.assert_covers(screen.coloured(filled, COLOUR), image.place(case.mask, filled))

        page.show("SR")
        outlined = page.wait(lambda _: "Certainty of Finding: 91.00 %" in page.words())
        keep(page, pictures, f"{case.name}-sr")
        assert "Certainty of Finding: 91.00 %" in page.words()
        green = screen.coloured(outlined, GREEN)
        outline = image.place(case.mask if case.outline == "contour" else case.box_mask, outlined)
        if case.has_square_pixels:
            screen.assert_surrounds(green, outline, gap=3)
        else:  # OHIF takes the row spacing for the column spacing, cornerstone3D issue 2758
            assert not (green & screen.grown(outline, 20)).any(), "OHIF can do it: ask of it what the other cases do"

        page.show(case.modality, "AI Overlay")
        burnt = page.wait(lambda picture: bool(screen.coloured(picture, COLOUR).any()))
        keep(page, pictures, f"{case.name}-sc")
        inside = shown_image(burnt, case)
        within = inside.place(np.ones(case.shape, bool), burnt)  # the words below are red too
        screen.assert_surrounds(screen.coloured(burnt, COLOUR) & within, inside.place(case.mask, burnt), gap=12)
        assert page.errors == []


@pytest.mark.long
@pytest.mark.parametrize(("abnormal", "words"), [(False, "Absent"), (None, "NOT EVALUATED: out-of-distribution")])
def test_a_report_without_a_finding_is_read_in_words(
    abnormal: bool | None, words: str, pacs: servers.Orthanc, ohif: Ohif, chromium: Chromium, pictures: Path | None
) -> None:
    evaluated = abnormal is not None
    case = Case("no-finding" if evaluated else "not-evaluated", "DX", "MONOCHROME2", 600, 500 if evaluated else 510)
    notes = () if evaluated else ("out-of-distribution",)
    store(pacs, case, Findings(None, np.zeros(case.shape, bool), (), 0.1, abnormal, "CheX-Nomaly 1.2.3", notes=notes))
    with chromium.open(ohif.url, str(case.dataset.StudyInstanceUID)) as page:
        page.wait(lambda picture: screen.find_frame(picture) is not None)
        page.show("SR")
        page.wait(lambda _: words in page.words())
        keep(page, pictures, case.name)
        assert words in page.words()
        assert "Research use only - not for diagnosis" in page.words()
        assert page.errors == []


def store(pacs: servers.Orthanc, case: Case, findings: Findings) -> None:
    """Put the radiograph and its results into the PACS, as the modality and the node would."""
    pacs.post(part10(case.dataset))
    for result in case.results(findings):
        pacs.post(result.data)


def shown_image(picture: Picture, case: Case) -> Rectangle:
    """Return where the image is; fail unless it has its proportions, its sides and its greys."""
    found = screen.find_frame(picture)
    assert found is not None, "the image's frame is not in the picture"
    assert found.aspect == pytest.approx(case.aspect, rel=0.01)
    shown = found.cut(picture)
    turned = (case.image[::-1], case.image[:, ::-1], case.image[::-1, ::-1], 1 - case.image)
    assert screen.likeness(shown, case.image) > 0.95
    assert max(screen.likeness(shown, other) for other in turned) < 0.9
    return found


def keep(page: StudyPage, folder: Path | None, name: str) -> None:
    """Keep a picture of the whole screen, small enough for the docs."""
    if folder is not None:
        screen.for_docs(page.screen()).save(folder / f"{name}.png", optimize=True)
