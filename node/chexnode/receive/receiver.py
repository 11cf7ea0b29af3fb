"""The receiver: storage service, commitment service and association server put together."""

from __future__ import annotations

import resource
from functools import partial

from chexnode.dimse.server import AssociationServer
from chexnode.dimse.services import Services
from chexnode.node import Node
from chexnode.receive.commitment import CommitmentService
from chexnode.receive.session import StorageSession
from chexnode.receive.storage import StorageService
from chexnode.vocabulary.records import Caller

#: Messages under way when the node stops may take this long to be answered.
GRACE_SECONDS = 5.0

_OPEN_FILES = 65_536


class Receiver:
    """Verification and Storage SCP. Ports are bound at once (raises BadEnvironment), served from :meth:`start` on."""

    def __init__(self, node: Node) -> None:
        self._service = StorageService(node)
        _raise_open_files()
        commitment = CommitmentService(node.ledger, node.settings.peer)
        services = Services(self._service.has_room, self._store, commitment)
        self._trail = node.trail
        self._server = AssociationServer(node.settings, services, node.trail)

    def _store(self, caller: Caller) -> StorageSession:
        return StorageSession(self._service, caller, partial(self._trail.received, caller.ae_title, caller.address))

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


def _raise_open_files() -> None:
    """Every connection and every file under way takes a descriptor, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
