"""Strangers' pixels are decoded in child processes with limits; a child that crashes or overruns takes nothing along.

Children stay warm between images. See :mod:`chexnode.work.child` for what a child may do.
"""

from __future__ import annotations

import json
import math
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from chexmodels.part10 import LONG_ELEMENT, LONGEST_HEADER, DecodeError, parse, parse_file_meta, scan
from chexmodels.pixels import Geometry, Mode
from chexmodels.stats import PixelStats
from chexnode.errors import Refused, Transient
from chexnode.ledger.states import Reason
from chexnode.settings import LimitSettings
from chexnode.work.child import ANSWER
from chexnode.work.limits import read_limits
from chexnode.work.prepared import Prepared

_START_SECONDS = 60
_LONGEST_FACTS = 65_536
_LONGEST_DETAIL = 200
_LONGEST_DISPLAY = 2048 * 2048
#: A child is replaced after so many images, so that what codecs leak never adds up to its limit.
_LIFETIME = 1000


class ChildBug(Exception):
    """A bug in the decoding child: where it was, not what it was about."""


class _Died(Exception):
    """The child ended, or was ended, before it answered."""

    def __init__(self, returncode: int, overran: bool) -> None:
        super().__init__(returncode)
        self.returncode = returncode
        self.overran = overran


