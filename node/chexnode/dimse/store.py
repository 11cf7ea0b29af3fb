"""C-STORE as SCP (PS3.4 annex B): on associations that others open, and on ours during a C-GET."""

from __future__ import annotations

from chexnode.dimse.contexts import Context
from chexnode.dimse.messages import Command, Messages, Sink, Status
from chexnode.dimse.services import StorageSession


def store(
    exchange: Messages, context_id: int, command: Command, context: Context, storage: StorageSession, discard: Sink
) -> tuple[int, str]:
    """Receive the data set of a C-STORE request into ``storage``; return Status and Error Comment to answer.

    ``discard`` takes what is not to be stored. Raises Closed, ProtocolError.
    """
    if not command.has_data_set:
        return Status.CANNOT_UNDERSTAND, "no data set"
    if command.affected_sop_class_uid != context.abstract_syntax:
        exchange.data_set(context_id, discard)
        return Status.DATA_SET_MISMATCH, "Affected SOP Class UID is not the context's abstract syntax"
    reception = storage.begin(
        command.affected_sop_class_uid, command.affected_sop_instance_uid, context.transfer_syntax
    )
    try:
        exchange.data_set(context_id, reception)
        answer = reception.finish()
    finally:
        reception.abandon()
    return answer.status, answer.comment
