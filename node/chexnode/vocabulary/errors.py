"""The node's exceptions; the class decides what happens to the work.

    NodeError
    ├── Refused       never will work: state REFUSED with a coded reason, no retry
    ├── Transient     will work later: back to QUEUED or WAITING with full-jitter back-off
    │   └── DestinationDown  another system cannot be used now
    ├── StaleMove     a compare-and-swap found another state: somebody else was first
    ├── BadEnvironment the machine or the installation is wrong: exit code 3
    └── Usage         the command or the settings are wrong: exit code 2

Anything else is a bug: the job becomes FAILED and keeps the traceback.
"""

from __future__ import annotations

from chexnode.vocabulary.reasons import Reason


class NodeError(Exception):
    """Base of everything ChexNode raises on purpose."""


class Refused(NodeError):
    """This image can never be analysed; ``reason`` says why in a code that metrics and tables count."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class Transient(NodeError):
    """Not now: the PACS is down, the GPU is out of memory, the database is busy."""


class DestinationDown(Transient):
    """Another system (PACS, DICOMweb service, folder) cannot be used now; what it has not answered is tried again.

    ``why`` says so in our own words, fit for logs. ``comment`` is what the other side said, an Error Comment
    (0000,0902), which may name a patient; the exception's text has both.
    """

    def __init__(self, why: str, comment: str = "") -> None:
        super().__init__(f"{why}: {comment}" if comment else why)
        self.why, self.comment = why, comment


class StaleMove(NodeError):
    """The row was not in the state, or under the lease, that the move started from."""


class BadEnvironment(NodeError):
    """The machine, the database schema, the disk or the installation is not fit; a person must act."""


class Usage(NodeError):
    """The command line or the settings are wrong."""
