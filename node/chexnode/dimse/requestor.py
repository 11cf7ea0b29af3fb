"""Associations that we ask for: C-STORE (PS3.4 annex B), C-FIND, C-MOVE and C-GET (annex C), by pynetdicom's requestor.

A data set goes out as it lies in its file, never decoded and never re-encoded. What is overridden: a response can no
longer be taken by the association's other thread, the time limit is for each step and not for the whole of a transfer
and its answer, and what went wrong is kept, where the library only logs it.
"""

from __future__ import annotations

import queue
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association as LibraryAssociation
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ
from pynetdicom.pdu_primitives import A_P_ABORT, P_DATA
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from chexnode.dimse import commitment
from chexnode.settings.tree import DestinationSettings
from chexnode.tls import explained
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest, CommitmentVerdict

Context = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID: what one presentation context proposes, so that each is answered alone."""

_LARGEST_PDU, _SMALLEST_PDU = 1 << 17, 512
_LARGEST_ANSWER = 1 << 20
_POLL_SECONDS = 0.25
_PENDING = (0xFF00, 0xFF01)  # PS3.4 table C.4-1

Keep = Callable[[str, str, str, bytes], int]
"""SOP Class UID, SOP Instance UID, Transfer Syntax UID and encoded data set of a C-STORE request -> its Status."""


class NotSent(DestinationDown):
    """It has answered that it sends nothing of what it was asked for."""


class Association:
    """An accepted association; ``accepted`` and ``refused`` (with its PS3.8 table 9-18 result) tell the contexts."""

    def __init__(
        self,
        settings: DestinationSettings,
        ae_title: str,
        contexts: Sequence[Context],
        stop: Event,
        tls: ssl.SSLContext | None = None,
        told: Callable[[Dataset], int] | None = None,
        as_scp: Sequence[str] = (),
        keep: Keep | None = None,
        largest: int = _LARGEST_ANSWER,
    ) -> None:
        """Connect and negotiate; ``tls`` secures the connection. Raises DestinationDown.

        ``told``: takes the Event Information of an N-EVENT-REPORT that comes on this association, and returns a status.
        ``as_scp``: SOP classes of which we want to be the SCP here (PS3.7 D.3.3.4). ``keep``: takes the instances of
        :meth:`get`. ``largest``: of one message that is sent to us, in bytes.
        """
        assert settings.host is not None
        assert settings.port is not None
        assert settings.ae_title is not None
        _config.STORE_SEND_CHUNKED_DATASET = True  # a file's data set is sent as it is
        _config.LOG_HANDLER_LEVEL = "none"
        self._why = ""
        ae = _Requestor(ae_title)
        ae.secured = (tls, settings.tls_name or settings.host) if tls is not None else None
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = settings.timeout_seconds
        ae.network_timeout = None  # between batches it stays open
        handlers: list[Any] = [
            (evt.EVT_PDU_RECV, self._received),
            (evt.EVT_PDU_SENT, self._sent),
            (evt.EVT_CONN_CLOSE, lambda _: self._blame("the destination closed the connection")),
        ]
        if told is not None:
            handlers.append((evt.EVT_N_EVENT_REPORT, lambda event: (told(event.event_information), None)))
        if keep is not None:
            handlers.append((evt.EVT_C_STORE, lambda event: _kept(event, keep)))
        proposed = [build_context(*context) for context in contexts]
        host, port = settings.host, settings.port
        try:
            roles: list[Any] = [build_role(sop_class, scp_role=True) for sop_class in as_scp]
            assoc = ae.associate(host, port, proposed, ae_title=settings.ae_title, evt_handlers=handlers, ext_neg=roles)
            error = cast(_Socket, assoc.dul.socket).tcp.error
        except OSError as unresolved:
            error = unresolved
        if error is not None:
            raise DestinationDown(f"no connection to {host}:{port}: {explained(error)}")
        self.accepted = {(str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in assoc.accepted_contexts}
        results = {(str(cx.abstract_syntax), str(cx.transfer_syntax[0])): cx.result for cx in assoc.rejected_contexts}
        self.refused = {context: results.get(context) for context in contexts if context not in self.accepted}
        self._assoc = assoc
        # The library itself aborts an association on which nothing was accepted; that is an answer too.
        if not assoc.is_established and not assoc.rejected_contexts:
            raise DestinationDown(self._why or f"the destination did not answer for {settings.timeout_seconds:g} s")
        self._dimse = assoc.dimse = _Dimse(assoc, settings.timeout_seconds, stop, largest)
        if self.accepted and 0 < self._dimse.maximum_pdu_size < _SMALLEST_PDU:
            assoc.abort()
            raise DestinationDown("the destination broke the protocol: it takes too small PDUs only")

    def store(self, path: Path) -> tuple[int, str]:
        """C-STORE on an accepted context; return (Status, Error Comment). Raises DestinationDown."""
        return self._answer(lambda: self._assoc.send_c_store(path))

    def echo(self) -> tuple[int, str]:
        """C-ECHO; return (Status, Error Comment). Raises DestinationDown."""
        return self._answer(self._assoc.send_c_echo)

    def find(self, model: str, identifier: Dataset) -> Iterator[Dataset]:
        """C-FIND (PS3.4 C.4.1); yield the matches. Raises DestinationDown, also for a status of failure."""
        for status, match in self._responses(lambda: self._assoc.send_c_find(identifier, model)):
            if match is not None:
                yield match
            elif status.Status != 0x0000:
                raise DestinationDown(_failure("C-FIND", status))

    def move(self, model: str, identifier: Dataset, to: str) -> int:
        """C-MOVE (PS3.4 C.4.2) to AE title ``to``; return how many instances it says to have sent.

        Raises DestinationDown: NotSent for a status of failure where nothing was sent.
        """
        return self._retrieve("C-MOVE", lambda: self._assoc.send_c_move(identifier, to, model))

    def get(self, model: str, identifier: Dataset) -> int:
        """C-GET (PS3.4 C.4.3) into ``keep``; return and raise as :meth:`move`."""
        return self._retrieve("C-GET", lambda: self._assoc.send_c_get(identifier, model))

    def _retrieve(self, service: str, send: Callable[[], Iterator[tuple[Dataset, Dataset | None]]]) -> int:
        sent = 0
        for status, _ in self._responses(send):
            sent = int(status.get("NumberOfCompletedSuboperations") or sent)
            if status.Status not in _PENDING and status.Status != 0x0000 and not sent:
                raise NotSent(_failure(service, status))
        return sent

    def request_commitment(self, request: CommitmentRequest) -> tuple[int, str]:
        """N-ACTION (PS3.4 J.3.2); return (Status, Error Comment). Raises DestinationDown."""
        what = (commitment.PUSH_MODEL, commitment.PUSH_MODEL_INSTANCE)
        return self._answer(lambda: self._assoc.send_n_action(commitment.action(request), commitment.REQUEST, *what)[0])

    def report_commitment(self, transaction_uid: str, verdict: CommitmentVerdict) -> tuple[int, str]:
        """N-EVENT-REPORT (PS3.4 J.3.3); return (Status, Error Comment). Raises DestinationDown."""
        event_type, information = commitment.event(transaction_uid, verdict)
        what = (commitment.PUSH_MODEL, commitment.PUSH_MODEL_INSTANCE)
        return self._answer(lambda: self._assoc.send_n_event_report(information, event_type, *what)[0])

    def release(self) -> None:
        """Release in order."""
        self._assoc.release()

    def abort(self) -> None:
        """End it at once."""
        self._assoc.abort()

    def _answer(self, send: Any) -> tuple[int, str]:
        status = Dataset()
        if self._assoc.is_established:
            with suppress(RuntimeError, ValueError):  # it ended since; or the role was not granted
                status = send()
        if "Status" not in status:
            raise self._lost()
        return int(status.Status), str(status.get("ErrorComment") or "")

    def _responses(self, send: Callable[[], Iterator[tuple[Dataset, Dataset | None]]]) -> Iterator[Any]:
        try:
            responses = send()
        except (RuntimeError, ValueError) as error:  # it ended since, or the model was not accepted
            raise self._lost() from error
        for status, content in responses:
            if "Status" not in status:
                raise self._lost()
            yield status, content if status.Status in _PENDING else None

    def _lost(self) -> DestinationDown:
        return DestinationDown(self._dimse.gave_up or self._why or "the destination broke the protocol")

    def _blame(self, why: str) -> None:
        self._why = self._why or why

    def _received(self, event: evt.Event) -> None:
        if isinstance(event.pdu, A_ABORT_RQ):
            self._blame("the destination aborted the association")
        elif isinstance(event.pdu, A_RELEASE_RQ):
            self._blame("the destination released the association")
        elif isinstance(event.pdu, A_ASSOCIATE_AC | A_ASSOCIATE_RJ):
            is_rejection = isinstance(event.pdu, A_ASSOCIATE_RJ)
            try:
                answer = event.pdu.to_primitive()
                if is_rejection:
                    self._blame(f"association rejected ({answer.result_str}): {answer.reason_str}")
                elif not answer.presentation_context_definition_results_list:
                    raise ValueError("it answers no presentation context")
            except Exception:  # the library's thread will die of it, and nobody would be told
                self._blame("association rejected" if is_rejection else "the destination broke the protocol")
                event.assoc.dul.to_user_queue.put(A_P_ABORT())

    def _sent(self, event: evt.Event) -> None:
        if isinstance(event.pdu, A_ABORT_RQ) and event.pdu.source == 0x02:  # by our upper layer
            self._blame("the destination broke the protocol")


class _Dimse(DIMSEServiceProvider):
    """Waits for responses."""

    def __init__(self, assoc: LibraryAssociation, limit: float, stop: Event, largest: int) -> None:
        super().__init__(assoc)
        self._limit = limit
        self._stop = stop
        self._largest = largest
        self._received = 0
        self.gave_up = ""

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a part of a message, unless that grows beyond what is taken."""
        self._received += sum(len(data) for _, data in primitive.presentation_data_value_list)
        if self._received > self._largest:
            self.gave_up = "the destination sent a message larger than the limit"
            self.dul.event_queue.put("Evt19")  # as for any message that cannot be read: abort
            return
        super().receive_primitive(primitive)
        if self.message is None:
            self._received = 0

    @property
    def maximum_pdu_size(self) -> int:
        return min(super().maximum_pdu_size or _LARGEST_PDU, _LARGEST_PDU)

    def get_msg(self, block: bool = False) -> Any:
        """Wait for a response as long as the transfer goes on, and then for the time limit."""
        if not block:
            # The reactor may have passed its checkpoint just before it was closed, and would take the response of
            # whoever closed it, who then waits in vain (measured: 11 of 5,000 stores on a busy machine).
            return super().get_msg() if self.assoc._reactor_checkpoint.is_set() else (None, None)
        under_way, deadline = (-1, 0), 0.0
        while True:
            with suppress(queue.Empty):
                return self.msg_queue.get(timeout=_POLL_SECONDS)
            unsent = self.dul.to_provider_queue.qsize()
            if under_way != (under_way := (unsent, self._received)):
                deadline = time.monotonic() + self._limit
            if self.gave_up or self._stop.is_set() or time.monotonic() > deadline:
                late = f"the destination did not answer for {self._limit:g} s"
                self.gave_up = self.gave_up or ("stopped" if self._stop.is_set() else late)
                if unsent:  # an abort would wait its turn behind the rest of the transfer
                    with suppress(OSError):
                        # The connection's: that of a TLS socket would take the keys from the thread that uses it.
                        socket.socket.shutdown(cast(_Socket, self.dul.socket).tcp, socket.SHUT_RDWR)
                return None, None


