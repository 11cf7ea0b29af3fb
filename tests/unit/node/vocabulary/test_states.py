"""The table of states: whole, closed, and able to end."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from chexmodels.dicom.errors import DecodeFailure
from chexnode import ledger, vocabulary
from chexnode.ledger.moves import allowed
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.states import FINAL_JOB_STATES, DeliveryState, InstanceState, JobState, State, StudyState
from chexnode.vocabulary.transitions import TRANSITIONS

ALL = [*InstanceState, *JobState, *DeliveryState, *StudyState]


def test_every_state_has_its_row() -> None:
    assert list(TRANSITIONS) == ALL


@pytest.mark.parametrize("failure", DecodeFailure)
def test_every_failure_to_decode_is_a_reason(failure: DecodeFailure) -> None:
    assert Reason(failure).name == failure.name


@pytest.mark.parametrize("state", ALL)
def test_moves_stay_within_one_kind(state: State) -> None:
    assert {type(target) for target in TRANSITIONS[state]} <= {type(state)}


@pytest.mark.parametrize("start", ALL)
def test_only_what_the_table_names_is_allowed(start: State) -> None:
    for to in type(start):
        if to in TRANSITIONS[start]:
            allowed(start, to)
        else:
            with pytest.raises(ValueError, match=f"{start} may not become {to}"):
                allowed(start, to)


def _reachable(start: State) -> set[State]:
    found: set[State] = set()
    todo = [start]
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo += TRANSITIONS[state]
    return found


def test_a_job_can_always_end_and_every_state_can_be_reached() -> None:
    assert _reachable(JobState.QUEUED) == set(JobState)
    for state in JobState:
        assert _reachable(state) & FINAL_JOB_STATES


def test_a_delivery_can_always_be_sent() -> None:
    assert _reachable(DeliveryState.PENDING) == set(DeliveryState)
    for state in set(DeliveryState) - {DeliveryState.WITHDRAWN}:  # what is superseded is sent no more
        assert DeliveryState.SENT in _reachable(state)
    assert _reachable(DeliveryState.WITHDRAWN) == {DeliveryState.WITHDRAWN}


def test_final_states_are_left_only_by_hand() -> None:
    assert {s for s in FINAL_JOB_STATES for t in TRANSITIONS[s] if t is JobState.RUNNING} == set()
    assert JobState.DELIVERING not in FINAL_JOB_STATES


def test_results_are_never_unmade() -> None:
    """Once results are committed a job can only be delivered again: no second set can come to be."""
    for state in (JobState.DELIVERING, JobState.DONE):
        assert TRANSITIONS[state] <= {JobState.DELIVERING, JobState.DONE}


@pytest.mark.parametrize("codes", [Reason, Note], ids=["reasons", "notes"])
def test_codes_are_short_and_plain(codes: type[Reason | Note]) -> None:
    for code in codes:
        assert code.value == code.value.lower()
        assert len(code.value) <= 32, "the column's width"
        assert all(part.isalpha() for part in code.value.split("-"))


def test_every_member_says_what_it_means() -> None:
    for path in sorted(Path(vocabulary.__path__[0]).glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(b, ast.Name) and b.id == "StrEnum" for b in node.bases
            ):
                members = [n for n in node.body if isinstance(n, ast.Assign)]
                strings = [n for n in node.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
                assert len(strings) == len(members) + 1, node.name


def test_only_moves_change_a_state() -> None:
    """No UPDATE of the ledger sets a state but the one in ``move``."""
    for path in sorted(Path(ledger.__path__[0]).glob("*.py")):
        setters = [
            keyword
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values"
            for keyword in node.keywords
            if keyword.arg == "state"
        ]
        assert len(setters) == (path.name == "moves.py"), path.name
