"""What became of a data set that was to be stored, whichever way it came: C-STORE, STOW-RS, C-GET or a retrieval."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chexnode.dimse.messages import Status


class Failure(StrEnum):
    """Why it was not stored. The values are the sentences that senders read."""

    NOT_UNDERSTOOD = "the data set, or a UID that identifies it, cannot be read"
    MISMATCH = "the data set is not the one that was announced"
    TOO_LARGE = "object larger than the limit"
    DISK_LOW = "disk low"
    DISK_FAILED = "the disk is full or failing"
    BUSY = "not recorded, try again later"
    """The database is away or overloaded."""
    FAULT = "not recorded"
    """A fault of this node."""

    @property
    def status(self) -> Status:
        """The Status (0000,0900) of PS3.4 table B.2-1, which is also the Failure Reason of PS3.18 table I.2-2."""
        return _STATUS.get(self, Status.OUT_OF_RESOURCES)

    @property
    def is_of_disk(self) -> bool:
        """Whether the disk cannot take it now."""
        return self in (Failure.DISK_LOW, Failure.DISK_FAILED)

    @property
    def is_temporary(self) -> bool:
        """Whether the same data set may be stored later."""
        return self.is_of_disk or self is Failure.BUSY


_STATUS = {
    Failure.NOT_UNDERSTOOD: Status.CANNOT_UNDERSTAND,
    Failure.MISMATCH: Status.DATA_SET_MISMATCH,
    Failure.FAULT: Status.PROCESSING_FAILURE,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Stored, or why not."""

    failure: Failure | None = None
    detail: str = ""
    """More exact than the failure's own sentence."""

    @property
    def status(self) -> int:
        """Status of a C-STORE response."""
        return self.failure.status if self.failure else Status.SUCCESS

    @property
    def comment(self) -> str:
        """Error Comment of a response; empty for success."""
        return self.detail or (self.failure.value if self.failure else "")


class NotStored(Exception):
    """The data set is not stored; ``answer`` says why."""

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(detail or failure.value)
        self.answer = Answer(failure, detail)
