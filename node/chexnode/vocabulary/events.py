"""What the ledger's history says happened; one append-only row each."""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """What happened to an instance, a job, a delivery, a study, the node, a token or a user."""

    # to an instance
    NEW = "new"
    """Its first version was received."""
    CONFLICT = "conflict"
    """Other bytes were received under its SOP Instance UID: a new version."""
    DUPLICATE = "duplicate"
    """The very bytes were received again."""
    OWN_RESULT = "own-result"
    """One of our own results came back."""
    TRIAGED = "triaged"
    """Received again, it can now be analysed."""
    NOTE_FAILED = "note-failed"
    """It could not be looked at for rejections, or what it rejects could not be ended; it is tried again for a day."""
    NOTE_READ = "note-read"
    """It is a Key Object Selection, which was looked at; the detail says what was rejected by it."""

    # to a job
    CREATED = "created"
    """It was queued."""
    CLAIMED = "claimed"
    """A worker took it under a lease; the detail names the worker."""
    ANALYSED = "analysed"
    """Its results and their deliveries were committed."""
    REFUSED = "refused"
    """The pixels can never be analysed; the detail is the reason."""
    FAILED = "failed"
    """A bug, or too many attempts."""
    REQUEUED = "requeued"
    """It failed for now and is tried again after a back-off."""
    RELEASED = "released"
    """Its worker gave it back untouched."""
    LEASE_EXPIRED = "lease-expired"
    """Its worker was not heard of for too long; the detail names the worker."""
    REPLACED = "replaced"
    """No worker offers its analysis any more: a job of another analysis takes its place."""
    RETRIED = "retried"
    """It was queued again, by a person or because its image came again."""
    CANCELLED = "cancelled"
    """A person cancelled it."""
    DONE = "done"
    """Its last delivery ended."""

    SKIPPED = "skipped"
    """The results of another version of its image stand; the detail says why."""
    SUPERSEDED = "superseded"
    """Its results are valid no longer; the detail is the reason for it."""

    # to a delivery
    SENT = "sent"
    """The destination accepted it."""
    WAITING = "waiting"
    """It was not accepted, or not committed to, and is tried again."""
    COMMITTED = "committed"
    """The destination took responsibility for it (PS3.4 annex J)."""
    DEAD = "dead"
    """It was given up."""
    WITHDRAWN = "withdrawn"
    """Its result was superseded, and is not sent any more."""
    REPLAYED = "replayed"
    """A person had it sent again; of a job: one of its deliveries."""

    # to a study
    CLOSED = "closed"
    """No image of it came for a while."""
    REOPENED = "reopened"
    """A late image came."""
    REPORTED = "reported"
    """A report of what was not analysed in it was committed."""
    REPORT_FAILED = "report-failed"
    """That report could not be made."""

    # to the node
    ERASED = "erased"
    """A patient or a study was erased; the detail counts what went, and names nobody."""

    # to a token or a user
    ADDED = "added"
    """It was made; the detail is its scopes."""
    CHANGED = "changed"
    """A user was given another role or password; the detail says which."""
    REVOKED = "revoked"
    """It was ended, or the user removed."""
