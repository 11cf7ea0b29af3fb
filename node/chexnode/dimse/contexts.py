"""Which presentation contexts this node accepts as SCP (PS3.8 9.3.2.2): Verification, Storage Commitment Push Model in
both roles, and every storage SOP class with the requestor's own first transfer syntax.

The node stores whatever it is sent as it is sent; whether it can be analysed is decided later, with a coded reason. So
no list of classes or syntaxes is configured. A SOP class that the dictionary does not know is one of storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary

from chexnode.dimse import pdus
from chexnode.dimse.pdus import AssociateRQ, ContextResult, ProposedContext, RoleSelection
from chexnode.dimse.uids import EXPLICIT_VR, IMPLICIT_VR, PUSH_MODEL, VERIFICATION

_SERVICES = (VERIFICATION, PUSH_MODEL)
_NOT_OF_PATIENTS = tuple(
    f"1.2.840.10008.5.1.4.{branch}" for branch in ("1.1.200.", "1.1.201.", "38.", "39.", "43.", "44.", "45.")
)
"""Storage of protocols, inventories, hanging protocols, palettes and implant templates (PS3.4 annex GG)."""


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


def accept(request: AssociateRQ) -> tuple[Mapping[int, Context], bytes]:
    """Negotiate as SCP; return the accepted contexts by identifier and the A-ASSOCIATE-AC."""
    results = [_result(context, request.roles.get(context.abstract_syntax)) for context in request.contexts]
    accepted = {
        proposed.context_id: Context(proposed.abstract_syntax, answer.transfer_syntax)
        for proposed, answer in zip(request.contexts, results, strict=True)
        if answer.result == pdus.ACCEPTANCE
    }
    classes = {context.abstract_syntax for context in accepted.values()}
    roles = {
        uid: role if uid == PUSH_MODEL else RoleSelection(scu=True, scp=False)
        for uid, role in request.roles.items()
        if uid in classes
    }
    return accepted, pdus.write_associate_ac(request, results, roles)


def is_storage(sop_class_uid: str) -> bool:
    """Whether objects of this SOP class, of patients, are to be stored."""
    known = UID_dictionary.get(sop_class_uid)
    if known is None:
        return True
    name, kind = known[0], known[1]
    is_of_patients = not sop_class_uid.startswith(_NOT_OF_PATIENTS) and sop_class_uid != PUSH_MODEL
    return kind == "SOP Class" and is_of_patients and (not name or ("Storage" in name and "Commitment" not in name))


def _result(context: ProposedContext, role: RoleSelection | None) -> ContextResult:
    abstract, offered = context.abstract_syntax, context.transfer_syntaxes
    usable = [uid for uid in (IMPLICIT_VR, EXPLICIT_VR) if uid in offered] if abstract in _SERVICES else offered
    result = pdus.ACCEPTANCE
    if not context.context_id % 2 or not abstract or not (abstract in _SERVICES or is_storage(abstract)):
        result = pdus.ABSTRACT_SYNTAX_REFUSED
    elif not usable:
        result = pdus.TRANSFER_SYNTAXES_REFUSED
    elif role is not None and not role.scu and abstract != PUSH_MODEL:
        result = pdus.USER_REJECTION  # the requestor wants to be SCP only; this node sends on no such context
    syntax = usable[0] if result == pdus.ACCEPTANCE else IMPLICIT_VR
    return ContextResult(context.context_id, result, syntax)
