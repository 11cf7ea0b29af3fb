"""One case of the fuzzer: numbered, repeatable from the seed, and kept as bytes when it has found something."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from fuzz import bodies, corpus, files, pdus
from fuzz.bodies import Body
from support.senders import EXPLICIT_VR, Part10

FOUND = Path(__file__).parents[2] / ".fuzz"
"""Where cases that found something are kept; ignored by git."""


@dataclass(frozen=True)
class Case:
    """A data set with what is announced of it, the PDUs of a conversation, or the body of a Store request."""

    seed: str
    number: int
    mutations: tuple[str, ...]
    part: Part10 | None = None
    said: tuple[bytes, ...] = ()
    body: Body | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"seed {self.seed}, case {self.number} ({', '.join(self.mutations)})"


def file_case(seed: str, number: int, sources: Sequence[Part10]) -> Case:
    """The ``number``-th mutated data set of ``seed``."""
    random = Random(f"{seed}/file/{number}")
    part, names = files.mutated(random, corpus.renamed(corpus.pick(sources, number), number))
    return Case(seed, number, tuple(names), part)


def conversation_case(seed: str, number: int, sources: Sequence[Part10]) -> Case:
    """The ``number``-th mutated conversation of ``seed``; its images are whole."""
    random = Random(f"{seed}/pdus/{number}")
    image = corpus.renamed(corpus.pick(sources, number), number)
    said, names = pdus.mutated(random, pdus.conversation(random, image, number))
    return Case(seed, number, tuple(names), None, tuple(said))


def body_case(seed: str, number: int, sources: Sequence[Part10]) -> Case:
    """The ``number``-th mutated Store request of ``seed``, of one to three images."""
    random = Random(f"{seed}/body/{number}")
    images = [
        corpus.renamed(random.choice(sources), number * 3 + which) for which in range(random.choice((1, 1, 1, 2, 3)))
    ]
    body, names = bodies.mutated(random, images)
    return Case(seed, number, tuple(names), None, (), body)


def keep(cases: Sequence[Case], what: str) -> str:
    """Write ``cases`` to a file; return a sentence that says where, and how to see it happen again."""
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{what}-{cases[0].seed}-{cases[0].number}.jsonl"
    path.write_text("".join(json.dumps(asdict(case), default=_encoded) + "\n" for case in cases))
    return f"kept in {path}; again: PYTHONPATH=tests python tests/fuzz/replay.py {path}"


def kept(path: Path) -> list[Case]:
    """The cases of a file that :func:`keep` wrote; any other file is one data set."""
    if path.suffix != ".jsonl":
        return [Case(path.name, 0, (), Part10("1.2.840.10008.5.1.4.1.1.1", "1.2.3.4", EXPLICIT_VR, path.read_bytes()))]
    return [_read(json.loads(line)) for line in path.read_text().splitlines()]


def _read(line: dict[str, object]) -> Case:
    part, said, body = line.pop("part"), line.pop("said"), line.pop("body", None)
    assert isinstance(said, list)
    if isinstance(part, dict):
        part = Part10(**part | {"data": base64.b64decode(part["data"])})
    if isinstance(body, dict):
        body = Body(**body | {"content": base64.b64decode(body["content"]), "digests": tuple(body["digests"])})
    line["mutations"] = tuple(line["mutations"])  # type: ignore[arg-type]
    return Case(part=part, said=tuple(base64.b64decode(one) for one in said), body=body, **line)  # type: ignore[arg-type]


def _encoded(content: object) -> str:
    assert isinstance(content, bytes)
    return base64.b64encode(content).decode()
