"""What the acceptor and the requestor call: services that are handed to them. They know no ledger and no disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chexnode.dimse.messages import Sink
from chexnode.vocabulary.records import Caller, CommitmentRequest, CommitmentVerdict


class Answer(Protocol):
    """What to answer to a C-STORE request."""

    @property
    def status(self) -> int:
        """Status (0000,0900)."""
        ...

    @property
    def comment(self) -> str:
        """Error Comment (0000,0902)."""
        ...


class Reception(Sink, Protocol):
    """One data set on its way in."""

    def finish(self) -> Answer:
        """The data set is complete: store it; return what to answer."""
        ...

    def abandon(self) -> None:
        """The data set will not be complete, or is dealt with: leave nothing behind."""
        ...


class StorageSession(Protocol):
    """Takes the instances of one association."""

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        """Start to receive a data set that was announced so."""
        ...

    def close(self) -> None:
        """The association is over."""
        ...


class CommitmentService(Protocol):
    """Storage commitment (PS3.4 annex J) as the SCP, and as the SCU that gets reports."""

    def requested(self, request: CommitmentRequest) -> CommitmentVerdict | None:
        """Record a request; return the verdict where it is to be reported on the same association."""
        ...

    def reported(self, transaction_uid: str) -> None:
        """The verdict that :meth:`requested` returned was acknowledged."""
        ...

    def answered(self, transaction_uid: str, verdict: CommitmentVerdict) -> bool:
        """Record a report of a peer; False for a transaction that was never asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything an acceptor needs."""

    has_room: Callable[[], bool]
    """Whether an image may be taken now; associations are rejected while not."""
    store: Callable[[Caller], StorageSession]
    """Begins to take instances of an accepted association."""
    commitment: CommitmentService
