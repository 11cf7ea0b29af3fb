"""Storage commitment (PS3.4 annex J): its data sets, for both sides, and the answers to its messages."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from chexnode.dimse import datasets, messages
from chexnode.dimse.contexts import Context
from chexnode.dimse.datasets import NotADataSet
from chexnode.dimse.messages import Command, Status
from chexnode.dimse.services import CommitmentService
from chexnode.dimse.uids import PUSH_MODEL_INSTANCE
from chexnode.vocabulary.records import Caller, CommitmentRequest, CommitmentVerdict
from chexnode.vocabulary.tracebacks import fault

log = logging.getLogger(__name__)

REQUEST = 1
"""Action Type ID (PS3.4 table J.3-1)."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type IDs (PS3.4 table J.3-2)."""
MOST_REFERENCES = 50_000
"""Instances that one data set may name."""
MAX_ELEMENTS = 3 * MOST_REFERENCES + 100
"""Elements of a data set with as many, each with a reason of failure."""
MAX_DATA_SET = 16 << 20
"""Bytes of a data set with as many."""


class NotACommitment(ValueError):
    """The data set is no request or report of storage commitment; ``status`` is what to answer (PS3.7 annex C)."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """An N-EVENT-REPORT to send on the very association that asked."""

    transaction_uid: str
    event_type: int
    data: bytes


def handle(
    service: CommitmentService, command: Command, data: bytes | None, context: Context, caller: Caller
) -> tuple[int, str, CommitmentReport | None]:
    """Answer an N-ACTION or N-EVENT-REPORT with ``data``: status, Error Comment and the report that is to follow.

    ``data`` is None where it was larger than any storage commitment. Raises nothing.
    """
    is_request = command.field == messages.N_ACTION_RQ
    if is_request and (command.type_id, command.affected_sop_instance_uid) != (REQUEST, PUSH_MODEL_INSTANCE):
        return Status.NO_SUCH_ACTION, "only requests for storage commitment", None
    try:
        if data is None:
            raise NotACommitment(Status.RESOURCE_LIMITATION, f"more than {MAX_DATA_SET >> 20} MB")
        ds = datasets.decode(data, context.transfer_syntax, MAX_ELEMENTS)
        if not is_request:
            return *_record_report(service, ds), None
        request = read_action(ds, caller.ae_title)
        verdict = service.requested(request)
        log.info("storage commitment asked for", extra={"count": len(request.instances), "address": caller.address})
        if verdict is None:
            return Status.SUCCESS, "", None
        event_type, information = event(request.transaction_uid, verdict)
        encoded = datasets.encode(information, context.transfer_syntax)
        return Status.SUCCESS, "", CommitmentReport(request.transaction_uid, event_type, encoded)
    except NotACommitment as error:
        return error.status, str(error), None
    except NotADataSet as error:
        return Status.INVALID_ARGUMENT, str(error), None
    except Exception as error:  # a ledger that is away: ask again
        log.error("storage commitment failed", extra={"error": fault(error), "address": caller.address})
        return Status.PROCESSING_FAILURE, "not recorded", None


def _record_report(service: CommitmentService, ds: Dataset) -> tuple[int, str]:
    transaction_uid, verdict = read_event(ds)
    if not service.answered(transaction_uid, verdict):
        return Status.PROCESSING_FAILURE, "no such transaction"
    log.info("storage commitment", extra={"committed": len(verdict.committed), "failed": len(verdict.failed)})
    return Status.SUCCESS, ""


def action(request: CommitmentRequest) -> Dataset:
    """Action Information of a request."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = [_reference(*pair) for pair in request.instances]
    return ds


def event(transaction_uid: str, verdict: CommitmentVerdict) -> tuple[int, Dataset]:
    """Event Type ID and Event Information of a report."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    if verdict.committed:
        ds.ReferencedSOPSequence = [_reference(*pair) for pair in verdict.committed]
    for sop_class_uid, uid, reason in verdict.failed:
        item = _reference(sop_class_uid, uid)
        item.FailureReason = reason
        ds.setdefault("FailedSOPSequence", []).value.append(item)
    return SOME_FAILED if verdict.failed else ALL_COMMITTED, ds


def read_action(ds: Dataset, peer: str) -> CommitmentRequest:
    """A request that ``peer`` made. Raises NotACommitment, also where it names no instance."""
    request = CommitmentRequest(_transaction(ds), peer, _pairs(ds, "ReferencedSOPSequence"))
    if not request.instances:
        raise NotACommitment(Status.INVALID_ARGUMENT, "no Referenced SOP Sequence")
    return request


def read_event(ds: Dataset) -> tuple[str, CommitmentVerdict]:
    """Transaction UID and verdict of a report. Raises NotACommitment."""
    failed = tuple(
        (sop_class, uid, int(item.get("FailureReason") or 0x0110))
        for (sop_class, uid), item in zip(_pairs(ds, "FailedSOPSequence"), _items(ds, "FailedSOPSequence"), strict=True)
    )
    return _transaction(ds), CommitmentVerdict(_pairs(ds, "ReferencedSOPSequence"), failed)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _is_uid(text: str) -> bool:
    return 0 < len(text) <= 64 and set(text) <= set("0123456789.")


def _transaction(ds: Dataset) -> str:
    uid = str(ds.get("TransactionUID") or "")
    if not uid:
        raise NotACommitment(Status.MISSING_ATTRIBUTE, "no Transaction UID")
    if not _is_uid(uid):
        raise NotACommitment(Status.INVALID_ARGUMENT, "Transaction UID is not a UID")
    return uid


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    value = ds.get(keyword)
    if value and not isinstance(value, Sequence):
        raise NotACommitment(Status.INVALID_ARGUMENT, f"{keyword} is not a sequence")
    items = list(value or ())
    if len(items) > MOST_REFERENCES:
        raise NotACommitment(Status.RESOURCE_LIMITATION, f"more than {MOST_REFERENCES} references")
    return items


def _pairs(ds: Dataset, keyword: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(
        (str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or ""))
        for item in _items(ds, keyword)
    )
    if not all(_is_uid(uid) for pair in pairs for uid in pair):
        raise NotACommitment(Status.INVALID_ARGUMENT, f"{keyword} holds no pair of UIDs")
    return pairs
