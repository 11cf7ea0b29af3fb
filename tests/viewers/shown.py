"""What a screen must show of a case, and where pictures of it are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chexnode.encode.caption import COLOUR
from viewers import screen
from viewers.browser import StudyPage
from viewers.cases import Case
from viewers.screen import Mask, Picture, Rectangle

#: OHIF's first annotation colour, which it draws a report's outline in.
GREEN = (0, 255, 0)


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


def plain_image(page: StudyPage, case: Case) -> Rectangle:
    """Wait for the image, which must have nothing drawn upon it; return where it is."""
    plain = page.wait(lambda picture: screen.find_frame(picture) is not None)
    image = shown_image(plain, case)
    assert not screen.coloured(plain, COLOUR).any()
    assert not screen.coloured(plain, GREEN).any()
    return image


def assert_segmentation_fills(page: StudyPage, image: Rectangle, mask: Mask) -> None:
    """Show the Segmentation: its colour is where ``mask``, ``(rows, columns)``, is, and nowhere else."""
    page.show("SEG")
    filled = page.wait(lambda picture: bool(screen.coloured(picture, COLOUR).any()))
    screen.assert_covers(screen.coloured(filled, COLOUR), image.place(mask, filled))


def assert_picture_surrounds(page: StudyPage, case: Case, mask: Mask) -> None:
    """Show the Secondary Capture: its outline goes round ``mask``, ``(rows, columns)``."""
    page.show(case.modality, "AI Overlay")
    burnt = page.wait(lambda picture: bool(screen.coloured(picture, COLOUR).any()))
    inside = shown_image(burnt, case)
    within = inside.place(np.ones(case.shape, bool), burnt)  # the words below are red too
    screen.assert_surrounds(screen.coloured(burnt, COLOUR) & within, inside.place(mask, burnt), gap=12)


def keep(page: StudyPage, folder: Path | None, name: str) -> None:
    """Keep a picture of the whole screen, small enough for the docs."""
    if folder is not None:
        screen.for_docs(page.screen()).save(folder / f"{name}.png", optimize=True)
