"""Rejection notes that a PACS sends (IHE RAD TF-2 4.66): results of a rejected image are withdrawn wherever they were
sent, and a rejected result of ours is valid no longer."""

from __future__ import annotations

import logging

from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.key_objects import KeyObjects, read_key_objects
from chexmodels.dicom.part10 import read_intact
from chexnode.ledger.rejections import ReceivedNote
from chexnode.node import Node
from chexnode.sandbox.limits import read_limits
from chexnode.spool.spool import DiskRefused
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.supersession import Supersession
from chexnode.work.replacing import header_of, withdrawals
from chexnode.work.store import discard, store

log = logging.getLogger(__name__)

_NOTHING = KeyObjects(("", ""), ())


def read_notes(node: Node) -> None:
    """Look at the Key Object Selections that have come, and do what rejection notes among them say.

    A note that cannot be carried out now, whatever is in the way, keeps no other from it: it is tried again later, and
    given up in the end. Raises Transient when the database is away.
    """
    for note in node.ledger.rejections.unread():
        try:
            _carry_out(node, note, _read(node, note))
        except DiskRefused as error:
            _put_back(node, note, str(error))
        except Transient:
            raise
        except Exception as error:
            log.exception("a rejection note could not be carried out", extra={"digest": note.digest})
            _put_back(node, note, type(error).__name__)


def _put_back(node: Node, note: ReceivedNote, error: str) -> None:
    if node.ledger.rejections.put_back(note, error):
        log.warning("a rejection note waits: %s", error, extra={"digest": note.digest})
    else:
        log.error("a rejection note is given up: %s", error, extra={"digest": note.digest})


def _read(node: Node, note: ReceivedNote) -> KeyObjects:
    """What it says; nothing where it is no rejection or cannot be read. Raises DiskRefused."""
    try:
        document = read_key_objects(read_intact(node.spool.read(note.path), read_limits(node.settings.limits)))
    except (DecodeError, FileNotFoundError):
        log.warning("a Key Object Selection cannot be read", extra={"digest": note.digest})
        return _NOTHING
    return document if document.is_rejection else _NOTHING


def _carry_out(node: Node, note: ReceivedNote, document: KeyObjects) -> None:
    uids = [one.sop_instance_uid for one in document.objects]
    valid = node.ledger.rejections.valid(uids)
    old = {one.job: (one, header_of(one, node.spool), Supersession.REJECTED) for one in valid}
    encoded, to = withdrawals(old, node.settings.destination, node.ledger.clock())
    rows = store(node.spool, encoded)
    try:
        node.ledger.rejections.reject(note, uids, list(old), rows, to)
    except Transient:
        discard(node.spool, node.ledger, [row.path for row in rows])
        raise
    if uids:
        log.info("a rejection note was read", extra={"objects": len(uids), "sets": len(old), "digest": note.digest})
