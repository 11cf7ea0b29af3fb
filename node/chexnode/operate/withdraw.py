"""Withdrawing the results of one image because a person says so: they are valid no longer, and destinations hear it."""

from __future__ import annotations

from chexnode.node import Node
from chexnode.vocabulary.errors import Transient, Usage
from chexnode.vocabulary.supersession import Supersession
from chexnode.work.replacing import header_of, withdrawals
from chexnode.work.store import discard, store


def withdraw(node: Node, job: str, by: str | None) -> tuple[str, ...]:
    """End the results of ``job``, and have destinations that may have them withdraw them as their settings say.

    Returns the names of those that are asked. Raises Usage where ``job`` has no valid results, Transient when the
    database is away or the results were replaced at this moment, and DiskRefused.
    """
    image = node.ledger.views.job(job).sop_instance_uid
    old = next((one for one in node.ledger.sets.valid(image) if one.job == job), None)
    if old is None:
        raise Usage(f"{job} has no results that are valid")
    sets = {job: (old, header_of(old, node.spool), Supersession.REJECTED)}
    encoded, to = withdrawals(sets, node.settings.destination, node.ledger.clock())
    rows = store(node.spool, encoded)
    try:
        node.ledger.rejections.withdraw(old, image, rows, to, by)
    except Transient:
        discard(node.spool, node.ledger, [row.path for row in rows])
        raise
    for name in sorted({name for _, name in to}):
        node.bell.ring("deliver", name)
    return tuple(sorted({name for _, name in to}))
