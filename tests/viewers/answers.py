"""Pictures of every kind of answer on a drawn chest, into docs/images/answers: ``python tests/viewers/answers.py``.

They are the Secondary Captures that a PACS gets, in eight-bit PNG so that the repository stays small.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

sys.path.insert(0, str(Path(__file__).parents[1]))

from chexmodels.finding import Box, Findings, Region
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.variants import ResultKind
from chextrain.data.phantom import render
from viewers.cases import CHEST, Case

FOLDER = Path(__file__).parents[2] / "docs" / "images" / "answers"
CASE = Case("answers", "DX", "MONOCHROME2", 980, 820)


class _Clean(Case):
    """The same chest without a lesion."""

    @cached_property
    def image(self) -> NDArray[np.float32]:
        return render(replace(CHEST, lesions=()), *self.shape)


CLEAN = _Clean("answers-clean", "DX", "MONOCHROME2", 980, 820)
_COLOURS = 64


def _several() -> Findings:
    """The lesion, and a second outline at the base of the other lung."""
    y, x = np.mgrid[: CASE.rows, : CASE.columns]
    second = ((x - 250) / 70) ** 2 + ((y - 640) / 50) ** 2 < 1
    rows, columns = np.flatnonzero(second.any(axis=1)), np.flatnonzero(second.any(axis=0))
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    region = Region(box, int(second.sum()), 0.64, 0.52)
    one = CASE.findings
    assert one.mask is not None
    return replace(one, mask=one.mask | second, regions=(*one.regions, region))


def answers() -> dict[str, tuple[Case, Findings]]:
    """File name -> the radiograph, and what the model said of it."""
    clean = replace(CASE.findings, mask=np.zeros(CASE.shape, bool), regions=(), score=0.12, abnormal=False)
    unanswered = replace(clean, score=0.5, abnormal=None)
    return {
        "finding": (CASE, CASE.findings),
        "several": (CASE, _several()),
        "none": (CLEAN, clean),
        "not-evaluated": (CLEAN, replace(unanswered, notes=(Note.SCOPE_DOUBTFUL,))),
        "doubtful": (CASE, replace(CASE.findings, notes=(Note.ORIENTATION_DOUBTFUL,))),
    }


def main() -> None:
    """Make them all."""
    for name, (case, findings) in answers().items():
        (capture,) = (result for result in case.results(findings) if result.variant.kind is ResultKind.SC)
        picture = Image.fromarray(dcmread(BytesIO(capture.data)).pixel_array)
        picture.thumbnail((1200, 720), Image.Resampling.LANCZOS)
        picture.quantize(_COLOURS).save(FOLDER / f"{name}.png", optimize=True)
        print(f"{name}.png, {picture.size[0]} x {picture.size[1]}")


if __name__ == "__main__":
    main()
