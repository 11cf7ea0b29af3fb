"""A pool of warm child processes that answer requests about files; see :mod:`chexnode.sandbox.confined`.

A crash convicts a file only in a fresh child; a used child's crash is tried once more.
"""

from __future__ import annotations

import json
import logging
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
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from chexnode.sandbox.confined import ANSWER
from chexnode.sandbox.limits import read_limits
from chexnode.settings.limits import LimitSettings
from chexnode.vocabulary.errors import Refused, Transient
from chexnode.vocabulary.reasons import Reason

log = logging.getLogger(__name__)

_START_SECONDS = 60
_LONGEST_FACTS = 65_536
_LONGEST_DETAIL = 200
#: A child is replaced after so many requests, so that what codecs leak never adds up to its limit.
_LIFETIME = 1000


class NoChild(Transient):
    """This machine does not start a child, out of memory or of processes as it is: no file has been looked at."""


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

    def __init__(self, module: str, config: Mapping[str, Any]) -> None:
        # The child finds the same packages as this process and inherits no variable, secret or descriptor of it
        environment = {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps({**config, "parent": os.getpid()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,  # a process group of its own; a Ctrl-C in the terminal is not for children
            pipesize=1_048_576,
        )
        self.requests = 0
        self._confinement: dict[str, str] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_worn_out(self) -> bool:
        return self.requests >= _LIFETIME or self._process.poll() is not None

    def confinement(self) -> dict[str, str]:
        """What keeps it from doing harm (:func:`chexnode.sandbox.confinement.confine`); waits until it is ready.

        Raises :class:`NoChild` where it never is.
        """
        if self._confinement is None:
            try:
                facts, _ = self._receive(0, time.monotonic() + _START_SECONDS)
            except _Died as death:
                raise NoChild("a decoding child does not start") from death
            self._confinement = {str(key): str(value) for key, value in facts["confinement"].items()}
            if self._confinement["network"] != "none":
                log.warning("a decoding child shares this machine's network: `chexnode check` says what confines it")
        return self._confinement

    def ask(self, request: Mapping[str, Any], longest: int, seconds: float) -> tuple[dict[str, Any], memoryview]:
        """Hand one request over and return the answer's facts and bytes, at most ``longest`` of these.

        Raises :class:`_Died`, or :class:`NoChild` where the child never started.
        """
        self.confinement()
        self.requests += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._end(overran=False) from None
        return self._receive(longest, time.monotonic() + seconds)

    def _receive(self, longest: int, deadline: float) -> tuple[dict[str, Any], memoryview]:
        facts_length, length = ANSWER.unpack(self._read(ANSWER.size, deadline))
        if facts_length > _LONGEST_FACTS or length > longest:
            raise self._end(overran=False)
        try:
            facts = json.loads(bytes(self._read(facts_length, deadline)))
        except (ValueError, RecursionError):
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
        """End it, and whatever it may have started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # a request the child never read
                    continue


class Pool:
    """Warm children of one module; use as a context manager. Thread safe: one request at a time per child."""

    def __init__(
        self, module: str, limits: LimitSettings, children: int, config: Mapping[str, Any], *, eager: bool = True
    ) -> None:
        """``module`` is run with ``config`` and the limits; unless ``eager`` a child is started when it is needed."""
        self._module, self._seconds, self._children, self._eager = module, limits.decode_seconds, children, eager
        self._config = {
            "limits": asdict(read_limits(limits)),
            "memory": limits.decode_memory_mb,
            "seconds": math.ceil(limits.decode_seconds),
            **config,
        }
        self._free: queue.SimpleQueue[_Child | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Start the children; they load their libraries while the caller goes on."""
        # The kernel ends a child when the thread that started it ends, so one lasting thread starts them all
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
        for _ in range(self._children):
            self._free.put(self._ahead())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for what is in work, then end the children."""
        for _ in range(self._children):
            if (child := self._free.get()) is not None:
                child.kill()
        self._starter.shutdown()

    def _start(self) -> _Child:
        """Raises :class:`NoChild`."""
        try:
            return self._starter.submit(_Child, self._module, self._config).result()
        except OSError as error:
            raise NoChild(f"a decoding child cannot be started: {error.strerror}") from error

    def _ahead(self) -> _Child | None:
        """A child before there is a request for it; one that cannot be started now is started when it is needed."""
        if not self._eager:
            return None
        try:
            return self._start()
        except NoChild:
            return None

    def confinement(self) -> dict[str, str]:
        """What keeps a child from doing harm. Raises :class:`NoChild`."""
        child = self._free.get()
        try:
            child = child or self._start()
            return child.confinement()
        finally:
            self._free.put(child)

    def ask(self, request: Mapping[str, Any], longest: int) -> tuple[dict[str, Any], memoryview]:
        """Return what a child answers, its facts and at most ``longest`` bytes; waits for a free child.

        Raises :class:`Refused` (``undecodable``, ``pixel-size``, ``decode-limit``, ``malformed``, ``too-deep``,
        ``source-missing``), :class:`Transient` where the fault is this machine's, :class:`NoChild` among them, and
        :class:`ChildBug`.
        """
        child = self._free.get()
        try:
            if child is not None and child.is_worn_out():
                child.kill()
                child = None
            while True:
                child = child or self._start()
                was_fresh = child.requests == 0
                try:
                    facts, content = child.ask(request, longest, self._seconds)
                except _Died as death:
                    child.kill()
                    child = self._ahead()
                    # An earlier request may have left the child sick; only a fresh one convicts
                    if was_fresh or death.overran:
                        raise _judgement(death) from None
                    continue
                if facts.get("exhausted") and not was_fresh:
                    child.kill()
                    child = None
                    continue
                break
        finally:
            self._free.put(child)
        return _unless_fault(facts), content


def _unless_fault(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts, unless they are a fault."""
    if "transient" in facts:
        raise Transient(str(facts["transient"])[:_LONGEST_DETAIL])
    if "bug" in facts:
        raise ChildBug(str(facts["bug"]))
    if "refused" in facts:
        try:
            reason, detail = Reason(facts["refused"]), str(facts["detail"])[:_LONGEST_DETAIL]
        except (KeyError, ValueError) as error:
            raise Refused(Reason.UNDECODABLE, "the decoding child gave no sensible answer") from error
        raise Refused(reason, detail)
    return facts


def _judgement(death: _Died) -> Refused | Transient:
    """What the end of a child on its first request says of that file."""
    if death.overran:
        return Refused(Reason.DECODE_LIMIT, "decoding took too long")
    if death.returncode == -signal.SIGXCPU:
        return Refused(Reason.DECODE_LIMIT, "decoding took too much CPU time")
    if death.returncode == -signal.SIGKILL:  # by the kernel for lack of memory, or by a person
        return Transient("the decoding child was killed")
    if death.returncode < 0:
        return Refused(Reason.UNDECODABLE, f"the decoder crashed ({signal.Signals(-death.returncode).name})")
    return Refused(Reason.UNDECODABLE, "the decoding child ended without an answer")
