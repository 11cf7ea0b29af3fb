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
from chexnode.audit.transfers import Transfers
from chexnode.dimse import messages
from chexnode.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from chexnode.dimse.contexts import (
    CALLED_AE_UNKNOWN,
    CALLING_AE_UNKNOWN,
    PROTOCOL_VERSION,
    STORAGE_COMMITMENT,
    VERIFICATION,
    Context,
    Rejection,
    Request,
    RequestError,
    accept,
    read_request,
    reject,
)
from chexnode.dimse.messages import Command, CommandError, Status, read_command, write_response
from chexnode.dimse.upper import (
    COMMAND,
    LAST,
    REASON_INVALID_PARAMETER,
    REASON_NOT_SPECIFIED,
    Closed,
    NotSecured,
    ProtocolError,
    Released,
    Upper,
)
from chexnode.receive.commitment import MAX_DATA_SET, CommitmentService, Report
from chexnode.receive.filemeta import Announced
from chexnode.receive.storage import Answer, Caller, Reception, Refusal, StorageService
from chexnode.settings.tree import LimitSettings
from chexnode.tls import common_names
from chexnode.vocabulary.tracebacks import fault

log = logging.getLogger(__name__)

_MAX_COMMAND = 1 << 16
_COMMITMENT = (messages.N_ACTION_RQ, messages.N_EVENT_REPORT_RQ)


class _Collected:
    """A small data set, kept in memory."""

    def __init__(self, data: bytearray) -> None:
        self._data = data

    def write(self, piece: memoryview) -> None:
        """Take the next piece."""
        self._data += piece

    @property
    def endless(self) -> bool:
        """Whether it is larger than any storage commitment."""
        return len(self._data) > MAX_DATA_SET


@dataclass(frozen=True, slots=True)
class Policy:
    """What the server decides for an association."""

    admit: Callable[[Association, Request], Rejection | None]
    """Count the association in, or say why not."""
    limits: LimitSettings
    service: StorageService
    commitment: CommitmentService
    trail: Trail


