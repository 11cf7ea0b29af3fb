"""The audit trail as the roles keep it: one method for each thing worth a message. Off unless the settings name a
collector; a trail never raises and never waits for one.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from chexnode.audit import message, syslog
from chexnode.audit.elements import AuditSource, EventOutcome, Message, MovedInstances, Participant
from chexnode.audit.kept import KeptMessages
from chexnode.audit.refusals import Cause, Refusal, Refusals
from chexnode.audit.shipper import Shipper
from chexnode.audit.spool import AuditSpool
from chexnode.audit.syslog import Address
from chexnode.audit.transfers import Transfers
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.tree import Settings
from chexnode.tls import client_context

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """Who and where this process is."""

    source: AuditSource
    process: Participant


class Trail:
    """Writes messages into the spool. Thread safe."""

    def __init__(self, place: _Place | None = None, spool: AuditSpool | None = None) -> None:
        """``place`` and ``spool``: see :func:`open_trail`; a trail without them is off."""
        self._place, self._spool = place, spool
        self._refusals = Refusals()
        self._lock = threading.Lock()
        self._unwritten = 0
        self._unwritten_said = 0
        self.shipper: Shipper | None = None

    @property
    def on(self) -> bool:
        """Whether anybody wants to know."""
        return self._spool is not None

    def activity(self, *, started: bool) -> None:
        """This process has started, or is about to stop."""
        if self._place is not None:
            self._write(message.application(self._place.source, _now(), self._place.process, started))

    def received(self, ae_title: str, address: str, transfers: Transfers) -> None:
        """A caller's instances were stored."""
        self._stored(Participant(ae_title, ae_title, host=address), transfers)

    def fetched(self, archive: DestinationSettings, transfers: Transfers) -> None:
        """Instances that we have asked an archive for were stored."""
        self._stored(_party(archive), transfers, asked_by_us=True)

    def stored_by(self, user: str, address: str, transfers: Transfers) -> None:
        """A user of the web role has stored instances; ``user`` is the token's name, empty where none is needed."""
        self._stored(_user(user, address), transfers)

    def _stored(self, sender: Participant, transfers: Transfers, *, asked_by_us: bool = False) -> None:
        for instances, had_before in transfers.take():
            if self._place is not None:
                at, source, us = _now(), self._place.source, self._place.process
                facts = (sender, us, instances, had_before)
                self._write(message.transferred(source, at, *facts, asked_by_receiver=asked_by_us))

    def retrieved(self, user: str, address: str, transfers: Transfers, *, whole: bool, complete: bool) -> None:
        """A user of the web role has got instances: the ``whole`` of them as DICOM files, or something of them.

        ``complete``: whether the answer reached its end.
        """
        outcome = EventOutcome.SUCCESS if complete else EventOutcome.MINOR_FAILURE
        for instances, _ in transfers.take():
            if self._place is None:
                continue
            at, source, us, who = _now(), self._place.source, self._place.process, _user(user, address)
            if whole:
                facts = (us, who, instances, None)
                one = message.transferred(source, at, *facts, asked_by_receiver=True, outcome=outcome)
            else:
                one = message.accessed(source, at, who, us, instances, outcome)
            self._write(one)

    def searched(self, user: str, address: str, resource: str, parameters: bytes, *, understood: bool) -> None:
        """A user of the web role has searched ``resource``, a path, by the ``parameters`` of its URI."""
        if self._place is not None:
            outcome = EventOutcome.SUCCESS if understood else EventOutcome.MINOR_FAILURE
            us, who = self._place.process, _user(user, address)
            self._write(message.web_query(self._place.source, _now(), who, us, resource, parameters, outcome))

    def signed_in(self, user: str, address: str) -> None:
        """A browser keeps the token named ``user`` from now on."""
        if self._place is not None:
            us, who = self._place.process, _user(user, address)
            self._write(message.login(self._place.source, _now(), who, us, EventOutcome.SUCCESS))

    def acted(self, user: str, address: str, what: str) -> None:
        """A user of the console has changed the node's work; ``what`` says how, without patient data."""
        if self._place is not None:
            source, us, kind = self._place.source, self._place.process, message.RESTRICTED_FUNCTION
            self._write(message.alert(source, _now(), kind, EventOutcome.SUCCESS, us, what, _user(user, address)))

    def sent(self, destination: DestinationSettings, transfers: Transfers) -> None:
        """A destination has accepted instances, or files were written into its folder."""
        for instances, _ in transfers.take():
            self._delivered(destination, instances)

    def _delivered(self, destination: DestinationSettings, instances: MovedInstances) -> None:
        if self._place is None:
            return
        source, us, at = self._place.source, self._place.process, _now()
        if destination.kind == "folder":
            assert destination.path is not None
            self._write(message.exported(source, at, us, destination.path.absolute().as_uri(), instances))
        else:
            self._write(message.transferred(source, at, us, _party(destination), instances, None))

    def queried(
        self, archive: DestinationSettings, sop_class_uid: str, transfer_syntax_uid: str, identifier: bytes
    ) -> None:
        """An archive is asked what it holds; ``identifier`` is the encoded data set."""
        if self._place is not None:
            us, them = self._place.process, _party(archive)
            asked = (sop_class_uid, transfer_syntax_uid, identifier)
            self._write(message.query(self._place.source, _now(), us, them, *asked))

    def queried_web(self, service: DestinationSettings, resource: str, parameters: bytes) -> None:
        """A DICOMweb service is asked what it holds, by the ``parameters`` of a URI."""
        if self._place is not None:
            us, them = self._place.process, _party(service)
            self._write(message.web_query(self._place.source, _now(), us, them, resource, parameters))

    def refused(self, address: str, name: str, why: str, cause: Cause = Cause.NODE) -> None:
        """A caller was turned away because of who it is; ``name`` is its AE title or its token's, empty where it had
        not said."""
        refusal = Refusal(address, name, why, cause)
        if self._place is not None and self._refusals.add(refusal):
            self._alert(refusal, 1)

    def tick(self, everything: bool = False) -> None:
        """Tell of the refusals of a minute that is over, and count what could not be written."""
        for refusal, count in self._refusals.take(everything):
            self._alert(refusal, count)
        with self._lock:
            unwritten, self._unwritten = self._unwritten, 0
        if unwritten and self._spool is not None:
            if unwritten != self._unwritten_said:
                log.error("audit messages could not be written", extra={"lost": unwritten})
            try:
                lost, reported = self._spool.losses
                self._spool.note_losses(lost + unwritten, reported)
                self._unwritten_said = 0
            except OSError:
                self._unwritten_said = unwritten
                with self._lock:
                    self._unwritten += unwritten

    def loss(self, count: int) -> bytes:
        """The encoded message that tells of ``count`` lost ones."""
        assert self._place is not None
        kind, what = message.AUDIT_RECORDING_STOPPED, f"{count} audit messages were lost"
        source, us = self._place.source, self._place.process
        return self._encoded(message.alert(source, _now(), kind, EventOutcome.SERIOUS_FAILURE, us, what))

    def _alert(self, refusal: Refusal, count: int) -> None:
        assert self._place is not None
        source, us = self._place.source, self._place.process
        what = f"{refusal.why}, {count} time(s)"
        if refusal.cause is Cause.NODE:
            who = Participant(refusal.name or refusal.address, refusal.name, host=refusal.address)
        else:
            who = _user(refusal.name, refusal.address)
        if refusal.cause is Cause.TOKEN and refusal.address:
            self._write(message.login(source, _now(), who, us, EventOutcome.MINOR_FAILURE, what))
            return
        kind = message.RESTRICTED_FUNCTION if refusal.cause is Cause.SCOPE else message.NODE_AUTHENTICATION
        caller = who if refusal.address else None
        self._write(message.alert(source, _now(), kind, EventOutcome.MINOR_FAILURE, us, what, caller))

    def _write(self, one: Message) -> None:
        if self._spool is None:
            return
        try:
            self._spool.put(self._encoded(one))
        except OSError:
            with self._lock:
                self._unwritten += 1
        if self.shipper is not None:
            self.shipper.wake()

    def _encoded(self, one: Message) -> bytes:
        assert self._place is not None
        return syslog.encode(one, self._place.process.host, "ChexNode", os.getpid())


