"""What a PACS sends on our own association (C-GET) is stored as if it had been sent to us."""

from __future__ import annotations

from chexnode.audit.trail import Trail
from chexnode.audit.transfers import Transfers
from chexnode.receive.filemeta import Announced
from chexnode.receive.storage import Caller, StorageService
from chexnode.settings.tree import DestinationSettings


def caller_of(source: DestinationSettings) -> Caller:
    """As whom ``source`` counts in rules and tables: its AE title, or its name."""
    return Caller(source.ae_title or source.name[:16], source.address)


class Inbox:
    """Takes the instances that a PACS sends on our association (C-GET), with the promises of C-STORE."""

    def __init__(self, storage: StorageService, source: DestinationSettings, trail: Trail) -> None:
        self._storage, self._source, self._trail = storage, source, trail
        self._caller = caller_of(source)
        self._transfers = Transfers()

    def keep(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: bytes) -> int:
        """Store an encoded data set; return the Status, success only once it is durable."""
        announced = Announced(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        reception = self._storage.begin(announced, self._caller)
        try:
            reception.write(memoryview(data))
            answer = reception.finish()
        finally:
            reception.abandon()
        if reception.stored is not None:
            one = reception.stored
            self._transfers.add(one.subject, one.sop_class_uid, one.held_before)
        if self._transfers.due:
            self.tell()
        return int(answer.status)

    def tell(self) -> None:
        """Let the audit trail know what has come."""
        self._trail.fetched(self._source, self._transfers)
