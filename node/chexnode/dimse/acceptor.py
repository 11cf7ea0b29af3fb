"""One association as acceptor: negotiate within a time limit, then answer messages until release, abort or silence.

A straight line of blocking calls in the connection's own thread stands for the state machine of PS3.8 section 9.2:
an acceptor without asynchronous operations never waits for two things at once.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chexnode.audit.trail import Trail
from chexnode.dimse import commitment, messages
from chexnode.dimse.contexts import Context, accept
from chexnode.dimse.messages import Collected, Command, Messages, Status, write_response
from chexnode.dimse.pdus import (
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_UNKNOWN,
    CALLED_AE_UNKNOWN,
    CALLING_AE_UNKNOWN,
    HEADER,
    MAX_PDU_LENGTH,
    PROTOCOL_VERSION,
    PduError,
    Rejection,
    Titles,
    read_associate_rq,
    read_titles,
    write_associate_rj,
)
from chexnode.dimse.services import Services, StorageSession
from chexnode.dimse.store import store
from chexnode.dimse.uids import PUSH_MODEL, PUSH_MODEL_INSTANCE, VERIFICATION
from chexnode.dimse.upper import (
    REASON_INVALID_PARAMETER,
    REASON_NOT_SPECIFIED,
    Acceptor,
    Closed,
    NotSecured,
    ProtocolError,
    Released,
)
from chexnode.settings.limits import LimitSettings
from chexnode.tls import common_names
from chexnode.vocabulary.records import Caller
from chexnode.vocabulary.tracebacks import fault

log = logging.getLogger(__name__)

_LINGER_SECONDS = 1.0
"""How long a rejected caller has to read why; its connection counts until then."""
_COMMITMENT = (messages.N_ACTION_RQ, messages.N_EVENT_REPORT_RQ)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the server decides for an association."""

    reason_to_reject: Callable[[AcceptedAssociation, Titles], Rejection | None]
    """Why a caller of these titles may not, if so."""
    admit: Callable[[AcceptedAssociation], Rejection | None]
    """Count the association in, or say why not."""
    limits: LimitSettings
    services: Services
    trail: Trail


