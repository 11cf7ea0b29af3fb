"""Answers to STOW-RS requests, as servers really give them: read without ever failing, and judged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexnode.deliver.destination import DeliveryAnswer
from chexnode.deliver.stow import interpret, unproven
from chexnode.dicomweb.stow_response import StoreAnswer, is_about_instances, read_answer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["00081199", "00081198", "0008119A", "00081155", "00081197", "00081196", "Value", "vr"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.one_of(json_values.map(json.dumps).map(str.encode), st.binary(max_size=40)), st.integers(200, 599))
def test_no_answer_can_break_us(body: bytes, status: int) -> None:
    answer = read_answer(status, body)
    assert interpret(answer, "1.2.3", alone=True) or unproven(answer)
    assert all(type(reason) is int for reason in (*answer.stored.values(), *answer.failed.values(), *answer.others))


def test_orthancs_answer_is_read() -> None:
    """It lists both sequences always, empty ones without a value, and each item with more than is looked at."""
    body: dict[str, Any] = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
        "00081190": {"vr": "UR", "Value": ["http://pacs/dicom-web/studies/1.2.3"]},
        "00081198": {"vr": "SQ"},
        "00081199": {
            "vr": "SQ",
            "Value": [{"00081150": {"vr": "UI", "Value": ["1.2"]}, "00081155": {"vr": "UI", "Value": ["2.25.1"]}}],
        },
    }
    answer = read_answer(200, json.dumps(body).encode())
    assert answer == StoreAnswer(200, stored={"2.25.1": 0})
    assert interpret(answer, "2.25.1", alone=False) == (DeliveryAnswer.ACCEPTED, "")
    assert interpret(answer, "2.25.2", alone=False) is None
    assert interpret(answer, "2.25.2", alone=True) is None
    outcome, sentence = unproven(answer)
    assert outcome is DeliveryAnswer.DOUBTFUL
    assert "nothing says that it is stored" in sentence
    # It answers 400 where another part of the request was no DICOM file, and has stored what it lists.
    assert interpret(read_answer(400, json.dumps(body).encode()), "2.25.1", alone=False) == (
        DeliveryAnswer.ACCEPTED,
        "",
    )


@pytest.mark.parametrize(
    "status", [401, 403, 404, 405, 407, 408, 421, 425, 429, 500, 502, 503, 504, 507, 301, 304, 100]
)
def test_a_service_that_is_not_well_says_nothing_of_an_instance(status: int) -> None:
    assert not is_about_instances(status)


@pytest.mark.parametrize("status", [200, 202, 204, 400, 406, 409, 411, 413, 415, 422])
def test_the_rest_is_about_instances(status: int) -> None:
    assert is_about_instances(status)
