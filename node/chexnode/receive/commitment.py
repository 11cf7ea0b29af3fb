"""Storage commitment by the ledger (PS3.4 annex J): of what peers have stored to us, and of what we stored elsewhere.

A request, or a report of a destination, may come to any receiver.
"""

from __future__ import annotations

from collections.abc import Sequence

from chexnode.ledger.ledger import Ledger
from chexnode.settings.peer import PeerSettings
from chexnode.vocabulary.records import CommitmentRequest, CommitmentVerdict


class CommitmentService:
    """Records requests and reports. Thread safe. Its methods raise Transient while the database is away."""

    def __init__(self, ledger: Ledger, peers: Sequence[PeerSettings]) -> None:
        self._commitments = ledger.commitments
        self._reachable = {peer.ae_title for peer in peers if peer.port is not None}

    def requested(self, request: CommitmentRequest) -> CommitmentVerdict | None:
        """Record a peer's request; return the verdict where the peer listens nowhere, and is to have it at once."""
        listens = request.peer in self._reachable
        self._commitments.requested(request, report=listens)
        return None if listens else self._commitments.verdict(request.instances)

    def reported(self, transaction_uid: str) -> None:
        """The peer has acknowledged the report that it got at once."""
        self._commitments.reported(transaction_uid)

    def answered(self, transaction_uid: str, verdict: CommitmentVerdict) -> bool:
        """Record a destination's report; False for a transaction that was never asked for."""
        return self._commitments.answered(transaction_uid, verdict)