class AcceptedAssociation:
    """One accepted connection. :meth:`run` in its own thread; :meth:`stop` and :meth:`cut` from any."""

    def __init__(self, sock: socket.socket, address: str, policy: Policy, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.secure = tls is not None
        self.since = time.monotonic()
        self.names: frozenset[str] | None = None
        """Common Names of the certificate the peer has shown; None without TLS."""
        self._upper = Acceptor(sock)
        self._policy = policy
        self._tls = tls
        self._lock = threading.Lock()
        self._busy = False
        self._stopping = False
        self._report: str | None = None
        """Transaction UID of the report of storage commitment that was sent and is not acknowledged yet."""

    @property
    def heard(self) -> bool:
        """Whether the peer has said anything yet."""
        return self._upper.heard

    def run(self) -> None:
        """Serve the connection to its end. Raises nothing."""
        try:
            self._serve()
        except Closed as end:
            # Why a handshake failed is what an administrator looks for; that a probe hung up is not.
            level = logging.WARNING if self._tls is not None and self.names is None else logging.DEBUG
            log.log(level, "connection ended", extra={"address": self.address, "why": str(end)})
            if isinstance(end, NotSecured):
                self._policy.trail.refused(self.address, "", str(end))
        except ProtocolError as error:
            log.warning("aborted", extra={"address": self.address, "why": str(error)})
            self._upper.send_abort(error.reason)
        except Exception as error:
            log.error("association failed", extra={"address": self.address, "error": fault(error)})
            self._upper.send_abort(REASON_NOT_SPECIFIED)
        finally:
            self._upper.close()

    def stop(self) -> None:
        """End as soon as no message is being received or answered."""
        with self._lock:
            self._stopping = True
            if not self._busy:
                self._upper.wake()

    def cut(self) -> None:
        """End now."""
        self._upper.cut()

    def _serve(self) -> None:
        limits = self._policy.limits
        self._upper.negotiate_until(time.monotonic() + limits.negotiation_seconds)
        if self._tls is not None:
            self.names = common_names(self._upper.secure(self._tls))
        head = self._upper.read_associate_head()
        titles = read_titles(head)
        rejection = (
            PROTOCOL_VERSION if titles.protocol_version & 1 == 0 else self._policy.reason_to_reject(self, titles)
        )
        if rejection is not None:
            self._reject(rejection, titles)
            return
        try:
            request = read_associate_rq(head + self._upper.take(HEADER.unpack_from(head)[1] + HEADER.size - len(head)))
        except PduError as error:
            raise ProtocolError(REASON_INVALID_PARAMETER, f"{titles.calling_ae_title!r}: {error}") from error
        known = request.application_context == APPLICATION_CONTEXT
        rejection = self._policy.admit(self) if known else APPLICATION_CONTEXT_UNKNOWN
        if rejection is not None:
            self._reject(rejection, titles)
            return
        contexts, answer = accept(request)
        self._upper.established(limits.idle_seconds, limits.min_kb_per_second * 1000)
        self._upper.send(answer)
        caller = Caller(titles.calling_ae_title, self.address)
        log.info("association", extra={"address": caller.address, "calling_ae_title": caller.ae_title})
        exchange = Messages(self._upper, request.max_length or MAX_PDU_LENGTH)
        storage = self._policy.services.store(caller)
        try:
            while self._next_message():
                self._answer(exchange, contexts, storage, caller)
        except Released:
            self._upper.send_release()
            self._upper.await_close(limits.negotiation_seconds)
        finally:
            storage.close()

    def _reject(self, rejection: Rejection, titles: Titles) -> None:
        calling, called = titles.calling_ae_title, titles.called_ae_title
        who = {"address": self.address, "calling_ae_title": calling, "called_ae_title": called}
        log.warning("association rejected", extra={**who, "why": rejection.text})
        self._upper.send(write_associate_rj(rejection))
        if rejection in (CALLING_AE_UNKNOWN, CALLED_AE_UNKNOWN):
            self._policy.trail.refused(self.address, calling, rejection.text)
        self._upper.await_close(_LINGER_SECONDS)

    def _next_message(self) -> bool:
        """Wait between messages; False after an abort because the server stops."""
        with self._lock:
            self._busy = False
            stopping = self._stopping
        if not stopping:
            try:
                self._upper.await_message()
            except Closed:
                if not self._stopping:
                    raise
        with self._lock:
            self._busy = not self._stopping
        if not self._busy:
            self._upper.send_abort(REASON_NOT_SPECIFIED)
        return self._busy

    def _answer(
        self, exchange: Messages, contexts: Mapping[int, Context], storage: StorageSession, caller: Caller
    ) -> None:
        context_id, command = exchange.command()
        context = contexts.get(context_id)
        if context is None:
            raise ProtocolError(REASON_INVALID_PARAMETER, "a presentation context that was not accepted")
        status, comment = int(Status.UNRECOGNISED_OPERATION), ""
        if command.field & messages.RESPONSE:
            self._acknowledged(command)
            return
        if command.field == messages.C_STORE_RQ:
            status, comment = store(exchange, context_id, command, context, storage, self._discard())
        elif context.abstract_syntax == PUSH_MODEL and command.field in _COMMITMENT and command.has_data_set:
            self._commit(exchange, context_id, command, context, caller)
            return
        else:
            if command.has_data_set:
                exchange.data_set(context_id, self._discard())
            if command.field == messages.C_CANCEL_RQ:
                return  # nothing is ever pending
            if command.field == messages.C_ECHO_RQ and context.abstract_syntax == VERIFICATION:
                status = Status.SUCCESS
        exchange.send(context_id, write_response(command, status, comment))

    def _discard(self) -> Collected:
        return Collected(0, self._policy.limits.max_object_mb * 16_000_000)

    def _commit(self, exchange: Messages, context_id: int, command: Command, context: Context, caller: Caller) -> None:
        """Answer a message of storage commitment, and report at once where that is to be done here."""
        collected = Collected(commitment.MAX_DATA_SET)
        exchange.data_set(context_id, collected)
        service = self._policy.services.commitment
        status, comment, report = commitment.handle(service, command, collected.whole, context, caller)
        exchange.send(context_id, write_response(command, status, comment))
        if report is not None:
            self._report = report.transaction_uid
            exchange.send(
                context_id,
                messages.write_event_report(1, PUSH_MODEL, PUSH_MODEL_INSTANCE, report.event_type),
                report.data,
            )

    def _acknowledged(self, response: Command) -> None:
        """The peer has answered our report."""
        transaction_uid, self._report = self._report, None
        is_answer = response.field == messages.N_EVENT_REPORT_RQ | messages.RESPONSE and not response.has_data_set
        if transaction_uid is None or not is_answer:
            raise ProtocolError(REASON_NOT_SPECIFIED, "a response to nothing")
        self._policy.services.commitment.reported(transaction_uid)
