"""The receiver: spool, committer, storage service and association server put together."""

from __future__ import annotations

from chexnode.audit.trail import OFF, Trail
from chexnode.dimse.server import AssociationServer
from chexnode.ledger.ledger import Ledger
from chexnode.receive.commitment import CommitmentService
from chexnode.receive.committer import Bell, Committer
from chexnode.receive.storage import StorageService
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.records import JobSpec

#: Messages under way when the node stops may take this long to be answered.
GRACE_SECONDS = 30.0


def storage_service(settings: Settings, ledger: Ledger, spool: Spool, bell: Bell, spec: JobSpec) -> StorageService:
    """The storage service over ``ledger`` and ``spool``, not yet started."""
    committer = Committer(
        spool,
        lambda arrivals, before_commit: ledger.instances.record(arrivals, spec, before_commit),
        bell,
    )
    return StorageService(settings, spool, committer)


class Receiver:
    """Verification and Storage SCP. Ports are bound at once (raises BadEnvironment), served from :meth:`start` on."""

    def __init__(
        self, settings: Settings, ledger: Ledger, spool: Spool, bell: Bell, spec: JobSpec, trail: Trail = OFF
    ) -> None:
        spool.prepare()
        self._service = storage_service(settings, ledger, spool, bell, spec)
        self._server = AssociationServer(settings, self._service, CommitmentService(ledger, settings.peer), trail)

    @property
    def port(self) -> int | None:
        """The port it listens on without TLS."""
        return self._server.port

    @property
    def tls_port(self) -> int | None:
        """The port it listens on with TLS."""
        return self._server.tls_port

    def start(self) -> None:
        """Begin to accept associations."""
        self._service.start()
        self._server.start()

    def stop(self) -> None:
        """Let running stores be answered, then end all associations."""
        self._server.stop(GRACE_SECONDS)
        self._service.stop()
