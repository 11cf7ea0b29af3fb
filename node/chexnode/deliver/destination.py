"""What every destination is to the courier: it takes a batch of results and answers for each one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pydicom.dataset import Dataset

from chexnode.spool.spool import DiskRefused, Spool
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest, DeliveryClaim

log = logging.getLogger(__name__)


class Interrupted(DestinationDown):
    """The destination failed while ``item`` was under way, which may be its fault."""

    def __init__(self, error: str, item: Outgoing) -> None:
        super().__init__(error)
        self.item = item


class DeliveryAnswer(StrEnum):
    """What became of one item."""

    ACCEPTED = "accepted"
    """The destination has it, perhaps with a warning, perhaps since an earlier time."""
    RETRY = "retry"
    """Not now."""
    DOUBTFUL = "doubtful"
    """Perhaps never: worth a few more tries."""
    DEAD = "dead"
    """Never, as it is."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One claimed delivery and the spool that its Part 10 file is in."""

    claim: DeliveryClaim
    spool: Spool

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.spool.path(self.claim.path)


@dataclass(frozen=True, slots=True)
class Sent:
    """The answer to one item."""

    item: Outgoing
    answer: DeliveryAnswer
    detail: str = ""
    """An error or warning as a sentence of our own; empty for a plain success."""
    status: int | None = None
    """DIMSE or HTTP status, where there is one."""
    comment: str = ""
    """The destination's own words to an error or warning, which may name a patient."""


class Destination(Protocol):
    """Where results go. One object serves one thread."""

    @property
    def name(self) -> str:
        """The name in the settings."""
        ...

    def send(self, items: Sequence[Outgoing]) -> Iterator[Sent]:
        """Send ``items`` in order, yielding one answer each as it comes; fewer when asked to stop.

        Raises :class:`DestinationDown`; items not yet answered then stay unanswered. Whatever else it raises counts as
        the destination's failure too: see :func:`answers`. A destination may keep its
        connection for the next batch until :meth:`close`.
        """
        ...

    def request_commitment(self, request: CommitmentRequest, on_report: Callable[[Dataset], int]) -> None:
        """Ask for storage commitment. ``on_report`` takes a report that comes at once and returns the status to answer.

        Raises :class:`DestinationDown` where the request is not accepted.
        """
        ...

    def close(self) -> None:
        """End what :meth:`send` left open."""
        ...


def answers(destination: Destination, items: Sequence[Outgoing]) -> Iterator[Sent]:
    """What ``destination`` answers to ``items``, by :meth:`Destination.send`.

    Raises DestinationDown and nothing else: an answer that no code of ours expects is a failure of the destination,
    with a reason and a log entry, that counts and waits as any other does.
    """
    sent = destination.send(items)
    left = list(items)
    while True:
        with unexpected(left[0] if len(left) == 1 else None):
            one = next(sent, None)
        if one is None:
            return
        left = [item for item in left if item is not one.item]
        yield one


@contextmanager
def unexpected(item: Outgoing | None = None) -> Iterator[None]:
    """Turn every exception that is no DestinationDown into one; ``item``: the only one that can be under way."""
    try:
        yield
    except DestinationDown:
        raise
    except Exception as error:
        log.exception("a destination's answer was not expected")
        why = f"its answer was not expected ({type(error).__name__}): the log says more"
        raise (Interrupted(why, item) if item is not None else DestinationDown(why)) from error


def load(item: Outgoing) -> bytes | Sent:
    """Return the item's file, proven to be the bytes that were committed; else what to answer without sending it."""
    try:
        content = item.spool.read(item.claim.path)
    except FileNotFoundError:
        return Sent(item, DeliveryAnswer.DEAD, "the stored file is gone")
    except DiskRefused as error:
        return unread(item, str(error))
    if hashlib.sha256(content).hexdigest() != item.claim.sha256:
        return Sent(item, DeliveryAnswer.DEAD, "the stored file is damaged: its SHA-256 is not the committed one")
    return content


def unread(item: Outgoing, why: str) -> Sent:
    """The answer to an item whose file our own disk does not give now: no fault of the destination's."""
    return Sent(item, DeliveryAnswer.RETRY, f"the stored file cannot be read: {why}")
