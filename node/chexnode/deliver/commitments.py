"""Answers to peers that asked us for storage commitment, each on an association of our own (PS3.4 J.3.3).

The receiver writes the request down; a worker reports what the ledger then says of it, and tries again until the peer
has the report or is given up.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from chexnode.deliver.destination import unexpected
from chexnode.dimse.requestor import Association
from chexnode.dimse.uids import IMPLICIT_VR, PUSH_MODEL
from chexnode.node import Node
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.peer import PeerSettings
from chexnode.tls import client_context
from chexnode.vocabulary.backoff import Backoff
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 20
"""With the back-off's longest wait of a minute: a quarter of an hour at least. Whoever still wants it asks again."""

_CONTEXT = (PUSH_MODEL, IMPLICIT_VR)


def report_due(node: Node) -> int:
    """Report whatever is due; return how many reports were acknowledged. Raises Transient when the database is away."""
    acknowledged = 0
    commitments = node.ledger.commitments
    while not node.stopping.is_set() and (request := commitments.due()) is not None:
        peer = next((p for p in node.settings.peer if p.ae_title == request.peer and p.port is not None), None)
        if peer is None:
            commitments.reported(request.transaction_uid, "the settings no longer say where this peer listens")
            continue
        try:
            with unexpected():
                _report(node, peer, request)
            commitments.reported(request.transaction_uid)
            acknowledged += 1
        except DestinationDown as down:
            wait = timedelta(seconds=Backoff().delay(request.attempts))
            again_at = node.ledger.clock() + wait if request.attempts < MOST_ATTEMPTS else None
            log.warning("no report of storage commitment to %s: %s", peer.ae_title, down.why)
            commitments.reported(request.transaction_uid, str(down), again_at)
    return acknowledged


def _report(node: Node, peer: PeerSettings, request: CommitmentRequest) -> None:
    to = DestinationSettings(name="peer", ae_title=peer.ae_title, host=peer.host[0], port=peer.port)
    tls = client_context(node.settings.tls) if peer.tls else None
    ours = node.settings.node.ae_title
    assoc = Association(to, ours, [_CONTEXT], node.stopping, tls, as_scp=[PUSH_MODEL])
    try:
        if _CONTEXT not in assoc.accepted:
            raise DestinationDown("it does not take reports of storage commitment")
        verdict = node.ledger.commitments.verdict(request.instances)
        status, comment = assoc.report_commitment(request.transaction_uid, verdict)
        if status != 0x0000:
            raise DestinationDown(f"it answered with status 0x{status:04X}", comment)
    finally:
        assoc.release()