OFF = Trail()
"""A trail that nobody wants."""


@contextmanager
def open_trail(settings: Settings, role: str) -> Iterator[Trail]:
    """Keep the trail of one process, a ``role`` of the node or a command, from its start to its end.

    Raises BadEnvironment where the collector wants TLS and a file of it is unfit.
    """
    if not settings.audit.url:
        yield OFF
        return
    address = Address.parse(settings.audit.url)
    tls = client_context(settings.tls) if address.scheme == "tls" else None
    host, ours = socket.gethostname(), settings.node.ae_title
    place = _Place(
        AuditSource(f"{ours}@{host}", settings.audit.enterprise_site_id),
        Participant(str(os.getpid()), ours, f"ChexNode {role}", host),
    )
    spool = AuditSpool(settings.node.data_dir)
    trail = Trail(place, spool)
    limit = settings.audit.spool_limit
    way = syslog.collector(address, tls)
    kept = KeptMessages(settings.node.data_dir)
    shipper = Shipper(spool, way, limit, trail.tick, trail.loss, kept, settings.audit.keep_days)
    trail.shipper = shipper
    shipper.start()
    trail.activity(started=True)
    try:
        yield trail
    finally:
        trail.tick(everything=True)
        trail.activity(started=False)
        shipper.stop()


def _party(destination: DestinationSettings) -> Participant:
    title = destination.ae_title or ""
    return Participant(title or destination.url or destination.name, title, host=destination.address)


def _user(name: str, address: str) -> Participant:
    return Participant(name or address, name=name, host=address)


def _now() -> datetime:
    return datetime.now(UTC)
