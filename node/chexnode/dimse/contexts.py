"""Which presentation contexts are accepted: Verification, Storage Commitment Push Model in both roles, and every
storage SOP class with the requestor's own first transfer syntax.

The node stores whatever it is sent as it is sent; whether it can be analysed is decided later, with a coded reason.
So no list of classes or syntaxes is configured (170 configured contexts also cost 31 ms per association and would
prefer Implicit VR). pynetdicom's ``negotiate_unrestricted`` is what its ``UNRESTRICTED_STORAGE_SERVICE`` flag calls;
calling it directly leaves the flag, which is global to the process, alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_unrestricted

from chexnode.dimse.commitment import PUSH_MODEL

#: The maximum length of P-DATA-TF announced to requestors. Larger gains nothing (DCMTK and Orthanc stop at 128 kB).
MAX_PDU_LENGTH = 1 << 20

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = UID(PUSH_MODEL)

_USER_REJECTION = 0x01
_IMPLICIT_VR = "1.2.840.10008.1.2"
_EXPLICIT_VR = "1.2.840.10008.1.2.1"


class RequestError(ValueError):
    """The A-ASSOCIATE-RQ cannot be read."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int
    text: str


CALLING_AE_UNKNOWN = Rejection(1, 1, 3, "calling AE title not recognised")
CALLED_AE_UNKNOWN = Rejection(1, 1, 7, "called AE title not recognised")
PROTOCOL_VERSION = Rejection(1, 2, 2, "protocol version not supported")
LOCAL_LIMIT = Rejection(2, 3, 2, "local limit exceeded")


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Request:
    """A read A-ASSOCIATE-RQ."""

    calling_ae_title: str
    called_ae_title: str
    protocol_version: int
    max_length: int
    """The largest P-DATA-TF the requestor reads; 0 is no limit."""
    primitive: A_ASSOCIATE


def read_request(data: bytes) -> Request:
    """Parse an A-ASSOCIATE-RQ PDU. Raises :class:`RequestError`, whatever is wrong with it."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(data)
        primitive = pdu.to_primitive()
        contexts = primitive.presentation_context_definition_list
        if any(
            not c.abstract_syntax or not c.transfer_syntax or not c.context_id or c.context_id % 2 == 0
            for c in contexts
        ):
            raise RequestError("a presentation context without abstract or transfer syntax, or with an even id")
        return Request(
            primitive.calling_ae_title.strip(),
            primitive.called_ae_title.strip(),
            pdu.protocol_version,
            primitive.maximum_length_received or 0,
            primitive,
        )
    except RequestError:
        raise
    except Exception as error:  # the library raises a dozen kinds for bytes that are no A-ASSOCIATE-RQ
        raise RequestError(f"not an A-ASSOCIATE-RQ: {type(error).__name__}") from error


def accept(request: Request) -> tuple[Mapping[int, Context], bytes]:
    """Negotiate as SCP; return the accepted contexts by id and the A-ASSOCIATE-AC PDU."""
    primitive = request.primitive
    items = primitive.user_information
    roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in items
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid
    }
    results, role_items = negotiate_unrestricted(
        primitive.presentation_context_definition_list, [_verification(), _storage_commitment()], roles
    )
    for context in results:
        if context.result == 0 and not context.as_scp and context.abstract_syntax != STORAGE_COMMITMENT:
            context.result = _USER_REJECTION  # the requestor wants to be SCP only; this node sends on no such context
    accepted = {
        context.context_id: Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in results
        if context.result == 0 and context.context_id
    }
    answer = A_ASSOCIATE()
    answer.application_context_name = primitive.application_context_name
    answer.calling_ae_title = primitive.calling_ae_title
    answer.called_ae_title = primitive.called_ae_title
    answer.result = 0x00
    answer.result_source = 0x01
    answer.presentation_context_definition_results_list = results
    answer.user_information = [_max_length(), _class_uid(), _version_name()]
    for role in role_items:
        role.scp_role = False
        if role.scu_role:
            answer.user_information.append(role)
    if STORAGE_COMMITMENT in roles:  # a destination that reports to us does so as SCP; the library answers it no role
        scu_role, scp_role = roles[STORAGE_COMMITMENT]
        answer.user_information.append(_role(STORAGE_COMMITMENT, scu_role=bool(scu_role), scp_role=bool(scp_role)))
    if any(isinstance(item, AsynchronousOperationsWindowNegotiation) for item in items):
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked = 1
        window.maximum_number_operations_performed = 1
        answer.user_information.append(window)
    return accepted, A_ASSOCIATE_AC(answer).encode()


def reject(rejection: Rejection) -> bytes:
    """The A-ASSOCIATE-RJ PDU."""
    answer = A_ASSOCIATE()
    answer.result = rejection.result
    answer.result_source = rejection.source
    answer.diagnostic = rejection.reason
    return A_ASSOCIATE_RJ(answer).encode()


def _verification() -> PresentationContext:
    return build_context(VERIFICATION, [_IMPLICIT_VR, _EXPLICIT_VR])


def _storage_commitment() -> PresentationContext:
    context = build_context(STORAGE_COMMITMENT, [_IMPLICIT_VR, _EXPLICIT_VR])
    context.scu_role = context.scp_role = True
    return context


def _role(sop_class_uid: UID, *, scu_role: bool, scp_role: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid = sop_class_uid
    item.scu_role, item.scp_role = scu_role, scp_role
    return item


def _max_length() -> MaximumLengthNotification:
    item = MaximumLengthNotification()
    item.maximum_length_received = MAX_PDU_LENGTH
    return item


def _class_uid() -> ImplementationClassUIDNotification:
    item = ImplementationClassUIDNotification()
    item.implementation_class_uid = PYNETDICOM_IMPLEMENTATION_UID
    return item


def _version_name() -> ImplementationVersionNameNotification:
    item = ImplementationVersionNameNotification()
    item.implementation_version_name = PYNETDICOM_IMPLEMENTATION_VERSION
    return item
