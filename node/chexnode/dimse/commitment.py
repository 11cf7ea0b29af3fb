"""The data sets of storage commitment (PS3.4 J.3.2, J.3.3), as both sides read and write them. Pure."""

from __future__ import annotations

from pydicom.dataset import Dataset

from chexnode.vocabulary.records import CommitmentRequest, CommitmentVerdict

PUSH_MODEL = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its one, well-known instance."""
REQUEST = 1
"""Action Type ID (PS3.4 table J.3-1)."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type IDs (PS3.4 table J.3-2)."""

MOST_REFERENCES = 50_000
"""Instances that one data set may name."""


class NotACommitment(ValueError):
    """The data set is no request or report of storage commitment."""


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
    """A request that ``peer`` made. Raises NotACommitment."""
    return CommitmentRequest(_transaction(ds), peer, _pairs(ds, "ReferencedSOPSequence"))


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


def _transaction(ds: Dataset) -> str:
    uid = str(ds.get("TransactionUID") or "")
    if not 0 < len(uid) <= 64 or not set(uid) <= set("0123456789."):
        raise NotACommitment("no Transaction UID")
    return uid


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    items = list(ds.get(keyword) or ())
    if len(items) > MOST_REFERENCES:
        raise NotACommitment(f"more than {MOST_REFERENCES} references")
    return items


def _pairs(ds: Dataset, keyword: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(
        (str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or ""))
        for item in _items(ds, keyword)
    )
    if any(not (0 < len(uid) <= 64 and set(uid) <= set("0123456789.")) for pair in pairs for uid in pair):
        raise NotACommitment(f"{keyword} holds no pair of UIDs")
    return pairs
