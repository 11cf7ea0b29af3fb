"""The decoding child: a process of its own that reads paths and answers with prepared images, and can do little else.

Started by :mod:`chexnode.work.sandbox` as ``python -m chexnode.work.child CONFIG``. Requests are lines of JSON on
standard input; an answer is two big-endian lengths, JSON, and raw bytes. No pickles: the parent must be able to read
the answer of a child that a hostile image has taken over.

What holds: address space (``RLIMIT_AS``), CPU time of each image (``RLIMIT_CPU``), no files written (``RLIMIT_FSIZE``),
no core dumps, few descriptors, no privileges gained by exec, death with the parent, and, where the kernel allows user
namespaces, no network. It can still read what the worker's user can read.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from struct import Struct
from typing import Any

ANSWER = Struct(">IQ")
"""Lengths of the JSON and of the bytes behind it."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_MOST_DESCRIPTORS = 24


def main(argv: Sequence[str]) -> None:
    """Serve requests until standard input closes."""
    config = json.loads(argv[1])
    answers = _own_standard_output()
    network = _confine(config["parent"])
    # Only now: the network must be gone before any library runs, and threads would forbid leaving it
    from chexmodels.part10 import ReadLimits

    limits = ReadLimits(**config["limits"])
    _limit_memory(config["memory"])
    _answer(answers, {"ready": True, "network": network}, [])
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_cpu(config["seconds"])
        _answer(answers, *_prepare(Path(request["path"]), config["size"], config["mode"], limits))


def _prepare(path: Path, size: int, mode: Any, limits: Any) -> tuple[dict[str, Any], list[memoryview | bytes]]:
    """Return the answer's JSON and bytes for one file."""
    from chexmodels.part10 import LONGEST_HEADER, DecodeError, read
    from chexnode.work.prepared import prepare_file

    try:
        part10 = read(path.read_bytes(), limits)
        header = part10.header()
        if len(header) > LONGEST_HEADER:
            return {"refused": "malformed", "detail": f"a header of {len(header)} bytes"}, []
        prepared = prepare_file(part10, size, mode, limits)
    except DecodeError as error:
        return {"refused": error.code, "detail": error.detail}, []
    except MemoryError:
        return {"refused": "decode-limit", "detail": "out of memory", "exhausted": True}, []
    except FileNotFoundError:
        return {"refused": "source-missing", "detail": "the stored file is gone"}, []
    except OSError as error:
        return {"transient": f"the stored file cannot be read: {error.strerror}"}, []
    except Exception as error:
        # A bug. The message is left out: it may quote the data set, and this goes into the ledger.
        return {"bug": type(error).__name__ + "\n" + "".join(traceback.format_tb(error.__traceback__))}, []
    facts = {
        "rows": prepared.geometry.rows,
        "columns": prepared.geometry.columns,
        "display": prepared.display.shape,
        "stats": asdict(prepared.stats),
        "notes": prepared.notes,
        "lengths": [len(part10.encoded_file_meta), len(header)],
    }
    return facts, [
        prepared.image.data.cast("B"),
        prepared.display.data.cast("B"),
        part10.encoded_file_meta,
        header,
    ]


def _answer(answers: int, facts: dict[str, Any], pieces: list[memoryview | bytes]) -> None:
    encoded = json.dumps(facts).encode()
    for piece in (ANSWER.pack(len(encoded), sum(len(piece) for piece in pieces)), encoded, *pieces):
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(answers, rest) :]
    if facts.get("exhausted"):
        sys.exit(0)  # what a failed decoder leaves behind counts against the next image


def _own_standard_output() -> int:
    """Keep standard output for answers only: codecs print to it."""
    answers = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return answers


def _confine(parent: int) -> str:
    """Leave the network, tie this process to its parent and take rights away. Returns ``none`` or ``shared``."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)  # it died before the line above
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    isolated = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWNET) == 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_DESCRIPTORS, _MOST_DESCRIPTORS))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    return "none" if isolated else "shared"


def _limit_memory(megabytes: int) -> None:
    """Allow ``megabytes`` of address space above what this process has now, its libraries loaded."""
    with contextlib.suppress(ImportError):
        import openjpeg  # noqa: F401  (loaded by the first JPEG 2000 image otherwise)
    import chexnode.work.prepared  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_cpu(seconds: int) -> None:
    """Allow ``seconds`` more of CPU time; the kernel then ends this process by SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))


if __name__ == "__main__":
    main(sys.argv)
