"""The association server: accepts connections and counts associations.

pynetdicom's own server has three traps, all measured: its TLS handshake and its accept share one loop, so that one
silent connection blocks everybody; connections that never negotiate use up the associations; and its reactor polls.
Here the accept loop does nothing but accept, every connection has a thread and a time limit, and only negotiated
associations count. Silent connections cannot lock anybody out: beyond the limit the oldest of them is cut for a new
one.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from chexnode.audit.trail import Trail
from chexnode.dimse.acceptor import AcceptedAssociation, Policy
from chexnode.dimse.callers import Callers, read_address
from chexnode.dimse.pdus import CALLED_AE_UNKNOWN, CALLING_AE_UNKNOWN, LOCAL_LIMIT, Rejection, Titles
from chexnode.dimse.services import Services
from chexnode.settings.tree import Settings
from chexnode.tls import server_context
from chexnode.vocabulary.errors import BadEnvironment

log = logging.getLogger(__name__)

_BACKLOG = 128
_GRACE_SECONDS = 1.0
_RECEIVE_BUFFER = 4 << 20


class AssociationServer:
    """Listens on ``node.host``: on ``node.port``, and with TLS on ``tls.port``; the limits are shared.

    Raises BadEnvironment where that is impossible.
    """

    def __init__(self, settings: Settings, services: Services, trail: Trail) -> None:
        self._settings = settings
        self._callers = Callers(settings.peer)
        self._policy = Policy(self._reason_to_reject, self._admit, settings.limits, services, trail)
        self._lock = threading.Lock()
        self._waiting: dict[AcceptedAssociation, threading.Thread] = {}
        """Connections that have not negotiated, oldest first."""
        self._negotiated: dict[AcceptedAssociation, threading.Thread] = {}
        self._listeners: list[_Listener] = []
        if settings.tls.plain:
            self._listeners.append(_Listener(_listen(settings.node.host, settings.node.port), None))
        if settings.tls.port is not None:
            context = server_context(settings.tls)
            self._listeners.append(_Listener(_listen(settings.node.host, settings.tls.port), context))
        self._threads = [
            threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True)
            for listener in self._listeners
        ]
        self._stopping = threading.Event()

    @property
    def port(self) -> int | None:
        """The port it listens on without TLS."""
        return self._port(secure=False)

    @property
    def tls_port(self) -> int | None:
        """The port it listens on with TLS."""
        return self._port(secure=True)

    def _port(self, *, secure: bool) -> int | None:
        ports = (one.socket.getsockname()[1] for one in self._listeners if (one.tls is not None) == secure)
        return next(ports, None)

    def start(self) -> None:
        """Begin to accept."""
        for thread in self._threads:
            thread.start()

    def stop(self, grace: float) -> None:
        """Accept no more, let running messages be answered for up to ``grace`` seconds, end everything."""
        self._stopping.set()
        for listener, thread in zip(self._listeners, self._threads, strict=True):
            with suppress(OSError):
                listener.socket.shutdown(socket.SHUT_RDWR)  # wakes the accept loop
            thread.join()
            listener.socket.close()
        with self._lock:
            waiting, negotiated = dict(self._waiting), dict(self._negotiated)
        for association in waiting:
            association.cut()
        for association in negotiated:
            association.stop()
        deadline = time.monotonic() + grace
        for association, thread in (waiting | negotiated).items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                association.cut()
                thread.join()

    def _accept(self, listener: _Listener) -> None:
        while not self._stopping.is_set():
            try:
                sock, address = listener.socket.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                # Out of file descriptors, or the peer was gone already: go on when some are free again.
                log.error("accept failed", extra={"error": error.strerror})
                time.sleep(0.1)
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._begin(AcceptedAssociation(sock, str(read_address(address[0])), self._policy, listener.tls))
            except (OSError, RuntimeError) as error:
                log.error("connection dropped", extra={"error": type(error).__name__})
                sock.close()

    def _begin(self, association: AcceptedAssociation) -> None:
        thread = threading.Thread(target=self._run, args=(association,), name="association", daemon=True)
        with self._lock:
            for surplus in self._surplus(association):
                del self._waiting[surplus]
                surplus.cut()
            self._waiting[association] = thread
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._waiting.pop(association, None)
            raise

    def _surplus(self, newcomer: AcceptedAssociation) -> list[AcceptedAssociation]:
        """The connections to cut before ``newcomer`` is taken, of those from its address and to its port.

        First those that had time to speak and did not, then the others, the oldest first: one that is just shaking
        hands is spared for those that only hold a place.
        """
        limits, now = self._settings.limits, time.monotonic()

        def worth(assoc: AcceptedAssociation) -> tuple[bool, bool]:
            return now - assoc.since < _GRACE_SECONDS, assoc.heard

        alike = (a for a in self._waiting if (a.address, a.secure) == (newcomer.address, newcomer.secure))
        same = sorted(alike, key=worth)
        surplus = same[: max(0, len(same) + 1 - limits.max_associations_per_address)]
        if not surplus and len(self._waiting) >= 4 * limits.max_associations:
            surplus = [min(self._waiting, key=worth)]
        return surplus

    def _run(self, association: AcceptedAssociation) -> None:
        try:
            association.run()
        finally:
            with self._lock:
                self._waiting.pop(association, None)
                self._negotiated.pop(association, None)

    def _reason_to_reject(self, association: AcceptedAssociation, titles: Titles) -> Rejection | None:
        """Why this caller may not have an association (PS3.8 table 9-21), if so."""
        node, names = self._settings.node, association.names
        if not self._callers.allows(titles.calling_ae_title, association.address):
            return CALLING_AE_UNKNOWN
        if self._settings.tls.match_ae_title and names is not None and titles.calling_ae_title not in names:
            return CALLING_AE_UNKNOWN
        if titles.called_ae_title != node.ae_title and not node.any_called_ae:
            return CALLED_AE_UNKNOWN
        return None

    def _admit(self, association: AcceptedAssociation) -> Rejection | None:
        """Count a negotiated association in, or say that there is no place; it then stays among those that wait."""
        limits = self._settings.limits
        if not self._policy.services.has_room():
            return LOCAL_LIMIT
        with self._lock:
            here = sum(a.address == association.address for a in self._negotiated)
            if (
                self._stopping.is_set()
                or association not in self._waiting
                or len(self._negotiated) >= limits.max_associations
                or here >= limits.max_associations_per_address
            ):
                return LOCAL_LIMIT
            self._negotiated[association] = self._waiting.pop(association)
        return None


@dataclass(frozen=True, slots=True)
class _Listener:
    """A bound socket, and how its connections are secured."""

    socket: socket.socket
    tls: ssl.SSLContext | None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it; it must be set before, for the window is scaled during the handshake.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise BadEnvironment(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