class _Child:
    """One decoding process and the pipes to it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        # The child finds the same packages as this process and inherits no variable, secret or descriptor of it
        environment = {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chexnode.work.child", json.dumps({**config, "parent": os.getpid()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,  # a Ctrl-C in the terminal is not for children
            pipesize=1_048_576,
        )
        self._longest = config["size"] ** 2 * 4 + _LONGEST_DISPLAY + LONGEST_HEADER + 2 * LONG_ELEMENT
        self.images = 0
        self._is_ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_worn_out(self) -> bool:
        return self.images >= _LIFETIME or self._process.poll() is not None

    def ask(self, path: Path, seconds: float) -> tuple[dict[str, Any], memoryview]:
        """Hand one path over and return the answer's facts and bytes.

        Raises :class:`_Died`, or Transient where the child never started.
        """
        if not self._is_ready:
            try:
                self._receive(time.monotonic() + _START_SECONDS)
            except _Died as death:
                raise Transient("a decoding child does not start") from death
            self._is_ready = True
        self.images += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"path": os.fspath(path)}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._end(overran=False) from None
        return self._receive(time.monotonic() + seconds)

    def _receive(self, deadline: float) -> tuple[dict[str, Any], memoryview]:
        facts_length, length = ANSWER.unpack(self._read(ANSWER.size, deadline))
        if facts_length > _LONGEST_FACTS or length > self._longest:
            raise self._end(overran=False)
        try:
            facts = json.loads(bytes(self._read(facts_length, deadline)))
        except ValueError:
            raise self._end(overran=False) from None
        if not isinstance(facts, dict):
            raise self._end(overran=False)
        return facts, self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> memoryview:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        content = rest = memoryview(bytearray(length))
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while rest:
            wait = deadline - time.monotonic()
            if wait <= 0 or not poll.poll(math.ceil(wait * 1000)):
                raise self._end(overran=True)
            count = os.readv(descriptor, [rest])
            if count == 0:
                raise self._end(overran=False)
            rest = rest[count:]
        return content

    def _end(self, overran: bool) -> _Died:
        try:
            # One that closed its pipe is ending by itself, and how it ends tells why
            returncode = self._process.wait(timeout=0 if overran else 5)
        except subprocess.TimeoutExpired:
            self.kill()
            returncode = self._process.returncode
        return _Died(returncode, overran)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # a request the child never read
                    continue


class Sandbox:
    """A pool of warm decoding processes; use as a context manager. Thread safe: one image at a time per child."""

    def __init__(self, limits: LimitSettings, size: int, mode: Mode, decoders: int) -> None:
        """``size`` and ``mode`` are the model's; ``decoders`` children are kept."""
        self._limits = limits
        self._read_limits = read_limits(limits)
        self._size, self._mode = size, mode
        self._decoders = decoders
        self._config = {
            "limits": asdict(self._read_limits),
            "size": size,
            "mode": mode,
            "memory": limits.decode_memory_mb,
            "seconds": math.ceil(limits.decode_seconds),
        }
        self._free: queue.SimpleQueue[_Child] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Start the children; they load their libraries while the caller goes on."""
        # The kernel ends a child when the thread that started it ends, so one lasting thread starts them all
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
        for _ in range(self._decoders):
            self._free.put(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for images in work, then end the children."""
        for _ in range(self._decoders):
            self._free.get().kill()
        self._starter.shutdown()

    def _start(self) -> _Child:
        return self._starter.submit(_Child, self._config).result()

    def prepare(self, path: Path) -> Prepared:
        """Decode the DICOM file at ``path`` and fit it to the model; waits for a free child.

        Raises :class:`Refused` (``undecodable``, ``pixel-size``, ``decode-limit``, ``malformed``, ``too-deep``,
        ``source-missing``), :class:`Transient` where the fault is this machine's, and :class:`ChildBug`.
        """
        path = path.absolute()  # the child works in another folder
        child = self._free.get()
        try:
            if child.is_worn_out():
                child.kill()
                child = self._start()
            while True:
                was_fresh = child.images == 0
                try:
                    facts, content = child.ask(path, self._limits.decode_seconds)
                except _Died as death:
                    child.kill()
                    child = self._start()
                    # An earlier image may have left the child sick; only a fresh one convicts
                    if was_fresh or death.overran:
                        raise _judgement(death) from None
                    continue
                if facts.get("exhausted") and not was_fresh:
                    child.kill()
                    child = self._start()
                    continue
                break
        finally:
            self._free.put(child)
        return self._prepared(facts, content)

    def _prepared(self, facts: dict[str, Any], content: memoryview) -> Prepared:
        if "transient" in facts:
            raise Transient(str(facts["transient"])[:_LONGEST_DETAIL])
        if "bug" in facts:
            raise ChildBug(str(facts["bug"]))
        try:
            if "refused" in facts:
                raise Refused(Reason(facts["refused"]), str(facts["detail"])[:_LONGEST_DETAIL])
            height, width = facts["display"]
            meta_length, header_length = facts["lengths"]
            ends = np.cumsum([self._size**2 * 4, height * width, meta_length, header_length])
            image, display, meta, header = (content[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
            file_meta = parse_file_meta(bytes(meta))
            scan(header, file_meta.TransferSyntaxUID, self._read_limits)
            stats = facts["stats"]
            return Prepared(
                np.frombuffer(image, np.float32).reshape(self._size, self._size),
                Geometry(facts["rows"], facts["columns"], self._size, self._mode),
                np.frombuffer(display, np.uint8).reshape(height, width),
                PixelStats(**{**stats, "turned": tuple(stats["turned"])}),
                tuple(facts["notes"]),
                parse(bytes(header), file_meta),
            )
        except (DecodeError, KeyError, TypeError, ValueError) as error:
            raise Refused(Reason.UNDECODABLE, "the decoding child gave no sensible answer") from error


def _judgement(death: _Died) -> Refused | Transient:
    """What the end of a child on its first image says of that image."""
    if death.overran:
        return Refused(Reason.DECODE_LIMIT, "decoding took too long")
    if death.returncode == -signal.SIGXCPU:
        return Refused(Reason.DECODE_LIMIT, "decoding took too much CPU time")
    if death.returncode == -signal.SIGKILL:  # by the kernel for lack of memory, or by a person
        return Transient("the decoding child was killed")
    if death.returncode < 0:
        return Refused(Reason.UNDECODABLE, f"the decoder crashed ({signal.Signals(-death.returncode).name})")
    return Refused(Reason.UNDECODABLE, "the decoding child ended without an answer")
