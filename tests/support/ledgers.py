"""A real ledger with made-up images, for tests of whatever stands on it. No DICOM, no files: rows only."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import make_url

from chexnode.ledger.database import Database
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.migrate import check_schema, upgrade
from chexnode.node import Node
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, Arrival, JobClaim, JobSpec, NewResult, Receipt, Verdict
from chexnode.vocabulary.states import InstanceState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import GspsForm, ResultKind, ScForm, SegForm, SrForm, Variant

SPEC = JobSpec("model 1", "a" * 64, "b" * 64)
OTHER_SPEC = JobSpec("model 2", "c" * 64, "b" * 64)
THIRD_SPEC = JobSpec("model 3", "d" * 64, "b" * 64)

ANALYSABLE = Verdict(InstanceState.ANALYSABLE)
NOT_ANALYSED = Verdict(InstanceState.NOT_ANALYSED, Reason.LATERAL_VIEW, "View Position is LL")
QUARANTINED = Verdict(InstanceState.QUARANTINED, Reason.MALFORMED, "ends at byte 512")

_numbers = itertools.count(1)
_SCHEMAS = Lock()
"""Threads of a test that open one new ledger at once."""


class CountingBell:
    """Remembers its rings."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str | None]] = []

    def ring(self, queue: str, argument: str | None = None) -> None:
        self.rung.append((queue, argument))

    @property
    def rings(self) -> list[str]:
        """The queue of each ring."""
        return [queue for queue, _ in self.rung]


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def make_schema(url: str) -> None:
    """Bring the database at ``url`` to this release's schema. A new file becomes a copy of one that has it: migrating
    takes ten times as long as most tests do."""
    name = make_url(url).database
    with _SCHEMAS:
        if url.startswith("sqlite") and name and not Path(name).exists():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(_with_schema())
            return
    with closing(Database(url)) as database:
        try:
            check_schema(database)
        except BadEnvironment:
            upgrade(database)


@cache
def _with_schema() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.db"
        with closing(Database(f"sqlite:///{file}")) as database:
            upgrade(database)
        return file.read_bytes()


@contextmanager
def opened(url: str, clock: Any = None) -> Iterator[Ledger]:
    """The ledger at ``url``, its schema made if need be."""
    make_schema(url)
    ledger = Ledger(url, clock)
    try:
        yield ledger
    finally:
        ledger.close()


def node_on(ledger: Ledger, settings: Settings, **parts: Any) -> Node:
    """A node with an open ``ledger``, whose bell rings nobody; ``parts`` replace others of its parts."""
    spool = Spool(settings.node.data_dir)
    spool.prepare()
    made: dict[str, Any] = {"spool": spool, "bell": CountingBell(), "spec": SPEC}
    return Node(settings, ledger, **(made | parts))


def arrival(sop_instance_uid: str | None = None, content: str = "", **facts: Any) -> Arrival:
    """An arrival with a fresh UID unless one is given; ``content`` decides its digest."""
    number = next(_numbers)
    uid = sop_instance_uid or f"1.2.3.{number}"
    digest = hashlib.sha256(f"{uid}{content}".encode()).hexdigest()
    made: dict[str, Any] = {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_instance_uid": f"1.2.3.{number}.1",
        "series_instance_uid": f"1.2.3.{number}.2",
        "path": f"spool/sources/20300102/03/{digest}-{number:08x}.dcm",
        "size": 1000,
        "calling_ae_title": "MODALITY",
        "address": "127.0.0.1",
        "verdict": ANALYSABLE,
    }
    return Arrival(sop_instance_uid=uid, digest=digest, **(made | facts))


def record(ledger: Ledger, *arrivals: Arrival, spec: JobSpec = SPEC) -> list[Receipt]:
    """Record ``arrivals``, or one fresh analysable one."""
    return ledger.instances.record(arrivals or (arrival(),), spec)


def claim(ledger: Ledger, owner: str = "worker", spec: JobSpec = SPEC) -> JobClaim:
    """Claim exactly one job."""
    (one,) = ledger.jobs.claim(owner, 1, spec)
    return one


_VARIANTS = {variant.kind: variant for variant in map(Variant, (SegForm(), ScForm(), SrForm(), GspsForm()))}


def results_for(job: JobClaim, kinds: Sequence[ResultKind] = (ResultKind.SEG, ResultKind.SC)) -> list[NewResult]:
    """Result rows as the worker would commit them."""
    return [
        NewResult(
            uid=f"2.25.{int(job.key[:24], 16)}{index}",
            variant=_VARIANTS[kind],
            sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
            sha256=hashlib.sha256(f"{job.key}{kind}".encode()).hexdigest(),
            path=f"spool/results/20300102/03/{job.key}-{kind}.dcm",
            size=500,
        )
        for index, kind in enumerate(kinds)
    ]


def complete(ledger: Ledger, job: JobClaim, *destinations: str, score: float = 0.9) -> list[NewResult]:
    """Finish ``job`` with a SEG and an SC to each destination, in place of what other versions of the image have."""
    made = results_for(job)
    analysis = Analysis(score, score > 0.5, int(score > 0.5), ())
    ends = {one.job: Supersession.REPLACED for one in ledger.sets.valid(job.sop_instance_uid) if one.job != job.id}
    ledger.jobs.complete(job, analysis, made, [(r.uid, d) for d in destinations for r in made], ends)
    return made
