"""Play kept cases again: ``PYTHONPATH=tests python tests/fuzz/replay.py FILE``, one by one until the first that fails.

FILE is what the fuzzer kept, or any file, whose content then is the data set. First each layer, then a whole node.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chexnode.work.sandbox import Sandbox
from fuzz import layers
from fuzz.cases import Case, kept
from fuzz.judge import Judge
from support.nodes import Node


def main() -> int:
    """Exit code 1 where something is found again."""
    cases = kept(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        return _play(cases, Path(folder))


def _play(cases: list[Case], folder: Path) -> int:
    node = Node(
        folder / "node",
        study={"quiet_seconds": 1},
        limits={"inflate_mb": 8},
        destination=[{"name": "out", "kind": "folder", "path": "out", "not_analysed": True}],
    )
    with Sandbox(layers.LIMITS, 64, "letterbox", 1) as sandbox, node.up:
        judge = Judge(node)
        for case in cases:
            print(case.name)
            layers.check(case)
            if case.part is not None:
                layers.check_decoding(case, sandbox, folder)
            judge.play(case)
            judge.still_serves()
            judge.settle()
            judge.judge()
            if complaints := judge.complaints():
                print(*complaints, sep="\n")
                return 1
    print("nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
