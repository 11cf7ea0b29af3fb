"""What may become what: the whole truth about the moves of everything that the ledger tracks.

The ledger refuses every other move, and the diagrams in docs/reference/states.md are generated from this table.
"""

from __future__ import annotations

from collections.abc import Mapping

from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState, State, StudyState

_I, _J, _D, _S = InstanceState, JobState, DeliveryState, StudyState

#: What may become what. Every move is one compare-and-swap UPDATE and one event row in the same transaction.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    _I.ANALYSABLE: frozenset(),
    _I.NOT_ANALYSED: frozenset({_I.ANALYSABLE}),  # re-sent after the gate's settings changed
    _I.QUARANTINED: frozenset({_I.ANALYSABLE}),  # re-sent in the transfer syntax that it really is of
    _J.QUEUED: frozenset({_J.RUNNING, _J.CANCELLED}),
    _J.RUNNING: frozenset({_J.QUEUED, _J.DELIVERING, _J.REFUSED, _J.FAILED, _J.CANCELLED, _J.SKIPPED}),
    _J.DELIVERING: frozenset({_J.DONE}),
    _J.DONE: frozenset({_J.DELIVERING}),  # a replay
    _J.REFUSED: frozenset({_J.QUEUED}),  # `jobs retry`
    _J.FAILED: frozenset({_J.QUEUED}),  # `jobs retry`
    _J.CANCELLED: frozenset({_J.QUEUED}),  # `jobs retry`
    _J.SKIPPED: frozenset(),
    _D.PENDING: frozenset({_D.SENT, _D.WAITING, _D.DEAD, _D.WITHDRAWN}),
    _D.WAITING: frozenset({_D.SENT, _D.WAITING, _D.DEAD, _D.PENDING, _D.WITHDRAWN}),
    _D.SENT: frozenset({_D.COMMITTED, _D.WAITING, _D.DEAD, _D.PENDING, _D.WITHDRAWN}),
    _D.COMMITTED: frozenset({_D.PENDING, _D.WITHDRAWN}),  # a replay, or its result is superseded
    _D.DEAD: frozenset({_D.PENDING, _D.WITHDRAWN}),  # a replay, or its result is superseded
    _D.WITHDRAWN: frozenset(),
    _S.OPEN: frozenset({_S.CLOSED}),
    _S.CLOSED: frozenset({_S.OPEN}),
}
