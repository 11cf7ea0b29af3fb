"""Things that break: the faults, when each strikes, and what was counted.

A *target* is what faults strike one at a time: a server, a disk. Each target has a thread of its own, so that different
targets fail at the same time as chance will have it. When a fault strikes and for how long is drawn from a seed and the
target's name alone; what happens to be going on at that moment is not, so that a seed repeats the blows, not the run.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psutil
from sqlalchemy import text

from chexnode.ledger import backup
from chexnode.ledger.database import Database
from chexnode.ledger.schema import metadata
from chexnode.vocabulary.errors import Transient
from support.disks import SmallDisk
from support.frozen import freeze, thaw
from support.nodes import Node, Process
from support.servers import Orthanc, Postgres, Redis, Server

Seconds = tuple[float, float]
"""Least and most."""


class Fault(Protocol):
    """One thing that goes wrong and is put right again."""

    name: str
    lasts: Seconds

    def strike(self, draw: random.Random) -> None:
        """Break it."""

    def heal(self) -> bool:
        """Put it right; False if that has to be tried again."""


class Kill:
    """``kill -9``; whoever looks after the service starts it again until it stays up."""

    def __init__(self, server: Server, lasts: Seconds) -> None:
        self.name, self.lasts = f"{server.name} killed", lasts
        self._server = server

    def strike(self, draw: random.Random) -> None:
        self._server.kill()

    def heal(self) -> bool:
        return started(self._server)


class WrongClock(Kill):
    """The host of a role comes back with a wall clock that is wrong by up to so many seconds, behind or ahead."""

    def __init__(self, role: Process, lasts: Seconds, behind: int, ahead: int) -> None:
        super().__init__(role, lasts)
        self.name = f"{role.name} given a wrong clock"
        self._role, self._skews = role, (-behind, ahead)

    def strike(self, draw: random.Random) -> None:
        super().strike(draw)
        self._role.clock_skew = draw.randint(*self._skews)


class Freeze:
    """SIGSTOP: connections stay open, the kernel goes on acknowledging bytes, and nobody answers."""

    def __init__(self, postgres: Postgres, lasts: Seconds) -> None:
        self.name, self.lasts = f"{postgres.name} frozen", lasts
        self._postgres = postgres
        self._processes: list[psutil.Process] = []

    def strike(self, draw: random.Random) -> None:
        self._processes = freeze(self._postgres)

    def heal(self) -> bool:
        thaw(self._processes)
        return True


class LoseRows:
    """A failover to a copy of the database that is ``lasts`` seconds old while every role goes on, then ``recover``."""

    def __init__(self, node: Node, folder: Path, lasts: Seconds) -> None:
        self.name, self.lasts = "database restored to an older copy", lasts
        self._node, self._folder = node, folder
        self._url = node.tables["database"]["url"]
        self._number = 0
        self._is_copied = self._is_restored = False
        self.lock = threading.Lock()
        """Held from the copy until everything of it is recorded again."""

    def strike(self, draw: random.Random) -> None:
        self.lock.acquire()
        self._number += 1
        self._is_copied = self._is_restored = False
        self._copy()

    def heal(self) -> bool:
        """Each step is done once; what the database was too ill for is tried again."""
        if not self._is_copied:
            self._copy()
        elif not self._is_restored:
            self._restore()
        elif self._node.run("recover", check=False).returncode == 0:
            self.lock.release()
            return True
        return False

    def _copy(self) -> None:
        folder = self._folder / str(self._number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with closing(Database(self._url)) as database, suppress(Transient):
            backup.save(database, folder)
            self._is_copied = True

    def _restore(self) -> None:
        tables = ", ".join(table.name for table in metadata.sorted_tables)
        with closing(Database(self._url)) as database, suppress(Transient), database.write() as conn:
            conn.execute(text(f"TRUNCATE {tables}"))
            backup.fill(conn, self._folder / str(self._number))
            self._is_restored = True


class FlushRedis:
    """Every message is forgotten, those that workers have reserved too."""

    name, lasts = "redis flushed", (0.0, 0.0)

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def strike(self, draw: random.Random) -> None:
        assert self._redis.ask(b"FLUSHALL").startswith(b"+OK")

    def heal(self) -> bool:
        return True


class FillDisk:
    """Somebody else's file takes all room, or leaves room for a part of a file."""

    def __init__(self, disk: SmallDisk, owner: str, lasts: Seconds) -> None:
        self.name, self.lasts = f"{owner}'s disk filled", lasts
        self._disk = disk

    def strike(self, draw: random.Random) -> None:
        self._disk.fill(leave=draw.choice([0, draw.randint(0, 700_000)]))

    def heal(self) -> bool:
        self._disk.drain()
        return True


