"""Processes whose wall clock is wrong, as on a host without NTP.

libfaketime is no help: it meddles with the clock that CPython's locks wait by, and they wait for ever.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp


@cache
def _library() -> Path | None:
    """Compile ``clocks.c`` once a process; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = Path(mkdtemp(prefix="chexnode-clocks-")) / "clocks.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    return library


def can_be_wrong() -> bool:
    """Whether clocks can be made wrong here: it takes a C compiler."""
    return _library() is not None


def wrong_by(seconds: int) -> Mapping[str, str]:
    """Variables that make a process's wall clock wrong by ``seconds``; needs :func:`can_be_wrong`."""
    return {"LD_PRELOAD": str(_library()), "CLOCK_SKEW": str(seconds)} if seconds else {}
