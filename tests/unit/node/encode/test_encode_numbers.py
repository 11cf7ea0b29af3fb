"""Numbers of the image as a whole, in its report."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from chexnode.encode.objects import to_bytes
from chexnode.encode.source import sanitise
from chexnode.encode.sr import encode_sr
from chexnode.vocabulary.variants import SrForm
from support.radiographs import PROVENANCE, lesion, parsed, radiograph

SHAPE = (96, 80)


def reported(abnormal: bool | None, score: float = 0.37) -> Dataset:
    ds = encode_sr(sanitise(parsed(radiograph())), lesion(SHAPE, abnormal, score), PROVENANCE, SrForm())
    return dcmread(BytesIO(to_bytes(ds)))


@pytest.mark.parametrize("abnormal", [True, False])
def test_score_and_threshold_of_the_image_are_numbers_with_codes(abnormal: bool) -> None:
    """Not in a measurement group: OHIF looks for coordinates beside each number there."""
    ds = reported(abnormal)
    remarks = ds.ContentSequence[-1]
    said = {
        item.ConceptNameCodeSequence[0].CodeValue: item.MeasuredValueSequence[0]
        for item in remarks.ContentSequence
        if item.ValueType == "NUM"
    }
    assert {name: float(value.NumericValue) for name, value in said.items()} == {
        "111013": 37,
        "122411": 50,
    }
    assert {value.MeasurementUnitsCodeSequence[0].CodeValue for value in said.values()} == {"%"}


def test_what_was_not_evaluated_has_no_number() -> None:
    assert "111013" not in str(reported(None))
