"""Mutated files, conversations and Store requests against a whole node, and what must be true of it afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz import corpus
from fuzz.cases import Case, body_case, conversation_case, file_case, keep
from fuzz.judge import Judge
from support.nodes import Node
from support.senders import Part10

BATCH = 100


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """A node with everything on: analysis, results and reports into a folder."""
    node = Node(
        tmp_path_factory.mktemp("fuzz") / "node",
        study={"quiet_seconds": 1},
        limits={"inflate_mb": 8, "idle_seconds": 20},
        destination=[{"name": "out", "kind": "folder", "path": "out", "not_analysed": True}],
    )
    with node.up:
        yield Judge(node)


def _cases(kind: str, seed: str, count: int, sources: list[Part10]) -> Iterator[Case]:
    make = {"files": file_case, "conversations": conversation_case, "bodies": body_case}[kind]
    return (make(f"{seed}-node", number, sources) for number in range(count))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("kind", "percent"), [("files", 6), ("conversations", 6), ("bodies", 3)])
def test_a_node_under_fire_keeps_its_promises(
    judge: Judge,
    kind: str,
    percent: int,
    sources: list[Part10],
    seed: str,
    cases: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, image in enumerate(corpus.images() * 2):  # every pool of threads and connections in use
        judge.play(Case(seed, number, (), corpus.renamed(image, 800_000_000 + number)))
    judge.settle()
    before = judge.snapshot()
    batch: list[Case] = []
    for case in _cases(kind, seed, cases * percent // 100, sources):
        batch = [*batch, case] if len(batch) < BATCH else [case]
        try:
            judge.play(case)
            if len(batch) == BATCH:
                judge.still_serves()
        except Exception as error:
            raise AssertionError(f"{case.name}: {error!r}; {keep(batch, kind)}") from error
        if complaints := judge.complaints():
            raise AssertionError(f"{case.name}: {complaints}; {keep(batch, kind)}")
    judge.still_serves()
    judge.settle()
    account = judge.judge()
    assert judge.leaks(before) == []
    assert judge.complaints() == []
    with capsys.disabled():
        print(f"\n{kind}: seed {seed}, {account}, at most {judge.memory()} MB in all processes together")
