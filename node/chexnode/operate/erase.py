"""Erasing a patient or a study: cancelled, withdrawn from the destinations, deleted, and nothing left to read of it."""

from __future__ import annotations

import time
from collections import Counter

from chexnode.audit.kept import KeptMessages
from chexnode.audit.spool import AuditSpool
from chexnode.deliver.courier import Courier
from chexnode.node import Node
from chexnode.spool.spool import DiskRefused
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import ResultSet
from chexnode.vocabulary.reports import Erasure
from chexnode.vocabulary.states import DeliveryState
from chexnode.vocabulary.supersession import Supersession
from chexnode.work.replacing import header_of, withdrawals
from chexnode.work.store import store

_DONE = frozenset({DeliveryState.SENT, DeliveryState.COMMITTED})
_OPEN = frozenset({DeliveryState.PENDING, DeliveryState.WAITING})


def count(node: Node, whose: Filter) -> Erasure:
    """What :func:`erase` would erase. Raises Transient when the database is away."""
    return Erasure(node.ledger.erasures.extent(whose), 0, 0, {}, {}, False, is_dry_run=True)


def erase(node: Node, whose: Filter, wait_seconds: float, by: tuple[str, str]) -> Erasure:
    """Erase what ``whose`` names: a patient or a study. May be called again where it was interrupted.

    Destinations are asked first to withdraw what they may have, each as its settings say, for ``wait_seconds`` at most;
    then everything goes, whatever they answered. ``by``: who wants it, and the address, for the audit trail.
    Raises Transient when the database is away, and :class:`~chexnode.spool.spool.DiskRefused`.
    """
    erasures = node.ledger.erasures
    erasures.cancel(whose)
    identities = erasures.identities(whose)
    withdrawn, not_withdrawn = _withdraw(node, whose, wait_seconds)
    deleted: set[str] = set()
    extent = None
    while extent is None:  # an image of theirs may come at this moment
        paths = erasures.files(whose)
        for path in paths - deleted:
            if not node.spool.unlink(path) and node.spool.exists(path):
                raise DiskRefused("the disk keeps a file that is to be erased: erase again")
        deleted |= paths
        erasures.cancel(whose)
        extent = erasures.delete(whose, deleted)
    data_dir = node.settings.node.data_dir
    audit_messages = AuditSpool(data_dir).erase(identities) + KeptMessages(data_dir).erase(identities)
    scrubbed = node.ledger.database.scrub()
    node.trail.acted(*by, f"erased {extent.studies} studies with {extent.images} images and {extent.results} results")
    return Erasure(extent, len(deleted), audit_messages, withdrawn, not_withdrawn, scrubbed)


def _withdraw(node: Node, whose: Filter, wait_seconds: float) -> tuple[dict[str, int], dict[str, str]]:
    """Have the destinations told; return how many notes each took, and why others may still have something."""
    now, erasures = node.ledger.clock(), node.ledger.erasures
    sets = {
        study: ResultSet(study, "", now, node.spec, None, members) for study, members in erasures.sent(whose).items()
    }
    ended = {study: (old, header_of(old, node.spool), Supersession.ERASED) for study, old in sets.items()}
    notes, to = withdrawals(ended, node.settings.destination, now)
    may_go = erasures.withdraw(whose, store(node.spool, notes), to)
    courier, deadline = Courier(node), time.monotonic() + may_go + wait_seconds
    for name in sorted({name for _, name in to}):
        courier.deliver(name)
    while time.monotonic() < deadline and any(one.state in _OPEN for one in erasures.withdrawals(whose)):
        time.sleep(0.2)  # another courier has them
        for name in node.ledger.deliveries.due().keys() & {name for _, name in to}:
            courier.deliver(name)
    asked = erasures.withdrawals(whose)
    late = "it did not take the note in time"
    failed = {one.destination: one.error or late for one in asked if one.state not in _DONE}
    settings = {one.name: one for one in node.settings.destination}
    for name in {name for old in sets.values() for member in old.members for name in member.destinations}:
        if name not in settings:
            failed[name] = "it is no longer in the settings"
        elif settings[name].withdraw == "none":
            failed[name] = "its settings say that nothing is withdrawn from it"
    return dict(Counter(one.destination for one in asked if one.state in _DONE)), failed
