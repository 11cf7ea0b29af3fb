"""``/metrics`` for Prometheus, read from the ledger at every scrape: no role keeps counters of its own.

Labels are states, codes and the names of destinations and models. Nothing about a patient, a study or a peer is ever
a label.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version

from fastapi import APIRouter, Depends, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.registry import Collector

from chexnode.audit.spool import AuditSpool
from chexnode.ledger.account import Account, Tally
from chexnode.ledger.drift import FRESH_SECONDS, DriftWindow
from chexnode.ledger.views import Backlog
from chexnode.node import Node
from chexnode.spool.spool import Spool
from chexnode.vocabulary.errors import NodeError, Transient
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.reports import Drift
from chexnode.vocabulary.scopes import TokenScope
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState
from chexnode.vocabulary.variants import ResultKind
from chexnode.web.auth import require
from chexnode.web.histograms import Histograms

#: name -> (what it says, its labels). A name ending in ``_total`` is a counter, ``_info`` an info, all others gauges.
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "chexnode_info": ("The software version.", ("version",)),
    "chexnode_ledger_up": ("1 if the ledger could be read at this scrape; the ledger's metrics are absent if not.", ()),
    "chexnode_duty_up": ("1 while a process lives that is the receiver, analyses or delivers.", ("duty",)),
    "chexnode_instances_received_total": ("Distinct instance versions acknowledged.", ()),
    "chexnode_duplicates_total": ("Acknowledged instances whose very bytes were known.", ()),
    "chexnode_own_results_total": ("Our own results that came back and were dropped.", ()),
    "chexnode_instances": ("Instance versions by verdict and reason.", ("state", "reason")),
    "chexnode_jobs": ("Jobs by state and, if REFUSED or SKIPPED, reason.", ("state", "reason")),
    "chexnode_database_clock_skew_seconds": ("How far the database's clock is ahead of this host's.", ()),
    "chexnode_notes": ("Images by what was noted about them.", ("note",)),
    "chexnode_deliveries": ("Deliveries by destination, kind of result and state.", ("destination", "kind", "state")),
    "chexnode_destination_breaker_open": ("1 while a destination is left alone after failures.", ("destination",)),
    "chexnode_destination_paused": ("1 while a person wants nothing sent to a destination.", ("destination",)),
    "chexnode_account_difference": ("Acknowledged images that the account cannot explain; not 0 is a bug.", ()),
    "chexnode_oldest_queued_seconds": ("Age of the oldest QUEUED job; 0 if there is none.", ()),
    "chexnode_drift_psi": (
        "Population stability index of recent images against the baseline, the highest of stations and callers.",
        ("model", "statistic"),
    ),
    "chexnode_drift_shifted": ("Stations and callers of a model with a statistic that has shifted.", ("model",)),
    "chexnode_audit_waiting": ("Audit messages that wait for the collector.", ()),
    "chexnode_audit_lost_total": ("Audit messages dropped, because the spool was full or no place to write.", ()),
    "chexnode_disk_free_bytes": ("Free space where data_dir is.", ()),
    "chexnode_disk_size_bytes": ("Size of the file system where data_dir is.", ()),
    "chexnode_disk_refusing": ("1 while images are refused because the disk is low; work goes on.", ()),
}

_Samples = Iterable[tuple[tuple[str, ...], float]]


def router(node: Node) -> APIRouter:
    """The one route."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(node))
    histograms = Histograms(node.ledger, registry)
    with suppress(Transient):  # else they begin with the first scrape that finds the database
        histograms.start()
    routes = APIRouter(dependencies=[Depends(require(TokenScope.READ))])

    @routes.get("/metrics", tags=["metrics"], response_class=Response)
    def metrics() -> Response:
        """The Prometheus text format."""
        with suppress(Transient):  # chexnode_ledger_up says so
            histograms.update()
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_1_0_0)

    return routes