class Association:
    """One accepted connection. :meth:`run` in its own thread; :meth:`stop` and :meth:`cut` from any."""

    def __init__(self, sock: socket.socket, address: str, policy: Policy, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.secure = tls is not None
        self.since = time.monotonic()
        self.names: frozenset[str] | None = None
        """Common Names of the certificate the peer has shown; None without TLS."""
        self._upper = Upper(sock)
        self._policy = policy
        self._tls = tls
        self._lock = threading.Lock()
        self._busy = False
        self._stopping = False
        self._max_length = 0
        self._report: Report | None = None
        """Sent, and not acknowledged yet."""
        self._transfers = Transfers()

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
        try:
            request = read_request(self._upper.read_associate_rq())
        except RequestError as error:
            raise ProtocolError(REASON_INVALID_PARAMETER, str(error)) from error
        rejection = PROTOCOL_VERSION if request.protocol_version & 1 == 0 else self._policy.admit(self, request)
        if rejection is not None:
            log.warning(
                "association rejected",
                extra={
                    "address": self.address,
                    "calling_ae_title": request.calling_ae_title,
                    "called_ae_title": request.called_ae_title,
                    "why": rejection.text,
                },
            )
            self._upper.send(reject(rejection))
            if rejection in (CALLING_AE_UNKNOWN, CALLED_AE_UNKNOWN):
                self._policy.trail.refused(self.address, request.calling_ae_title, rejection.text)
            self._upper.await_close(limits.negotiation_seconds)
            return
        contexts, answer = accept(request)
        self._max_length = request.max_length
        self._upper.established(limits.idle_seconds, limits.min_kb_per_second * 1000)
        self._upper.send(answer)
        caller = Caller(request.calling_ae_title, self.address)
        log.info("association", extra={"address": caller.address, "calling_ae_title": caller.ae_title})
        try:
            while self._next_message():
                self._answer(contexts, caller)
        except Released:
            self._upper.send_release()
            self._upper.await_close(limits.negotiation_seconds)
        finally:
            self._policy.trail.received(caller.ae_title, caller.address, self._transfers)

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

    def _answer(self, contexts: Mapping[int, Context], caller: Caller) -> None:
        context_id, command = self._command()
        context = contexts.get(context_id)
        if context is None:
            raise ProtocolError(REASON_INVALID_PARAMETER, "a presentation context that was not accepted")
        if command.field & messages.RESPONSE:
            self._acknowledged(command)
            return
        if command.field == messages.C_STORE_RQ:
            answer = self._store(context_id, command, context, caller)
            if self._transfers.due:
                self._policy.trail.received(caller.ae_title, caller.address, self._transfers)
        elif context.abstract_syntax == STORAGE_COMMITMENT and command.field in _COMMITMENT and command.has_data_set:
            self._commit(context_id, command, context, caller)
            return
        else:
            if command.has_data_set:
                self._data_set(context_id, None)
            if command.field == messages.C_CANCEL_RQ:
                return  # nothing is ever pending
            is_echo = command.field == messages.C_ECHO_RQ and context.abstract_syntax == VERIFICATION
            answer = Answer(Status.SUCCESS if is_echo else Status.UNRECOGNISED_OPERATION)
        self._upper.send_message(context_id, write_response(command, answer.status, answer.comment), self._max_length)

    def _store(self, context_id: int, command: Command, context: Context, caller: Caller) -> Answer:
        if not command.has_data_set:
            return Answer(Status.CANNOT_UNDERSTAND, "no data set")
        announced = Announced(
            command.affected_sop_class_uid, command.affected_sop_instance_uid, context.transfer_syntax
        )
        refusal = None
        if announced.sop_class_uid != context.abstract_syntax:
            why = "Affected SOP Class UID is not the context's abstract syntax"
            refusal = Refusal(messages.Status.DATA_SET_MISMATCH, why)
        reception = self._policy.service.begin(announced, caller, refusal)
        try:
            self._data_set(context_id, reception)
            answer = reception.finish()
        finally:
            reception.abandon()
        if reception.stored is not None and self._policy.trail.on:
            one = reception.stored
            self._transfers.add(one.subject, one.sop_class_uid, one.held_before)
        return answer

    def _commit(self, context_id: int, command: Command, context: Context, caller: Caller) -> None:
        """Answer a message of storage commitment, and report at once where that is to be done here."""
        data = bytearray()
        self._data_set(context_id, _Collected(data))
        answer, report = self._policy.commitment.handle(command, bytes(data), context, caller)
        self._upper.send_message(context_id, write_response(command, answer.status, answer.comment), self._max_length)
        if report is not None:
            self._report = report
            request = messages.write_event_report(PUSH_MODEL, PUSH_MODEL_INSTANCE, 1, report.event_type)
            self._upper.send_message(context_id, request, self._max_length, report.data)

    def _acknowledged(self, response: Command) -> None:
        """The peer has answered our report."""
        report, self._report = self._report, None
        if report is None or response.field != messages.N_EVENT_REPORT_RQ | messages.RESPONSE or response.has_data_set:
            raise ProtocolError(REASON_NOT_SPECIFIED, "a response to nothing")
        report.sent()

    def _command(self) -> tuple[int, Command]:
        """Read a whole command set; return the context it came on and what it says."""
        data = bytearray()
        context_id: int | None = None
        control = 0
        while not control & LAST:
            identity, control, length = self._upper.next_fragment(within_message=bool(data))
            if not control & COMMAND or (context_id is not None and identity != context_id):
                raise ProtocolError(REASON_INVALID_PARAMETER, "fragments of messages are mixed")
            if len(data) + length > _MAX_COMMAND:
                raise ProtocolError(REASON_INVALID_PARAMETER, "the command set is too long")
            context_id = identity
            for piece in self._upper.data(length):
                data += piece
        assert context_id is not None
        try:
            return context_id, read_command(bytes(data))
        except CommandError as error:
            raise ProtocolError(REASON_INVALID_PARAMETER, str(error)) from error

    def _data_set(self, context_id: int, reception: Reception | _Collected | None) -> None:
        """Pass a data set on to ``reception``, or drop it."""
        control = 0
        while not control & LAST:
            identity, control, length = self._upper.next_fragment(within_message=True)
            if control & COMMAND or identity != context_id:
                raise ProtocolError(REASON_INVALID_PARAMETER, "fragments of messages are mixed")
            for piece in self._upper.data(length):
                if reception is not None:
                    reception.write(piece)
                    if reception.endless:
                        raise ProtocolError(REASON_NOT_SPECIFIED, "far more data than the limit")
