"""Webhooks: what happens to images is posted to other programs, in order and at least once each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from chexnode.alarms.channels import post_json
from chexnode.ledger.feed import FeedEvent
from chexnode.node import Node
from chexnode.settings.webhook import WebhookSettings
from chexnode.vocabulary.backoff import Backoff
from chexnode.vocabulary.errors import Transient, Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.records import JobView
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1.0
_LEASE_SECONDS = 120.0
_PAGE = 200
_GIVEN_UP_AFTER = timedelta(days=1)
"""An event that cannot be posted for so long is left out: one that is never taken must not hold up all others."""

_OF_JOB = ("id", "state", "reason", "sop_instance_uid", "study_instance_uid", "model", "score", "abnormal", "regions",
           "received_at", "finished_at")  # fmt: skip

_KINDS: Mapping[tuple[str, str | None], str] = {
    ("job", JobState.DONE): "done",
    ("job", JobState.REFUSED): "refused",
    ("job", JobState.FAILED): "failed",
    ("delivery", DeliveryState.DEAD): "dead",
    ("instance", InstanceState.NOT_ANALYSED): "not-analysed",
    ("instance", InstanceState.QUARANTINED): "not-analysed",
}


class Hooks:
    """Use as a context manager: it posts while it is open, each webhook by a thread of its own."""

    def __init__(self, node: Node) -> None:
        self._stop = threading.Event()
        self._hooks = [Hook(node, settings) for settings in node.settings.webhook]
        self._threads = [
            threading.Thread(target=hook.run, args=(self._stop,), name=f"webhook-{hook.name}", daemon=True)
            for hook in self._hooks
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)


class Hook:
    """One webhook. Of several processes that have it, the one with the lease posts."""

    def __init__(self, node: Node, settings: WebhookSettings) -> None:
        self.name = settings.name
        self._node, self._settings = node, settings
        self._backoff = Backoff(base=5.0, cap=300.0)
        self._failures = 0

    def run(self, stop: threading.Event) -> None:
        """Post until ``stop``."""
        wait = 0.0
        while not stop.wait(wait):
            try:
                wait = 0.0 if self.tick(stop) else _EVERY_SECONDS
                self._failures = 0
            except Transient as error:
                self._failures += 1
                wait = self._backoff.delay(self._failures)
                log.warning("webhook %s: %s", self.name, error, extra={"next_try_seconds": round(wait, 1)})
            except Exception:
                log.exception("webhook %s: a bug", self.name)
                wait = 60.0

    def tick(self, stop: threading.Event | None = None) -> bool:
        """Post the next page of what has happened; return whether there is more. Raises Transient."""
        ledger, reader = self._node.ledger, f"webhook/{self.name}"
        place = ledger.feed.place(reader)
        if ledger.feed.page(place, 1).next == place:  # nothing new, and nothing is written
            return False
        if ledger.leases.take(reader, self._node.owner, _LEASE_SECONDS) is None:
            return False
        page = ledger.feed.page(ledger.feed.place(reader), _PAGE)
        for event in page.events:
            if stop is not None and stop.is_set():
                return False
            posts = self._posts(event)
            if not posts:
                continue
            try:
                for post in posts:
                    post_json(self._settings.url, self._settings.secret, post)
            except Transient as error:
                if ledger.clock() - event.at < _GIVEN_UP_AFTER:
                    raise
                log.error("webhook %s: event %d is left out: %s", self.name, event.id, error)
            ledger.feed.advance(reader, event.id)
            ledger.leases.take(reader, self._node.owner, _LEASE_SECONDS)
        ledger.feed.advance(reader, page.next)
        return page.more

    def _posts(self, event: FeedEvent) -> list[dict[str, Any]]:
        """What is said of ``event``; nothing where it is not wanted, or what it was about is gone."""
        kinds = [kind] if (kind := _KINDS.get((event.subject, event.to_state))) is not None else []
        kinds += ["analysed", "finding"] if (event.subject, event.event) == ("job", Event.ANALYSED) else []
        wanted = [kind for kind in kinds if kind in self._settings.events]
        if not wanted:
            return []
        facts: dict[str, Any] = {"id": event.id, "at": event.at, "node": self._node.settings.node.ae_title}
        job_id = event.subject_id
        if event.subject == "delivery":
            delivery = self._node.ledger.views.delivery(int(event.subject_id))
            if delivery is None:
                return []
            facts["delivery"] = {"id": delivery.id, "destination": delivery.destination, "error": delivery.error}
            job_id = delivery.job or ""
        try:
            job = self._node.ledger.views.job(job_id) if job_id else None
        except Usage:
            return []
        if job is not None and job.purpose == Purpose.SHADOW:  # what a model on trial says goes nowhere
            return []
        if job is not None:
            facts |= {"job": _of_job(job), "url": f"{self._node.settings.web_url}/console/images/{job.id}"}
        is_abnormal = job is not None and bool(job.abnormal)
        return [{"event": kind, **facts} for kind in sorted(wanted) if kind != "finding" or is_abnormal]


def _of_job(job: JobView) -> dict[str, Any]:
    return {name: getattr(job, name) for name in _OF_JOB}
