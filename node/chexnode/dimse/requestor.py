"""Associations that we ask for: C-STORE (PS3.4 annex B), queries and retrieval (annex C), storage commitment (annex J).

One request at a time; while its responses come, the requests of the peer on the same association are answered. A data
set goes out as it lies in its file, never decoded and never re-encoded.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event

from pydicom.dataset import Dataset

from chexnode.dimse import commitment, contexts, datasets, messages, pdus
from chexnode.dimse.datasets import NotADataSet
from chexnode.dimse.messages import Collected, Command, Messages, Status, write_request, write_response
from chexnode.dimse.pdus import PduError, ProposedContext, RoleSelection
from chexnode.dimse.services import StorageSession
from chexnode.dimse.store import store
from chexnode.dimse.uids import IMPLICIT_VR, PUSH_MODEL, PUSH_MODEL_INSTANCE, VERIFICATION
from chexnode.dimse.upper import (
    BY_PROVIDER,
    BY_USER,
    REASON_INVALID_PARAMETER,
    REASON_NOT_SPECIFIED,
    Closed,
    ProtocolError,
    Released,
    Requestor,
    Stopped,
    TimedOut,
)
from chexnode.settings.destination import DestinationSettings
from chexnode.tls import explained
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest, CommitmentVerdict

log = logging.getLogger(__name__)

Context = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID: what one presentation context proposes, so that each is answered alone."""

_LARGEST_PDU, _SMALLEST_PDU = 1 << 17, 512
_LARGEST_ANSWER = 1 << 20
_PENDING = (0xFF00, 0xFF01)  # PS3.4 table C.4-1
_RELEASE_SECONDS = 5.0


class NotSent(DestinationDown):
    """It has answered that it sends nothing of what it was asked for."""


