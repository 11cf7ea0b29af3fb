"""Erasing a patient or a study: cancelled, withdrawn from the destinations, deleted, and nothing left to read of it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from io import BytesIO
from itertools import islice

from pydicom import dcmread

from chexnode.audit.kept import KeptMessages
from chexnode.audit.spool import AuditSpool
from chexnode.deliver.courier import Courier
from chexnode.node import Node
from chexnode.spool.spool import DiskRefused
from chexnode.vocabulary.errors import Transient, Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import ResultSet
from chexnode.vocabulary.reports import Erasure
from chexnode.vocabulary.states import DeliveryState
from chexnode.vocabulary.supersession import Supersession
from chexnode.work.replacing import header_of, withdrawals
from chexnode.work.store import store

log = logging.getLogger(__name__)

UNRECORDED_SECONDS = 10.0
"""A younger file without a row is left to whoever writes it."""
_CHUNK = 200
_DONE = frozenset({DeliveryState.SENT, DeliveryState.COMMITTED})
_OPEN = frozenset({DeliveryState.PENDING, DeliveryState.WAITING})


def count(node: Node, whose: Filter) -> Erasure:
    """What :func:`erase` would erase. Raises as that does."""
    _require_one_patient(node, whose)
    return Erasure(node.ledger.erasures.extent(whose), 0, 0, {}, {}, False, is_dry_run=True)


def erase(node: Node, whose: Filter, wait_seconds: float, by: tuple[str, str]) -> Erasure:
    """Erase what ``whose`` names: a patient or a study. May be called again where it was interrupted.

    Destinations are asked first to withdraw what they may have, each as its settings say, for ``wait_seconds`` at most;
    then everything goes, whatever they answered. ``by``: who wants it, and the address, for the audit trail.
    Raises Usage where it would be several patients, Transient when the database is away, and
    :class:`~chexnode.spool.spool.DiskRefused`.
    """
    _require_one_patient(node, whose)
    erasures = node.ledger.erasures
    erasures.cancel(whose)
    studies = set(erasures.studies(whose))
    identities = erasures.identities(whose)
    withdrawn, not_withdrawn = _withdraw(node, whose, wait_seconds)
    deleted: set[str] = set()
    extent = None
    while extent is None:  # an image of theirs may come at this moment
        studies.update(erasures.studies(whose))
        identities |= erasures.identities(whose)
        paths = erasures.files(whose)
        for path in paths - deleted:
            if not node.spool.unlink(path) and node.spool.exists(path):
                raise DiskRefused("the disk keeps a file that is to be erased: erase again")
        deleted |= paths
        erasures.cancel(whose)
        extent = erasures.delete(whose, deleted)
    data_dir = node.settings.node.data_dir
    audit_messages = AuditSpool(data_dir).erase(identities) + KeptMessages(data_dir).erase(identities)
    deleted |= _delete_unrecorded(node, whose, studies)
    try:
        scrubbed = node.ledger.database.scrub()
    except Transient as error:  # the rest is done, and what could not be withdrawn must be reported
        log.warning("the database's files are not scrubbed: %s", error)
        scrubbed = False
    node.trail.acted(*by, f"erased {extent.studies} studies with {extent.images} images and {extent.results} results")
    return Erasure(extent, len(deleted), audit_messages, withdrawn, not_withdrawn, scrubbed)


def _require_one_patient(node: Node, whose: Filter) -> None:
    if whose.patient is None:
        if whose.issuer is not None:
            raise Usage("an issuer is that of a patient's ID: give the ID too")
    elif whose.issuer is None and len(issuers := node.ledger.erasures.issuers(whose)) > 1:
        names = ", ".join(sorted(map(repr, issuers)))
        raise Usage(f"several patients may have this ID, which is issued by {names}: name one of the issuers")


def _delete_unrecorded(node: Node, whose: Filter, studies: Collection[str]) -> set[str]:
    """Delete files of theirs that no row names, as a process leaves that is killed, and return their paths.

    Younger ones may be what a receiver or a worker is about to commit, or about to throw away.
    """
    deleted = set()
    files = node.spool.older_than(UNRECORDED_SECONDS)
    while paths := list(islice(files, _CHUNK)):
        known = node.ledger.files.known(paths)
        for path in paths:
            if path not in known and _is_of(node, path, whose, studies) and node.spool.unlink(path):
                deleted.add(path)
    return deleted


def _is_of(node: Node, path: str, whose: Filter, studies: Collection[str]) -> bool:
    """Whether a file of the spool is an object of theirs, whole or not."""
    try:
        data = node.spool.read(path)
    except (FileNotFoundError, DiskRefused):
        return False
    names = [name for name in (whose.study, *studies) if name]
    with suppress(Exception):  # whatever pydicom makes of half a file
        ds = dcmread(BytesIO(data), stop_before_pixels=True)
        is_patients = whose.patient is not None and str(ds.get("PatientID", "")) == whose.patient
        is_patients = is_patients and whose.issuer in (None, str(ds.get("IssuerOfPatientID", "")))
        return is_patients or str(ds.get("StudyInstanceUID", "")) in names
    return any(name.encode() in data for name in names)


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
    for name, why in failed.items():
        log.warning("destination %s may still have results that are erased here: %s", name, why)
    said = {one.destination: f" ({one.comment})" for one in asked if one.comment and one.state not in _DONE}
    done = Counter(one.destination for one in asked if one.state in _DONE)
    return dict(done), {name: why + said.get(name, "") for name, why in failed.items()}