class LedgerCollector(Collector):
    """Turns the ledger's counts into metric families."""

    def __init__(self, node: Node) -> None:
        settings, ledger = node.settings, node.ledger
        self._node = node
        self._data_dir, self._disk = settings.node.data_dir, settings.disk
        self._spool = Spool(self._data_dir)
        self._destinations = [d.name for d in settings.destination]
        self._ledger = ledger
        self._audit = AuditSpool(settings.node.data_dir)

    def describe(self) -> Iterator[Metric]:
        """Names without values, so that registering does not read the ledger."""
        for name in METRICS:
            yield _family(name, [])

    def collect(self) -> Iterator[Metric]:
        """Read the ledger once."""
        yield _family("chexnode_info", [((version("chexnode"),), 1)])
        try:
            disk = shutil.disk_usage(self._data_dir)
            yield _family("chexnode_disk_free_bytes", [((), disk.free)])
            yield _family("chexnode_disk_size_bytes", [((), disk.total)])
            yield _family("chexnode_disk_refusing", [((), float(not self._spool.has_room(self._disk)))])
        except OSError:
            pass  # readiness tells; the rest is still worth having
        yield _family("chexnode_audit_waiting", [((), len(self._audit.waiting()))])
        yield _family("chexnode_audit_lost_total", [((), self._audit.losses[0])])
        try:
            tally, backlog = self._ledger.accounts.tally(), self._ledger.views.backlog()
            duties = self._node.duties()
            drift = self._node.settings.drift
            found = self._ledger.drifts.look(DriftWindow(drift.days, drift.images, drift.psi), FRESH_SECONDS)
        except NodeError:
            yield _family("chexnode_ledger_up", [((), 0)])
            return
        yield _family("chexnode_ledger_up", [((), 1)])
        yield _family("chexnode_database_clock_skew_seconds", [((), self._ledger.database.skew().total_seconds())])
        yield _family("chexnode_duty_up", [((duty,), alive) for duty, alive in duties.items()])
        yield from _of_account(tally.account())
        yield from _of_tally(tally)
        yield from self._of_backlog(backlog)
        yield from _of_drift(found)

    def _of_backlog(self, backlog: Backlog) -> Iterator[Metric]:
        names = sorted({*self._destinations, *(name for name, _, _ in backlog.deliveries)})
        yield _family(
            "chexnode_deliveries",
            (
                ((name, kind, state), backlog.deliveries.get((name, kind, state), 0))
                for name in names
                for kind in ResultKind
                for state in DeliveryState
            ),
        )
        yield _family(
            "chexnode_destination_breaker_open", (((name,), float(name in backlog.open_breakers)) for name in names)
        )
        yield _family("chexnode_destination_paused", (((name,), float(name in backlog.paused)) for name in names))
        oldest = backlog.oldest_queued_at
        age = max(0.0, (self._ledger.clock() - oldest).total_seconds()) if oldest else 0.0
        yield _family("chexnode_oldest_queued_seconds", [((), age)])


def _of_account(account: Account) -> Iterator[Metric]:
    yield _family("chexnode_instances_received_total", [((), account.received)])
    yield _family("chexnode_duplicates_total", [((), account.duplicates)])
    yield _family("chexnode_own_results_total", [((), account.own_results)])
    yield _family("chexnode_account_difference", [((), account.difference)])


def _of_drift(found: Sequence[Drift]) -> Iterator[Metric]:
    """No station and no caller is a label: how many of them have shifted is enough to look."""
    highest: dict[tuple[str, ...], float] = {}
    shifted: dict[tuple[str, ...], set[tuple[str | None, str | None]]] = {}
    for one in found:
        key = (one.model, one.statistic)
        highest[key] = max(one.psi, highest.get(key, 0.0))
        groups = shifted.setdefault((one.model,), set())
        if one.is_shifted:
            groups.add((one.station, one.calling_ae_title))
    yield _family("chexnode_drift_psi", highest.items())
    yield _family("chexnode_drift_shifted", ((key, len(groups)) for key, groups in shifted.items()))


_WITH_REASON = (JobState.REFUSED, JobState.SKIPPED)


def _of_tally(tally: Tally) -> Iterator[Metric]:
    # Every state is always there: a series that appears only with its first failure cannot be alarmed on.
    verdicts: dict[tuple[str, str | None], int] = {(InstanceState.ANALYSABLE, None): 0}
    yield _family("chexnode_instances", _coded(verdicts | tally.instances))
    states: dict[tuple[str, str | None], int] = {(s, None): 0 for s in JobState if s not in _WITH_REASON}
    yield _family("chexnode_jobs", _coded(states | tally.jobs))
    yield _family("chexnode_notes", (((note,), tally.notes[note]) for note in Note))


def _coded(counts: dict[tuple[str, str | None], int]) -> _Samples:
    """``reason`` is always one of :class:`Reason`, or empty."""
    for (state, reason), count in sorted(counts.items(), key=str):
        yield (state, Reason(reason).value if reason else ""), count


def _family(name: str, samples: _Samples) -> Metric:
    text, labels = METRICS[name]
    if name.endswith("_info"):
        info = InfoMetricFamily(name.removesuffix("_info"), text)
        for values, _ in samples:
            info.add_metric((), dict(zip(labels, values, strict=True)))
        return info
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family
