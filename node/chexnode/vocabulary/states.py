"""The states of everything that the ledger tracks; :mod:`chexnode.vocabulary.transitions` says what may become what."""

from __future__ import annotations

from enum import StrEnum


class InstanceState(StrEnum):
    """A version of an instance: one (SOP Instance UID, digest). Decided by the header when the bytes are stored."""

    ANALYSABLE = "ANALYSABLE"
    """The header allows analysis; a job exists for it."""
    NOT_ANALYSED = "NOT_ANALYSED"
    """A sound object that this node does not analyse; the reason says why."""
    QUARANTINED = "QUARANTINED"
    """Stored as received, but the data set is not sound enough to be served or analysed; the reason says why."""


class JobState(StrEnum):
    """One eligible image x one model."""

    QUEUED = "QUEUED"
    """Waiting for a worker, perhaps until a back-off has passed."""
    RUNNING = "RUNNING"
    """Claimed by a worker under a lease."""
    DELIVERING = "DELIVERING"
    """Results are committed; at least one delivery is not terminal."""
    DONE = "DONE"
    """Every delivery is terminal. Dead ones are counted and visible."""
    REFUSED = "REFUSED"
    """The pixels can never be analysed; the reason says why."""
    FAILED = "FAILED"
    """A bug, or too many attempts; the error is kept."""
    CANCELLED = "CANCELLED"
    """A person cancelled it."""
    SKIPPED = "SKIPPED"
    """The results of another version of the image stand, and nothing is made or sent; the reason says why."""


class DeliveryState(StrEnum):
    """One result x one destination."""

    PENDING = "PENDING"
    """Not tried yet."""
    WAITING = "WAITING"
    """Tried and not accepted; tried again at ``next_attempt``."""
    SENT = "SENT"
    """Accepted by the destination. Terminal unless storage commitment is asked for."""
    COMMITTED = "COMMITTED"
    """The destination has taken responsibility (storage commitment)."""
    DEAD = "DEAD"
    """Given up: refused for good, or too old; the error is kept and it can be replayed."""
    WITHDRAWN = "WITHDRAWN"
    """Its result was superseded or withdrawn: it is not sent any more. A destination that may have it is told by a
    rejection note, which has a delivery of its own."""


class Uncommitted(StrEnum):
    """Why a delivery that the destination had accepted is without the storage commitment that was asked for."""

    REFUSED = "refused"
    """The destination answered that it does not commit to the result."""
    UNANSWERED = "unanswered"
    """It never answered, for as long as deliveries are tried."""


class StudyState(StrEnum):
    """All images of one study: an aggregate, never the unit of work."""

    OPEN = "OPEN"
    """An image arrived less than ``[study] quiet_seconds`` ago."""
    CLOSED = "CLOSED"
    """Quiet for that long. A late image reopens it."""


State = InstanceState | JobState | DeliveryState | StudyState

#: A job in one of these needs nothing more.
FINAL_JOB_STATES = frozenset({JobState.DONE, JobState.REFUSED, JobState.FAILED, JobState.CANCELLED, JobState.SKIPPED})
