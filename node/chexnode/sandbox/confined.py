"""The inside of a sandbox: a process of its own that answers requests, and can do little else.

Requests are lines of JSON on standard input; an answer is two big-endian lengths, JSON, and raw bytes. No pickles: the
parent must be able to read the answer of a child that a hostile image has taken over.

What holds everywhere: address space (``RLIMIT_AS``), CPU time of each request (``RLIMIT_CPU``), no content of files
written (``RLIMIT_FSIZE``), no core dumps, few descriptors, no privileges gained by exec, death with the parent. What
:mod:`chexnode.sandbox.confinement` adds depends on the kernel. It can still read what its user can read.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct
from typing import Any

from chexnode.sandbox.confinement import confine
from chexnode.vocabulary.reasons import Reason

ANSWER = Struct(">IQ")
"""Lengths of the JSON and of the bytes behind it."""

Reply = tuple[dict[str, Any], Sequence[memoryview | bytes]]
"""The JSON of an answer and the bytes behind it."""

Handler = Callable[[dict[str, Any]], Reply]
"""Request -> answer. Whatever it raises becomes an answer too."""


def serve(argument: str, load: Callable[[dict[str, Any]], Handler]) -> None:
    """Answer requests until standard input closes.

    ``argument``: the configuration as JSON. ``load`` makes the handler from it and imports all that it needs: the
    network must be gone before any library runs, and the limit of memory counts from when they are there.
    """
    config = json.loads(argument)
    answers = _own_standard_output()
    confinement = confine(config["parent"])
    handle = load(config)
    _limit_memory(config["memory"])
    _answer(answers, {"ready": True, "confinement": confinement}, [])
    for line in sys.stdin.buffer:
        _limit_cpu(config["seconds"])
        _answer(answers, *_handled(handle, json.loads(line)))


def _handled(handle: Handler, request: dict[str, Any]) -> Reply:
    from chexmodels.dicom.errors import DecodeError

    try:
        return handle(request)
    except DecodeError as error:
        return {"refused": Reason(error.failure), "detail": error.detail}, []
    except MemoryError:
        return {"refused": Reason.DECODE_LIMIT, "detail": "out of memory", "exhausted": True}, []
    except FileNotFoundError:
        return {"refused": Reason.SOURCE_MISSING, "detail": "the stored file is gone"}, []
    except OSError as error:
        return {"transient": f"the stored file cannot be read: {error.strerror}"}, []
    except Exception as error:
        # A bug. The message is left out: it may quote the data set, and this goes into the ledger.
        return {"bug": type(error).__name__ + "\n" + "".join(traceback.format_tb(error.__traceback__))}, []


def _answer(answers: int, facts: dict[str, Any], pieces: Sequence[memoryview | bytes]) -> None:
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


def _limit_memory(megabytes: int) -> None:
    """Allow ``megabytes`` of address space above what this process has now, its libraries loaded."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_cpu(seconds: int) -> None:
    """Allow ``seconds`` more of CPU time; the kernel then ends this process by SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))
