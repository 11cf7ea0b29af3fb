"""The courier: carries what is due to one destination, and keeps the ledger told.

At most ``max_associations`` couriers serve a destination at once, over all workers: each holds one of its slots, a
lease in the ledger. The breaker, also in the ledger, is *closed* after a success, *open* until a time drawn from the
back-off after a failure of the destination as a whole (nothing is claimed meanwhile), then *half-open*: one delivery
is tried, and its outcome closes the breaker or opens it for longer. A destination that is down so costs one attempt a
minute, and holds up no other destination.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from pydicom.dataset import Dataset

from chexnode.audit.transfers import Transfers
from chexnode.deliver.destination import DeliveryAnswer, Destination, Interrupted, Outgoing, Sent, answers, unexpected
from chexnode.deliver.dicom import DicomDestination
from chexnode.deliver.folder import FolderDestination
from chexnode.deliver.stow import StowDestination
from chexnode.deliver.withdraw import withdrawing
from chexnode.dimse import commitment
from chexnode.dimse.commitment import NotACommitment
from chexnode.ledger.deliveries import LEASE
from chexnode.ledger.leases import Lease
from chexnode.node import Node
from chexnode.settings.destination import DestinationSettings
from chexnode.tls import client_context
from chexnode.vocabulary.backoff import Backoff
from chexnode.vocabulary.errors import DestinationDown, Transient
from chexnode.vocabulary.records import DeliveryClaim, DeliveryOutcome, Subject
from chexnode.vocabulary.states import DeliveryState

log = logging.getLogger(__name__)

BATCH = 16
"""Deliveries claimed together."""

SETTLE_SECONDS = 1.0
"""Answers wait no longer than this for their transaction while a batch goes on."""

STEP_BACK_SECONDS = 10.0
"""How much longer than the breaker the delivery waits during which the destination failed: the next try is then made
with another one, so that an object that takes a destination down does not hold up the rest."""

DOUBTFUL_TRIES = 5
"""Of a delivery whose destination says no in a way that has been seen to heal."""

_DOUBTFUL = Backoff(base=60.0, cap=900.0)
"""Between them: a quarter of an hour in all, on average."""

_MOST_FAILURES = 7
"""As many as make the back-off as long as it gets: there is no hurry with one that is up but will not commit."""

_LEASE_SECONDS = LEASE.total_seconds()


class Courier:
    """Delivers for one worker; any number of threads may call it at once."""

    def __init__(self, node: Node, backoff: Backoff | None = None) -> None:
        settings = node.settings
        self._node, self._ledger, self._stopping = node, node.ledger, node.stopping
        self._tls = client_context(settings.tls) if any(d.speaks_tls for d in settings.destination) else None
        self._backoff = backoff or Backoff()

    def deliver(self, name: str) -> int:
        """Carry what is due to destination ``name`` until nothing is, or until we stop; return how many were answered.

        Returns 0 at once for a paused destination, and where all slots are taken: whoever holds them carries it.
        Raises Usage for an unknown name, and Transient when the database is away: claims then run out and are tried
        again.
        """
        settings = self._node.settings.destination_called(name)
        answered = 0
        while (
            not self._stopping.is_set()
            and not self._ledger.destinations.is_paused(name)
            and (slot := self._take_slot(settings)) is not None
        ):
            try:
                destination = open_destination(settings, self._node.settings.node.ae_title, self._stopping, self._tls)
                try:
                    answered += _Round(self._node, settings, slot, self._backoff).carry(destination)
                    if settings.storage_commitment and not self._stopping.is_set():
                        self._ask(settings, destination)
                finally:
                    with suppress(DestinationDown), unexpected():  # it is over; what was answered is written down
                        destination.close()
            finally:
                self._ledger.leases.release(slot)
            # Whoever was asked while this one held the last slot was turned away.
            if not self._ledger.deliveries.due().get(name):
                break
        return answered

    def _ask(self, settings: DestinationSettings, destination: Destination) -> None:
        """Ask for storage commitment of what the destination has accepted."""
        commitments, max_age = self._ledger.commitments, timedelta(hours=settings.max_age_hours)
        while not self._stopping.is_set() and (request := commitments.ask(settings.name, max_age)) is not None:
            try:
                with unexpected():
                    destination.request_commitment(request, self._reported)
            except DestinationDown as down:
                log.warning("destination %s: %s", settings.name, down.why)
                again = timedelta(seconds=self._backoff.delay(_MOST_FAILURES))
                commitments.not_asked(request, str(down), self._ledger.clock() + again)
                return

    def _reported(self, information: Dataset) -> int:
        try:
            known = self._ledger.commitments.answered(*commitment.read_event(information))
        except (NotACommitment, Transient) as error:
            log.warning("a report of storage commitment was not recorded: %s", error)
            known = False
        return 0x0000 if known else 0x0110

    def _take_slot(self, settings: DestinationSettings) -> Lease | None:
        owner = f"{self._node.owner}/{secrets.token_hex(4)}"  # one worker's threads must not share a slot
        for number in range(settings.max_associations):
            lease = self._ledger.leases.take(f"deliver/{settings.name}/{number}", owner, _LEASE_SECONDS)
            if lease is not None:
                return lease
        return None


def open_destination(
    settings: DestinationSettings, ae_title: str, stop: threading.Event, tls: ssl.SSLContext | None
) -> Destination:
    """Build the destination that ``settings`` describe; nothing is contacted yet. ``tls``: for those that speak it."""
    return withdrawing(_plain(settings, ae_title, stop, tls), settings, tls)


def _plain(
    settings: DestinationSettings, ae_title: str, stop: threading.Event, tls: ssl.SSLContext | None
) -> Destination:
    if settings.kind == "folder":
        assert settings.path is not None
        return FolderDestination(settings.name, settings.path, stop)
    if settings.kind == "stow":
        return StowDestination(settings, stop, tls if settings.speaks_tls else None)
    return DicomDestination(settings, ae_title, stop, tls if settings.tls else None)


class _Round:
    """One slot's worth of work: batch after batch through one destination object."""

    def __init__(self, node: Node, settings: DestinationSettings, slot: Lease, backoff: Backoff) -> None:
        self._node, self._ledger, self._stopping = node, node.ledger, node.stopping
        self._settings, self._slot, self._backoff = settings, slot, backoff
        self._open: list[DeliveryClaim] = []  # not yet settled; replaced, never changed: the heartbeat reads it
        self._answers: list[DeliveryOutcome] = []  # not yet written down
        self._answered = 0
        self._accepted: list[DeliveryClaim] = []  # not yet told to the audit trail
        self._reached = False

    def carry(self, destination: Destination) -> int:
        """Claim and send until nothing is due; return how many deliveries were answered."""
        deliveries, name = self._ledger.deliveries, self._settings.name
        breaker = deliveries.breaker(name)
        failures = breaker.failures
        with self._heartbeat():
            while not self._stopping.is_set() and (claims := deliveries.claim(name, 1 if failures else BATCH)):
                self._open = self._without_expired(claims, breaker.last_error or "" if failures else "")
                if not self._open:
                    continue
                self._reached = False
                try:
                    self._send(destination)
                except DestinationDown as down:
                    if not self._stopping.is_set():
                        self._fail(down, failures + 1)
                        break
                finally:
                    self._audit()
                    deliveries.release(self._open)
                    self._open = []
                if self._reached:
                    deliveries.destination_succeeded(name)
                    failures = 0
        return self._answered

    def _send(self, destination: Destination) -> None:
        """Send what is open, settling answers as they come, also where the destination fails."""
        settled = time.monotonic()
        try:
            for sent in answers(destination, [Outgoing(claim, self._node.spool) for claim in self._open]):
                self._reached |= sent.status is not None or sent.answer is DeliveryAnswer.ACCEPTED
                self._answers.append(self._outcome(sent))
                if time.monotonic() - settled > SETTLE_SECONDS:
                    self._settle()
                    settled = time.monotonic()
        finally:
            self._settle()

    def _settle(self) -> None:
        answers, self._answers = self._answers, []
        if answers:
            self._ledger.deliveries.settle(answers)
            self._answered += len(answers)
            done = {answer.claim.id for answer in answers}
            self._open = [claim for claim in self._open if claim.id not in done]

    def _outcome(self, sent: Sent) -> DeliveryOutcome:
        claim = sent.item.claim
        if sent.answer is DeliveryAnswer.ACCEPTED:
            self._accepted.append(claim)
            to_be_committed = self._settings.storage_commitment
            return DeliveryOutcome(
                claim, DeliveryState.SENT, sent.detail, None, to_be_committed=to_be_committed, comment=sent.comment
            )
        tries = claim.attempts + 1
        if sent.answer is DeliveryAnswer.DEAD or (sent.answer is DeliveryAnswer.DOUBTFUL and tries >= DOUBTFUL_TRIES):
            return DeliveryOutcome(claim, DeliveryState.DEAD, sent.detail, comment=sent.comment)
        backoff = _DOUBTFUL if sent.answer is DeliveryAnswer.DOUBTFUL else self._backoff
        wait = timedelta(seconds=backoff.delay(tries))
        again_at = self._ledger.clock() + wait
        return DeliveryOutcome(claim, DeliveryState.WAITING, sent.detail, again_at, comment=sent.comment)

    def _audit(self) -> None:
        """Keep the audit trail of what the destination has taken."""
        accepted, self._accepted = self._accepted, []
        if not accepted or not self._node.trail.on:
            return
        try:
            subjects = self._ledger.subjects.of_results([claim.sop_instance_uid for claim in accepted])
        except Transient as error:
            log.warning("the audit trail does not say whose results went to %s: %s", self._settings.name, error)
            subjects = {}
        transfers = Transfers()
        for claim in accepted:
            transfers.add(subjects.get(claim.sop_instance_uid, Subject()), claim.sop_class_uid, None)
        self._node.trail.sent(self._settings, transfers)

    def _fail(self, down: DestinationDown, failures: int) -> None:
        """Open the breaker, and let what was under way wait for it."""
        name = self._settings.name
        log.warning("destination %s failed %d time(s) in a row: %s", name, failures, down.why)
        open_until = self._ledger.clock() + timedelta(seconds=self._backoff.delay(failures))
        self._ledger.deliveries.destination_failed(name, down.why, open_until)
        if isinstance(down, Interrupted):
            tried, next_attempt = [down.item.claim], open_until + timedelta(seconds=STEP_BACK_SECONDS)
        else:
            tried, next_attempt = self._open, open_until
        self._answers = [
            DeliveryOutcome(c, DeliveryState.WAITING, down.why, next_attempt, comment=down.comment) for c in tried
        ]
        self._settle()

    def _without_expired(self, claims: Sequence[DeliveryClaim], outage: str) -> list[DeliveryClaim]:
        """Give up what is older than ``max_age_hours``, and return the rest.

        ``outage``: why the destination fails just now, empty where it does not. What was never tried is given up only
        during an outage: after a long stop of ours, each delivery has its one try at a destination that is well.
        """
        hours = self._settings.max_age_hours
        oldest = self._ledger.clock() - timedelta(hours=hours)
        expired = [c for c in claims if (c.attempts or outage) and c.created_at < oldest]
        if expired:
            why = f"gave up after {hours:g} h"
            self._ledger.deliveries.settle(
                [
                    DeliveryOutcome(c, DeliveryState.DEAD, f"{why}: {c.error or outage}", comment=c.comment)
                    for c in expired
                ]
            )
        return [claim for claim in claims if claim not in expired]

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Renew the leases of the slot and of the open claims from a thread while the body runs."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(_LEASE_SECONDS / 4):
                try:
                    self._ledger.leases.renew(self._slot, _LEASE_SECONDS)
                    self._ledger.deliveries.renew(self._open)
                except Transient as error:  # the next beat may come through before the leases end
                    log.warning("the leases of destination %s were not renewed: %s", self._settings.name, error)
                except Exception:
                    log.exception("the leases of destination %s were not renewed", self._settings.name)

        thread = threading.Thread(target=beat, name=f"deliver-{self._settings.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
