"""Storage commitment on associations that others open (PS3.4 annex J): requests for what they stored to us, and answers
to what we asked of destinations. Both may come to any receiver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from chexnode.dimse import commitment
from chexnode.dimse.commitment import NotACommitment
from chexnode.dimse.contexts import Context
from chexnode.dimse.messages import N_ACTION_RQ, Command, Status
from chexnode.ledger.ledger import Ledger
from chexnode.receive.storage import Answer, Caller
from chexnode.settings.tree import PeerSettings
from chexnode.vocabulary.tracebacks import fault

log = logging.getLogger(__name__)

#: A report of 50,000 instances has less.
MAX_DATA_SET = 16 << 20

_IMPLICIT_VR, _EXPLICIT_VR = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT to send on the very association that asked; ``sent`` is called when it was acknowledged."""

    event_type: int
    data: bytes
    sent: Callable[[], None]


class CommitmentService:
    """Answers N-ACTION and takes N-EVENT-REPORT. Thread safe."""

    def __init__(self, ledger: Ledger, peers: Sequence[PeerSettings]) -> None:
        self._ledger = ledger
        self._reachable = {peer.ae_title for peer in peers if peer.port is not None}

    def handle(self, command: Command, data: bytes, context: Context, caller: Caller) -> tuple[Answer, Report | None]:
        """Answer one message. The report follows on the same association where the caller listens nowhere."""
        try:
            ds = decode(BytesIO(data), context.transfer_syntax == _IMPLICIT_VR, True)
            if command.field == N_ACTION_RQ:
                return self._asked(command, ds, context, caller)
            return self._told(ds), None
        except NotACommitment as error:
            return Answer(Status.PROCESSING_FAILURE, str(error)), None
        except Exception as error:  # a data set that cannot be parsed, or a ledger that is away: ask again
            log.error("storage commitment failed", extra={"error": fault(error), "address": caller.address})
            return Answer(Status.PROCESSING_FAILURE, "not recorded"), None

    def _asked(self, command: Command, ds: Dataset, context: Context, caller: Caller) -> tuple[Answer, Report | None]:
        if command.type_id != commitment.REQUEST or command.affected_sop_instance_uid != commitment.PUSH_MODEL_INSTANCE:
            return Answer(Status.NO_SUCH_ACTION, "only requests for storage commitment"), None
        request = commitment.read_action(ds, caller.ae_title)
        elsewhere = caller.ae_title in self._reachable
        self._ledger.commitments.requested(request, report=elsewhere)
        log.info("storage commitment asked for", extra={"count": len(request.instances), "address": caller.address})
        if elsewhere:
            return Answer(Status.SUCCESS), None
        event_type, information = commitment.event(
            request.transaction_uid, self._ledger.commitments.verdict(request.instances)
        )
        encoded = encode(information, context.transfer_syntax == _IMPLICIT_VR, True)
        assert encoded is not None
        sent = self._ledger.commitments.reported
        return Answer(Status.SUCCESS), Report(event_type, encoded, lambda: sent(request.transaction_uid))

    def _told(self, ds: Dataset) -> Answer:
        transaction_uid, verdict = commitment.read_event(ds)
        if not self._ledger.commitments.answered(transaction_uid, verdict):
            return Answer(Status.PROCESSING_FAILURE, "no such transaction")
        log.info("storage commitment", extra={"committed": len(verdict.committed), "failed": len(verdict.failed)})
        return Answer(Status.SUCCESS)
