"""What the overview shows: read from the ledger once for all who look, however many they are."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass
from datetime import datetime

from chexnode.ledger.account import Account
from chexnode.ledger.alarms import AlarmView
from chexnode.ledger.overview import Overview
from chexnode.node import Duty, Node, WorkerView

_FRESH_SECONDS = 2.0
_ACCOUNT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of ``data_dir``."""

    free: int
    size: int
    """Bytes."""
    refusing: bool
    """Whether images are refused because it is low."""

    @property
    def used(self) -> float:
        """The share that is taken."""
        return 1 - self.free / self.size if self.size else 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at the whole node."""

    overview: Overview
    account: Account
    duties: dict[Duty, bool]
    workers: list[WorkerView]
    alarms: list[AlarmView]
    """What is wrong and was reported."""
    disk: Disk | None
    """None where ``data_dir`` is not there."""


class Snapshots:
    """Takes them, at most one every two seconds. Thread safe."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._names = [destination.name for destination in node.settings.destination]
        self._lock = threading.Lock()
        self._latest: tuple[float, Snapshot] | None = None
        self._account: tuple[float, Account] | None = None

    def latest(self) -> Snapshot:
        """A snapshot that is no older than two seconds. Raises Transient while the database is away."""
        with self._lock:
            if self._latest is None or time.monotonic() - self._latest[0] > _FRESH_SECONDS:
                snapshot = self._take()
                self._latest = time.monotonic(), snapshot
            return self._latest[1]

    def forget(self) -> None:
        """Somebody has just changed something: the next look is a new one."""
        with self._lock:
            self._latest = None

    def _take(self) -> Snapshot:
        ledger = self._node.ledger
        if self._account is None or time.monotonic() - self._account[0] > _ACCOUNT_SECONDS:
            self._account = time.monotonic(), ledger.accounts.account()
        midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        overview = ledger.overviews.look(midnight, self._names)
        node = self._node
        return Snapshot(overview, self._account[1], node.duties(), node.workers(), ledger.alarms.list(), self._disk())

    def _disk(self) -> Disk | None:
        settings = self._node.settings
        try:
            usage = shutil.disk_usage(settings.node.data_dir)
            return Disk(usage.free, usage.total, not self._node.spool.has_room(settings.disk))
        except OSError:
            return None
