"""Mutated files and PDUs at each layer that looks at a stranger's bytes, thousands in seconds."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexnode.work.sandbox import Sandbox
from fuzz import files, layers, pdus
from fuzz.cases import Case, conversation_case, file_case, keep
from support.senders import CR_IMAGE, EXPLICIT_VR, Part10, associate_rq, element


def _run(case: Case, what: str) -> None:
    try:
        layers.check(case)
    except Exception as error:
        raise AssertionError(f"{case.name}: {error!r}; {keep([case], what)}") from error


@pytest.mark.timeout(3600)
def test_mutated_data_sets(sources: list[Part10], seed: str, cases: int) -> None:
    for number in range(cases * 60 // 100):
        _run(file_case(seed, number, sources), "data-set")


@pytest.mark.timeout(3600)
def test_mutated_conversations(sources: list[Part10], seed: str, cases: int) -> None:
    for number in range(cases * 23 // 100):
        _run(conversation_case(seed, number, sources), "pdus")


#: Data elements as generated, not mutated: any tag, any VR, any value, items in items.
_TAGS = st.one_of(st.sampled_from(files.TAGS), st.integers(0, 0xFFFFFFFF))
_VALUES = st.one_of(st.sampled_from(files.VALUES), st.binary(max_size=60))
_LEAVES = st.builds(lambda tag, vr, value: element(tag, vr, value[:60_000]), _TAGS, st.sampled_from(files.VRS), _VALUES)
_DATA_SETS = st.recursive(
    st.lists(_LEAVES, max_size=8).map(b"".join),
    lambda inner: st.builds(
        lambda tag, items, rest: element(tag, b"SQ", b"".join(map(_item, items))) + rest,
        _TAGS,
        st.lists(inner, max_size=3),
        inner,
    ),
    max_leaves=20,
)


def _item(content: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


@given(_DATA_SETS, st.sampled_from(files.SYNTAXES))
@settings(max_examples=120, deadline=None)
def test_generated_data_sets(data: bytes, transfer_syntax_uid: str) -> None:
    layers.check(Case("hypothesis", 0, (), Part10(CR_IMAGE, "1.2.3.4", transfer_syntax_uid, data)))


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80)), max_size=4), st.binary())
@settings(max_examples=100, deadline=None)
def test_generated_values_and_items(values: list[tuple[int, int, bytes]], items: bytes) -> None:
    said = (pdus.p_data(*values), associate_rq([(CR_IMAGE, [EXPLICIT_VR])], user_items=items[:60_000]))
    layers.check(Case("hypothesis", 0, (), None, said))


@pytest.mark.timeout(3600)
def test_mutated_pixels_in_the_sandbox(sources: list[Part10], seed: str, cases: int, tmp_path: Path) -> None:
    ends = []
    with Sandbox(layers.LIMITS, 64, "letterbox", 1) as sandbox:
        for number in range(cases * 5 // 100):
            case = file_case(f"{seed}-pixels", number, sources)
            try:
                ends.append(layers.check_decoding(case, sandbox, tmp_path))
            except Exception as error:
                raise AssertionError(f"{case.name}: {error!r}; {keep([case], 'decoding')}") from error
    assert {True, False} == set(ends), "some are decoded, some are refused"
