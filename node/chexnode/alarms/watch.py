"""The thread that looks at the node now and then and reports what has changed."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from cryptography import x509

from chexnode.alarms.channels import Channel, Notice, channels
from chexnode.alarms.rules import Facts, conditions
from chexnode.ledger.drift import FRESH_SECONDS, DriftWindow
from chexnode.node import Node
from chexnode.vocabulary.errors import BadEnvironment, Transient

log = logging.getLogger(__name__)

_LEASE = "alarms"


class Watch:
    """Use as a context manager: it watches while it is open. Whoever else watches the same database waits."""

    def __init__(self, node: Node) -> None:
        """Raises BadEnvironment where a channel cannot work at all."""
        self._node = node
        self._settings = node.settings.alarms
        self._channels: dict[str, Channel] = channels(self._settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                self.tick()
            except (Transient, BadEnvironment) as error:
                log.warning("alarms: %s", error)
            except Exception:
                log.exception("alarms: a bug")
            if self._stop.wait(self._settings.every_seconds):
                return

    def tick(self) -> None:
        """Look once, and send what has changed and what could not be sent before."""
        node = self._node
        if node.ledger.leases.take(_LEASE, node.owner, 3 * self._settings.every_seconds + 30) is None:
            return
        facts = look(node)
        found = conditions(facts, self._settings)
        changes = node.ledger.alarms.observe(found, list(self._channels), is_quiet=facts.is_quiet)
        for event, some in (("alarm", changes.begun), ("recovery", changes.over)):
            for alarm in some:
                log.warning("%s: %s", event, alarm.rule, extra={"subject": alarm.subject})
        for name, channel in self._channels.items():
            self._send(name, channel)

    def _send(self, name: str, channel: Channel) -> None:
        """In order; what does not go out now is tried again at the next look, and holds up no other channel."""
        node, url = self._node, f"{self._node.settings.web_url}/console"
        waiting = node.ledger.alarms.unsent(name)
        for done, one in enumerate(waiting):
            notice = Notice(node.settings.node.ae_title, one.event, one.alarm, url, one.at)
            try:
                channel(notice)
            except Transient as error:
                facts = {"channel": name, "waiting": len(waiting) - done}
                log.error("an alarm could not be sent: %s", error, extra=facts)
                return
            node.ledger.alarms.sent(one.id)


def look(node: Node) -> Facts:
    """What the rules look at. Raises Transient while the database is away."""
    ledger, settings = node.ledger, node.settings
    drift = settings.drift
    names = [destination.name for destination in settings.destination]
    try:
        refuses = not node.spool.has_room(settings.disk)
    except OSError:
        refuses = True
    return Facts(
        at=ledger.clock(),
        duties=node.duties(),
        destinations=ledger.overviews.destinations(names),
        oldest_queued_at=ledger.views.backlog().oldest_queued_at,
        difference=ledger.accounts.account().difference,
        disk_refuses=refuses,
        certificate_ends_at=certificate_end(node),
        failing_notes=ledger.rejections.failing(),
        skew=ledger.database.skew(),
        silent=ledger.overviews.silent(settings.alarms.station_hours),
        refusals=ledger.overviews.refusals(),
        uncommitted=ledger.overviews.uncommitted(timedelta(minutes=settings.alarms.commitment_minutes)),
        is_quiet=settings.alarms.is_quiet(datetime.now().time()),
        drift=ledger.drifts.look(DriftWindow(drift.days, drift.images, drift.psi), FRESH_SECONDS),
    )


def certificate_end(node: Node) -> datetime | None:
    """When our certificate ends; None where there is none or it cannot be read."""
    path = node.settings.tls.certificate
    try:
        return None if path is None else x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