class RefuseAssociations:
    """The PACS comes back under another AE title and refuses whoever calls it by the old one."""

    def __init__(self, orthanc: Orthanc, lasts: Seconds) -> None:
        self.name, self.lasts = f"{orthanc.name} refusing", lasts
        self._orthanc = orthanc
        self._right = orthanc.config.read_text()

    def strike(self, draw: random.Random) -> None:
        wrong = {"DicomAet": "ELSEWHERE", "DicomCheckCalledAet": True}
        self._orthanc.kill()
        self._orthanc.config.write_text(json.dumps(json.loads(self._right) | wrong))
        self._orthanc.start()

    def heal(self) -> bool:
        self._orthanc.kill()
        self._orthanc.config.write_text(self._right)
        return started(self._orthanc)


@dataclass(frozen=True, slots=True)
class Blow:
    """One strike of a fault."""

    after: float
    """Seconds since everything of this target was well."""
    fault: Fault
    lasts: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Target:
    """What can break in different ways, one at a time. ``rests``: how long it is left alone in between."""

    name: str
    faults: Sequence[Fault]
    rests: Seconds
    server: Server | None = None
    """Its process, which must not end by itself."""

    def blows(self, draw: random.Random) -> Iterator[Blow]:
        """Each fault once in random order, then again, for ever."""
        while True:
            for fault in draw.sample(self.faults, len(self.faults)):
                yield Blow(draw.uniform(*self.rests), fault, draw.uniform(*fault.lasts))


@dataclass
class Tally:
    """What happened."""

    strikes: Counter[str] = field(default_factory=Counter)
    deaths: list[str] = field(default_factory=list)
    """Processes that ended by themselves, and what they wrote last."""
    errors: list[BaseException] = field(default_factory=list)
    """Of the faults themselves."""
    history: list[str] = field(default_factory=list)
    """One line for each strike and recovery."""


class Chaos:
    """Strikes from its start until :meth:`end`, and then puts everything right."""

    def __init__(self, targets: Sequence[Target], seed: str, slowness: float = 1.0) -> None:
        """``slowness``: how much longer than drawn everything is left alone in between, for a machine that is busy."""
        self.tally = Tally()
        self._targets, self._seed, self._slowness = targets, seed, slowness
        self._over = threading.Event()
        self._started = 0.0
        self._threads = [threading.Thread(target=self._guarded, args=(t,), name=t.name) for t in targets]

    def has_struck_everywhere(self) -> bool:
        """Whether each fault has struck at least once."""
        if self.tally.errors:
            raise self.tally.errors[0]
        return all(self.tally.strikes[fault.name] for target in self._targets for fault in target.faults)

    def end(self) -> None:
        """Strike no more; return when everything is up again. Raises what went wrong in a fault itself."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self.tally.errors:
            raise self.tally.errors[0]

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, target: Target) -> None:
        try:
            self._work_on(target)
        except BaseException as error:
            self.tally.errors.append(error)

    def _work_on(self, target: Target) -> None:
        draw = random.Random(f"{self._seed} {target.name}")
        for blow in target.blows(draw):
            if self._rest(target, blow.after * self._slowness):
                return
            self._note(f"{blow.fault.name} for {blow.lasts:.1f} s")
            blow.fault.strike(draw)
            self.tally.strikes[blow.fault.name] += 1
            self._over.wait(blow.lasts)
            while not blow.fault.heal():
                time.sleep(0.5)
            self._note(f"{target.name} well again")

    def _rest(self, target: Target, seconds: float) -> bool:
        """Leave ``target`` alone, but see that it lives; True if it is over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._over.wait(min(left, 0.2)):
            process = target.server.process if target.server else None
            if target.server and process and process.poll() is not None:
                self._note(f"{target.name} ended by itself with {process.returncode}")
                self.tally.deaths.append(f"{target.name}: {process.returncode}\n{target.server.output(3000)}")
                target.server.kill()
                while not started(target.server):
                    time.sleep(0.5)
        return self._over.is_set()

    def _note(self, what: str) -> None:
        self.tally.history.append(f"{time.monotonic() - self._started:7.1f} s  {what}")


def started(server: Server) -> bool:
    """Try to start; False if it ended again, as a role does whose database is away."""
    with suppress(AssertionError):
        server.start()
        return True
    return False
