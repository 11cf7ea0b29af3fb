"""The instances of one association, or of one retrieval, on their way into the storage service."""

from __future__ import annotations

from collections.abc import Callable

from chexnode.audit.transfers import Transfers
from chexnode.receive.filemeta import Announced
from chexnode.receive.storage import Reception, StorageService, StoredInstance
from chexnode.vocabulary.records import Caller


class StorageSession:
    """Stores for one caller, and records it in the audit trail, in parts while it lasts. Not thread safe."""

    def __init__(
        self,
        service: StorageService,
        caller: Caller,
        record: Callable[[Transfers], None],
        on_stored: Callable[[str], None] | None = None,
    ) -> None:
        """``record``: takes the counts for the audit trail. ``on_stored``: is called with each SOP Instance UID."""
        self._service, self._caller = service, caller
        self._record, self._on_stored = record, on_stored
        self._transfers = Transfers()

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        """Start to receive a data set that was announced so."""
        announced = Announced(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        return self._service.begin(announced, self._caller, lambda stored: self._add(sop_instance_uid, stored))

    def close(self) -> None:
        """Record what is not recorded yet."""
        self._record(self._transfers)

    def _add(self, sop_instance_uid: str, stored: StoredInstance) -> None:
        self._transfers.add(stored.subject, stored.sop_class_uid, stored.had_before)
        if self._on_stored is not None:
            self._on_stored(sop_instance_uid)
        if self._transfers.due:
            self._record(self._transfers)