class Association:
    """An accepted association.

    ``accepted``: the contexts that may be used. ``refused``: the others with their result (PS3.8 table 9-18), None
    where it gave none.
    """

    def __init__(
        self,
        settings: DestinationSettings,
        ae_title: str,
        proposed: Sequence[Context],
        stop: Event,
        tls: ssl.SSLContext | None = None,
        *,
        on_report: Callable[[Dataset], int] | None = None,
        as_scp: Sequence[str] = (),
        storage: StorageSession | None = None,
    ) -> None:
        """Connect and negotiate; ``tls`` secures the connection. Raises DestinationDown.

        ``on_report``: takes the Event Information of an N-EVENT-REPORT that comes on this association, and returns a
        status. ``as_scp``: SOP classes of which we want to be the SCP here (PS3.7 D.3.3.4). ``storage``: takes the
        instances of :meth:`get`.
        """
        self._on_report, self._storage = on_report, storage
        self._upper = Requestor(_connect(settings, tls), settings.timeout_seconds, stop)
        self._is_open = True
        self._why = "the association has ended"
        self._message_id = 0
        assert settings.ae_title is not None
        offered = {2 * number + 1: context for number, context in enumerate(proposed)}
        roles = {sop_class: RoleSelection(scu=sop_class == PUSH_MODEL, scp=True) for sop_class in as_scp}
        with self._failing():
            rows = [ProposedContext(number, abstract, (syntax,)) for number, (abstract, syntax) in offered.items()]
            self._upper.send(pdus.write_associate_rq(settings.ae_title, ae_title, rows, roles))
            answer = self._read_answer()
        self._contexts = {
            number: contexts.Context(*offered[number])
            for number, result in answer.results.items()
            if number in offered and result.result == pdus.ACCEPTANCE
        }
        self.accepted = {(one.abstract_syntax, one.transfer_syntax) for one in self._contexts.values()}
        self.refused = {
            context: answer.results[number].result if number in answer.results else None
            for number, context in offered.items()
            if context not in self.accepted
        }
        max_length = min(answer.max_length or _LARGEST_PDU, _LARGEST_PDU)
        if self.accepted and max_length < _SMALLEST_PDU:
            self.abort()
            raise DestinationDown("the destination broke the protocol: it takes too small PDUs only")
        self._messages = Messages(self._upper, max_length)
        self._roles = answer.roles

    def store(self, context: Context, sop_instance_uid: str, data: bytes | memoryview) -> tuple[int, str]:
        """C-STORE an encoded data set; return (Status, Error Comment). Raises DestinationDown."""
        elements = {messages.AFFECTED_SOP_CLASS_UID: context[0], messages.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid}
        return self._answer(messages.C_STORE_RQ, context, {**elements, messages.PRIORITY: 0}, data)

    def echo(self) -> tuple[int, str]:
        """C-ECHO; return (Status, Error Comment). Raises DestinationDown."""
        context = (VERIFICATION, IMPLICIT_VR)
        return self._answer(messages.C_ECHO_RQ, context, {messages.AFFECTED_SOP_CLASS_UID: VERIFICATION})

    def find(self, model: str, identifier: Dataset) -> Iterator[Dataset]:
        """C-FIND (PS3.4 C.4.1); yield the matches. Raises DestinationDown, also for a status of failure."""
        for response, match in self._query(messages.C_FIND_RQ, model, identifier):
            if response.status in _PENDING and match is not None:
                yield match
            elif response.status != Status.SUCCESS:
                raise DestinationDown(_failure("C-FIND", response), response.comment)

    def move(self, model: str, identifier: Dataset, to: str) -> int:
        """C-MOVE (PS3.4 C.4.2) to AE title ``to``; return how many instances it says to have sent.

        Raises DestinationDown: NotSent for a status of failure where nothing was sent.
        """
        return self._retrieve(messages.C_MOVE_RQ, model, identifier, {messages.MOVE_DESTINATION: to})

    def get(self, model: str, identifier: Dataset) -> int:
        """C-GET (PS3.4 C.4.3) into ``storage``; return and raise as :meth:`move`."""
        return self._retrieve(messages.C_GET_RQ, model, identifier, {})

    def request_commitment(self, request: CommitmentRequest) -> tuple[int, str]:
        """N-ACTION (PS3.4 J.3.2); return (Status, Error Comment). Raises DestinationDown."""
        elements: dict[int, int | str] = {
            messages.REQUESTED_SOP_CLASS_UID: PUSH_MODEL,
            messages.REQUESTED_SOP_INSTANCE_UID: PUSH_MODEL_INSTANCE,
            messages.ACTION_TYPE_ID: commitment.REQUEST,
        }
        data = datasets.encode(commitment.action(request), IMPLICIT_VR)
        return self._answer(messages.N_ACTION_RQ, (PUSH_MODEL, IMPLICIT_VR), elements, data)

    def report_commitment(self, transaction_uid: str, verdict: CommitmentVerdict) -> tuple[int, str]:
        """N-EVENT-REPORT (PS3.4 J.3.3); return (Status, Error Comment). Raises DestinationDown."""
        if not self._roles.get(PUSH_MODEL, RoleSelection(scu=True, scp=False)).scp:
            raise DestinationDown("the destination does not let us be the SCP of storage commitment")
        event_type, information = commitment.event(transaction_uid, verdict)
        elements: dict[int, int | str] = {
            messages.AFFECTED_SOP_CLASS_UID: PUSH_MODEL,
            messages.AFFECTED_SOP_INSTANCE_UID: PUSH_MODEL_INSTANCE,
            messages.EVENT_TYPE_ID: event_type,
        }
        data = datasets.encode(information, IMPLICIT_VR)
        return self._answer(messages.N_EVENT_REPORT_RQ, (PUSH_MODEL, IMPLICIT_VR), elements, data)

    def await_report(self, seconds: float) -> None:
        """Wait for a report of storage commitment on this association, and answer it. Raises DestinationDown."""
        self._upper.limit, limit = seconds, self._upper.limit
        self._upper.begin()
        with self._failing(), suppress(TimedOut):  # it may come on an association of the peer's
            self._serve(*self._messages.command())
        self._upper.limit = limit

    def release(self) -> None:
        """Release in order, as far as the peer lets us."""
        if not self._is_open:
            return
        self._is_open = False
        self._upper.limit = min(self._upper.limit, _RELEASE_SECONDS)
        self._upper.begin()
        try:
            self._upper.send_release(pdus.A_RELEASE_RQ)
            while self._upper.read_pdu(_LARGEST_ANSWER)[0] not in (pdus.A_RELEASE_RP, pdus.A_ABORT):
                pass
        except (Closed, ProtocolError):
            self._upper.send_abort(REASON_NOT_SPECIFIED, BY_USER)
        self._upper.close()

    def abort(self) -> None:
        """End it at once."""
        if self._is_open:
            self._end("aborted", REASON_NOT_SPECIFIED)

    def _end(self, why: str, reason: int | None = None) -> None:
        """Close, after an A-ABORT of ``reason`` or, None, after what the peer has ended itself."""
        self._is_open, self._why = False, why
        if reason is not None:
            self._upper.send_abort(reason, BY_USER if reason == REASON_NOT_SPECIFIED else BY_PROVIDER)
        self._upper.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn what goes wrong with the connection or the peer into DestinationDown, and end the association."""
        reason: int | None = REASON_NOT_SPECIFIED
        cause: Exception
        try:
            yield
            return
        except DestinationDown:
            raise
        except Stopped as error:
            why, cause = str(error), error
        except Released as error:
            why, cause, reason = "the destination released the association", error, None
        except Closed as error:
            why, cause = f"the destination {error}", error
        except _TooLarge as error:
            why, cause = "the destination sent a message larger than the limit", error
        except (ProtocolError, PduError, NotADataSet) as error:
            log.warning("the destination broke the protocol: %s", error)
            why, cause, reason = "the destination broke the protocol", error, REASON_INVALID_PARAMETER
        except BaseException:
            self._end("the association has failed", reason)
            raise
        self._end(why, reason)
        raise DestinationDown(why) from cause

    def _read_answer(self) -> pdus.AssociateAC:
        kind, data = self._upper.read_pdu(_LARGEST_ANSWER)
        if kind == pdus.A_ASSOCIATE_RJ:
            rejection = pdus.read_associate_rj(data)
            kind_of = "Permanent" if rejection.is_permanent else "Transient"
            self._end(f"association rejected (Rejected {kind_of}): {rejection.text}")
            raise DestinationDown(self._why)
        if kind == pdus.A_ABORT:
            raise Closed("aborted the association")
        if kind == pdus.A_RELEASE_RQ:
            raise Closed("released the association")
        if kind != pdus.A_ASSOCIATE_AC:
            raise ProtocolError(REASON_INVALID_PARAMETER, f"PDU of type {kind:#04x}")
        return pdus.read_associate_ac(data)

    def _answer(
        self, command_field: int, context: Context, elements: Mapping[int, int | str], data: bytes | memoryview = b""
    ) -> tuple[int, str]:
        """The one response to a request."""
        for response, _ in self._request(command_field, context, elements, data):
            assert response.status is not None
            return response.status, response.comment
        raise AssertionError("a request ends with a response or an error")

    def _query(
        self, command_field: int, model: str, identifier: Dataset, more: Mapping[int, int | str] | None = None
    ) -> Iterator[tuple[Command, Dataset | None]]:
        elements = {messages.AFFECTED_SOP_CLASS_UID: model, messages.PRIORITY: 0, **(more or {})}
        data = datasets.encode(identifier, IMPLICIT_VR)
        return self._request(command_field, (model, IMPLICIT_VR), elements, data)

    def _retrieve(self, command_field: int, model: str, identifier: Dataset, more: Mapping[int, int | str]) -> int:
        service = "C-MOVE" if command_field == messages.C_MOVE_RQ else "C-GET"
        sent = 0
        for response, _ in self._query(command_field, model, identifier, more):
            sent = response.completed or sent
            if response.status not in (*_PENDING, Status.SUCCESS) and not sent:
                raise NotSent(_failure(service, response), response.comment)
        return sent

    def _request(
        self, command_field: int, context: Context, elements: Mapping[int, int | str], data: bytes | memoryview
    ) -> Iterator[tuple[Command, Dataset | None]]:
        """Send a request; yield its responses to the last, each with its data set. Raises DestinationDown."""
        context_id = next(
            (i for i, c in self._contexts.items() if context == (c.abstract_syntax, c.transfer_syntax)), 0
        )
        if not self._is_open or not context_id:
            raise DestinationDown(self._why if context_id else "the destination does not accept this service")
        self._message_id = self._message_id % 0xFFFF + 1
        command = write_request(command_field, self._message_id, elements, has_data_set=len(data) > 0)
        with self._failing():
            self._upper.begin()
            try:
                self._messages.send(context_id, command, data)
            except (Stopped, TimedOut):
                raise
            except Closed:
                self._upper.next_fragment(within_message=False)  # what it said before it closed explains more
                raise
        status: int | None = _PENDING[0]
        while status in _PENDING:
            with self._failing():
                response, content = self._response(command_field | messages.RESPONSE)
            status = response.status
            yield response, content

    def _response(self, command_field: int) -> tuple[Command, Dataset | None]:
        while True:
            context_id, command = self._messages.command()
            if not command.field & messages.RESPONSE:
                self._serve(context_id, command)
                continue
            if command.field != command_field or command.message_id != self._message_id or command.status is None:
                raise ProtocolError(REASON_INVALID_PARAMETER, "a response to nothing")
            return command, self._content(context_id) if command.has_data_set else None

    def _serve(self, context_id: int, command: Command) -> None:
        """Answer a request of the peer's."""
        context = self._contexts.get(context_id)
        if context is None or command.field & messages.RESPONSE:
            raise ProtocolError(REASON_INVALID_PARAMETER, "a message that nobody has asked for")
        status, comment = int(Status.UNRECOGNISED_OPERATION), ""
        if command.field == messages.C_STORE_RQ and self._storage is not None:
            discard = Collected(0, _LARGEST_ANSWER)
            status, comment = store(self._messages, context_id, command, context, self._storage, discard)
        elif command.has_data_set:
            content = self._content(context_id)
            if command.field == messages.N_EVENT_REPORT_RQ and self._on_report is not None:
                status = self._on_report(content)
        self._messages.send(context_id, write_response(command, status, comment))
        self._upper.begin()

    def _content(self, context_id: int) -> Dataset:
        collected = Collected(commitment.MAX_DATA_SET)
        self._messages.data_set(context_id, collected)
        if collected.whole is None:
            raise _TooLarge
        return datasets.decode(collected.whole, self._contexts[context_id].transfer_syntax, commitment.MAX_ELEMENTS)


class _TooLarge(Exception):
    """A message is larger than the limit."""


def _connect(settings: DestinationSettings, tls: ssl.SSLContext | None) -> socket.socket:
    """Raises DestinationDown."""
    host, port = settings.host, settings.port
    assert host is not None
    try:
        sock = socket.create_connection((host, port or 0), settings.timeout_seconds)
        # Otherwise the last, short segment of a message waits for the peer's delayed acknowledgement (40 ms).
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls.wrap_socket(sock, server_hostname=settings.tls_name or host) if tls is not None else sock
    except OSError as error:
        raise DestinationDown(f"no connection to {host}:{port}: {explained(error)}") from error


def _failure(service: str, response: Command) -> str:
    return f"{service} failed with status 0x{response.status:04X}"