class _Requestor(AE):
    secured: tuple[ssl.SSLContext, str] | None = None
    """TLS, and the name that the destination's certificate must carry."""

    def _create_socket(
        self, assoc: LibraryAssociation, address: AddressInformation, tls_args: Any
    ) -> AssociationSocket:
        return _Socket(assoc, address, self.secured)


class _Socket(AssociationSocket):
    """Has time limits, sends the last segment of a message at once, and reads no endless PDU."""

    tcp: _Tcp | _Tls

    def __init__(
        self, assoc: LibraryAssociation, address: AddressInformation, secured: tuple[ssl.SSLContext, str] | None
    ) -> None:
        self._secured = secured
        super().__init__(assoc, address=address)

    def _create_socket(self, address: AddressInformation) -> socket.socket:
        self.tcp = _Tcp(fileno=super()._create_socket(address).detach())
        if self._secured is not None:  # the handshake follows in connect(), within the connection's time limit
            context, name = self._secured
            context.sslsocket_class = _Tls
            self.tcp = cast(_Tls, context.wrap_socket(self.tcp, server_hostname=name))
        # Otherwise the last, short segment of a message waits for the peer's delayed acknowledgement (40 ms).
        self.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.tcp

    def connect(self, primitive: T_CONNECT) -> None:
        super().connect(primitive)
        if self.socket is not None:
            self.socket.settimeout((self.assoc.dimse_timeout or 0) + 1)  # _Dimse looks at the time first

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > _LARGEST_ANSWER:
            abort = A_ABORT_RQ()
            abort.source, abort.reason_diagnostic = 0x02, 0x06  # service provider, invalid PDU parameter
            self.assoc.dul._send(abort)
            raise OSError("a PDU longer than the limit")
        return super().recv(nr_bytes)


class _Tcp(socket.socket):
    """Keeps why it could not connect."""

    error: OSError | None = None

    def connect(self, address: Any) -> None:
        try:
            super().connect(address)
        except OSError as error:
            self.error = error
            raise


class _Tls(_Tcp, ssl.SSLSocket):
    """The same, of the handshake too, which is part of its ``connect``."""


def _kept(event: evt.Event, keep: Keep) -> int:
    request, context = cast(Any, event.request), event.context
    data = request.DataSet.getvalue() if request.DataSet is not None else b""
    uids = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(context.transfer_syntax))
    return keep(*uids, data)


def _failure(service: str, status: Dataset) -> str:
    comment = str(status.get("ErrorComment") or "")
    return f"{service} failed with status 0x{int(status.Status):04X}" + (f": {comment}" if comment else "")
