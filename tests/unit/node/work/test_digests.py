"""Which changes of an image make other results, and a model's answer as a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chexmodels.dicom.greyscale import Choice
from chexmodels.model import RawItem
from chexmodels.pixels import Geometry
from chexmodels.stats import PixelStats
from chexnode.work.answer import NotAnAnswer, pack, unpack
from chexnode.work.digests import digests_of
from chexnode.work.prepared import Prepared
from support.radiographs import GEOMETRY, parsed, picture, radiograph


def prepared(image: float = 0.5, notes: tuple[str, ...] = (), **attributes: Any) -> Prepared:
    ds = parsed(radiograph(**attributes))
    stats = PixelStats.__new__(PixelStats)
    content = np.full((8, 8), image, np.float32)
    return Prepared(content, Geometry(96, 80, 8, "letterbox"), picture((96, 80)), stats, notes, ds, Choice(None, None))


@pytest.mark.parametrize(
    "attributes",
    [{"StationName": "ARCHIVE"}, {"InstitutionName": "Elsewhere"}, {"StudyDescription": "Chest"}],
)
def test_an_element_that_no_result_depends_on_changes_nothing(attributes: dict[str, Any]) -> None:
    assert digests_of(prepared(**attributes)) == digests_of(prepared())


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientName": "Other^Name"}, {"PatientID": "other"}, {"StudyInstanceUID": "1.2.3"},
        {"SeriesInstanceUID": "1.2.3"},
        {"SOPInstanceUID": "1.2.3"}, {"AccessionNumber": "other"}, {"StudyDate": "20200101"}, GEOMETRY,
        {"PatientOrientation": ["R", "F"]}, {"ImagerPixelSpacing": [0.3, 0.3]}, {"notes": ("child",)},
    ],
)  # fmt: skip
def test_another_identity_or_measure_is_told_and_the_content_stays(attributes: dict[str, Any]) -> None:
    plain, changed = digests_of(prepared()), digests_of(prepared(**attributes))
    assert changed.content == plain.content
    assert changed.identity != plain.identity


def test_another_input_of_the_model_is_another_content_and_another_picture_another_identity() -> None:
    plain = prepared()
    assert digests_of(prepared(0.25)).content != digests_of(plain).content
    shown = replace(plain, display=plain.display + 1)
    assert digests_of(shown).identity != digests_of(plain).identity


@pytest.mark.parametrize(
    "raw",
    [
        RawItem(np.linspace(-3, 3, 64, dtype=np.float32).reshape(8, 8)),
        RawItem(None, 0.1, np.array([1, -1], np.float32)),
        RawItem(np.full((2, 2), np.nan, np.float32), 0.5),
        RawItem(
            None,
            members={
                "localiser": RawItem(np.ones((2, 2), np.float32), 0.5, distance=1.25),
                "classifier": RawItem(None, None, np.array([1, -1], np.float32)),
            },
        ),
    ],
)
def test_an_answer_is_read_back_bit_for_bit(raw: RawItem) -> None:
    def compare(read: RawItem, raw: RawItem) -> None:
        for one, other in zip(read[:-1], raw[:-1], strict=True):
            assert (one is None) == (other is None)
            np.testing.assert_array_equal(np.asarray(one, float), np.asarray(other, float))
        assert (read.members or {}).keys() == (raw.members or {}).keys()
        for role, member in (raw.members or {}).items():
            compare((read.members or {})[role], member)

    compare(unpack(pack(raw)), raw)


@pytest.mark.parametrize("data", [b"", b"no answer", pack(RawItem(np.zeros((4, 4), np.float32)))[:-9]])
def test_a_damaged_answer_is_none(data: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        unpack(data)
