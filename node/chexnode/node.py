"""An opened node: what every role stands on, opened once by :meth:`Node.open` and passed on as one argument.

Imports neither torch nor celery: receivers and the web role open a node too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from chexmodels.bundle import BundleError, digest, find, read_card
from chexnode.audit.trail import OFF, Trail, open_trail
from chexnode.ledger.ledger import Ledger
from chexnode.queue.bell import Bell
from chexnode.settings.model import ModelSettings
from chexnode.settings.tree import Settings
from chexnode.spool import identity
from chexnode.spool.spool import Spool
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.vocabulary.records import JobSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A process that analyses."""

    owner: str
    """Its host and process number."""
    device: str
    """That its model runs on: ``cpu``, ``cuda:0``."""


class Rings(Protocol):
    """What tells workers to look for work. Ringing never blocks and never raises; a lost ring costs latency only."""

    def ring(self, queue: str, argument: str | None = None) -> None:
        """Make the workers of ``queue`` look, at what ``argument`` names if the queue has several such things."""


BEAT_SECONDS = 10.0
"""Between two signs of life of a process."""

_LIVE = "live/"
_WORKER = "worker/"


class Duty(StrEnum):
    """What some process of the node must do for images to get through."""

    RECEIVE = "receiver"
    INFER = "workers"
    DELIVER = "deliverers"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A model that is tried on images beside the one whose results are delivered."""

    settings: ModelSettings
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Node:
    """Settings and everything that they name, open. Thread safe."""

    settings: Settings
    ledger: Ledger
    spool: Spool
    bell: Rings
    spec: JobSpec
    """Which analysis new images get."""
    trail: Trail = OFF
    """The audit trail of this process."""
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}")
    """In whose name this process takes leases."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when this process is to finish what it has begun and to begin nothing more."""
    shadows: tuple[Shadow, ...] = ()
    """Models on trial whose bundles can be read."""

    @property
    def offered(self) -> dict[str, JobSpec]:
        """Name of each model in the settings -> its analysis; that which delivers comes first."""
        return {self.settings.model.name: self.spec} | {one.settings.name: one.spec for one in self.shadows}

    def report_alive(self, duty: Duty) -> None:
        """Let the web role know that a process with this ``duty`` lives; to be repeated every :data:`BEAT_SECONDS`.

        One row for each duty, however many processes have it. Raises Transient when the database is away.
        """
        self.ledger.leases.take(f"{_LIVE}{duty}", self.owner, 3 * BEAT_SECONDS)

    def report_worker(self, device: str) -> None:
        """Let the web role know that this process analyses, and on what; to be repeated as :meth:`report_alive`."""
        host, process, _ = self.owner.rsplit(":", 2)
        self.ledger.leases.take(f"{_WORKER}{device}/{host[:80]}:{process}", self.owner, 3 * BEAT_SECONDS)
        self.ledger.leases.drop_ended(_WORKER)

    def workers(self) -> list[WorkerView]:
        """The processes that analyse, by host. Raises Transient when the database is away."""
        live = (name.partition("/") for name in self.ledger.leases.live(_WORKER))
        return sorted((WorkerView(owner, device) for device, _, owner in live), key=lambda one: one.owner)

    def duties(self) -> dict[Duty, bool]:
        """Whether some process with each duty lives. Raises Transient when the database is away."""
        live = self.ledger.leases.live(_LIVE)
        return {duty: duty in live for duty in Duty}

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, role: str, *, recovering: bool = False) -> Iterator[Node]:
        """Open the node for one process, a ``role`` of it or a command, and close it on exit.

        Raises BadEnvironment if the model cannot serve these settings, the database is not at this release's schema,
        ``data_dir`` is not the folder that the database knows or (unless ``recovering``) holds what a new database does
        not know, or TLS files of the audit collector are unfit.
        """
        spec = job_spec(settings)
        with ExitStack() as stack:
            ledger = Ledger(settings.database.url)
            stack.callback(ledger.close)
            identity.prove(settings.node.data_dir, ledger.files, recovering=recovering)
            spool = Spool(settings.node.data_dir)
            spool.prepare()
            trail = stack.enter_context(open_trail(settings, role))
            bell = Bell(settings.broker.url, settings.node.data_dir)
            stack.callback(bell.close)
            yield cls(settings, ledger, spool, bell, spec, trail, shadows=tuple(_shadows(settings)))


def _shadows(settings: Settings) -> Iterator[Shadow]:
    """Those that can be read: a model on trial never keeps the node from its work."""
    for one in settings.shadow:
        try:
            yield Shadow(one, job_spec(settings, one))
        except BadEnvironment as error:
            log.error("the model %s is not tried: %s", one.name, error)


def job_spec(settings: Settings, model: ModelSettings | None = None) -> JobSpec:
    """The analysis by ``model``, or by that which delivers: its digest and the settings that change a result.

    Raises BadEnvironment if the configured bundle cannot serve these settings.
    """
    model = model or settings.model
    try:
        folder = find(model.bundle)
        card = read_card(folder)
        model_digest = digest(folder)
    except BundleError as error:
        raise BadEnvironment(str(error)) from error
    if model.operating_point not in card.operating_points:
        known = ", ".join(sorted(card.operating_points))
        raise BadEnvironment(f"{card.title} has no operating point {model.operating_point!r}, only {known}")
    # Only what changes the analysis; destinations and names do not.
    relevant = {"operating_point": model.operating_point}
    settings_digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
    return JobSpec(card.title, model_digest, settings_digest)
