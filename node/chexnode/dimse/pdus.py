"""The association PDUs of DICOM's upper layer (PS3.8 section 9.3), read and written. Pure.

Read with the tolerance that PS3.8 asks for: items of unknown type are skipped (9.3.1), the transfer syntax of a refused
context is not looked at (9.3.3.2), and what is odd about one presentation context is the fault of that context alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

# PDU types, PS3.8 9.3.1
A_ASSOCIATE_RQ = 0x01
A_ASSOCIATE_AC = 0x02
A_ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_RELEASE_RP = 0x06
A_ABORT = 0x07

HEADER = struct.Struct(">BxL")
"""PDU type and length of what follows."""

FIXED_LENGTH = 74
"""Bytes of an A-ASSOCIATE-RQ or -AC in front of its items, the PDU's header included."""

IMPLEMENTATION_CLASS_UID = "2.25.304232597532843576762844932322028490382"
IMPLEMENTATION_VERSION_NAME = f"CHEXNODE_{version('chexnode')}"[:16]

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The DICOM Application Context (PS3.7 A.2.1), the only one there is."""

MAX_CONTEXTS = 128
"""Odd identifiers from 1 to 255 (PS3.8 9.3.2.2)."""

MAX_PDU_LENGTH = 1 << 20
"""The maximum length of P-DATA-TF that we announce. Larger gains nothing (DCMTK and Orthanc stop at 128 kB)."""

# Result of a presentation context, PS3.8 table 9-18
ACCEPTANCE, USER_REJECTION, NO_REASON, ABSTRACT_SYNTAX_REFUSED, TRANSFER_SYNTAXES_REFUSED = range(5)

_ITEM = struct.Struct(">BxH")
_AE_TITLES = slice(10, 42)
_APPLICATION_CONTEXT, _CONTEXT_RQ, _CONTEXT_AC, _ABSTRACT, _TRANSFER, _USER = 0x10, 0x20, 0x21, 0x30, 0x40, 0x50
_MAX_LENGTH, _CLASS_UID, _ASYNCHRONOUS, _ROLE, _VERSION_NAME = 0x51, 0x52, 0x53, 0x54, 0x55


class PduError(ValueError):
    """The bytes are no PDU of the kind that was to be read."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int

    @property
    def text(self) -> str:
        """The reason in the table's words."""
        return _REASONS.get((self.source, self.reason), f"reason {self.reason} of source {self.source}")

    @property
    def is_permanent(self) -> bool:
        """Whether asking again is of no use."""
        return self.result != 2


_REASONS = {
    (1, 1): "No reason given",
    (1, 2): "Application context name not supported",
    (1, 3): "Calling AE title not recognised",
    (1, 7): "Called AE title not recognised",
    (2, 1): "No reason given",
    (2, 2): "Protocol version not supported",
    (3, 1): "Temporary congestion",
    (3, 2): "Local limit exceeded",
}

APPLICATION_CONTEXT_UNKNOWN = Rejection(1, 1, 2)
CALLING_AE_UNKNOWN = Rejection(1, 1, 3)
CALLED_AE_UNKNOWN = Rejection(1, 1, 7)
PROTOCOL_VERSION = Rejection(1, 2, 2)
LOCAL_LIMIT = Rejection(2, 3, 2)


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """What a requestor is, or may be, for one SOP class (PS3.7 D.3.3.4)."""

    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context of an A-ASSOCIATE-RQ, perhaps without any syntax."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContextResult:
    """The answer to one presentation context."""

    context_id: int
    result: int
    transfer_syntax: str
    """The accepted one; without meaning where ``result`` is a refusal."""


@dataclass(frozen=True, slots=True)
class Titles:
    """What lies at fixed offsets of an A-ASSOCIATE-RQ, and can be judged before anything is parsed."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str


@dataclass(frozen=True, slots=True)
class AssociateRQ:
    """An A-ASSOCIATE-RQ (PS3.8 table 9-11)."""

    titles: bytes
    """Called and calling AE title as they came, which the acceptance repeats."""
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_length: int
    """The largest P-DATA-TF the requestor reads; 0 is no limit."""
    roles: Mapping[str, RoleSelection]
    asynchronous: bool
    """Whether an asynchronous operations window is proposed."""


@dataclass(frozen=True, slots=True)
class AssociateAC:
    """An A-ASSOCIATE-AC (PS3.8 table 9-17)."""

    results: Mapping[int, ContextResult]
    max_length: int
    roles: Mapping[str, RoleSelection]


def read_titles(head: bytes) -> Titles:
    """Read the first FIXED_LENGTH bytes of an A-ASSOCIATE-RQ.

    An AE title ends at its first NUL, with which some senders pad it; outside ASCII it is read as ISO 8859-1.
    """
    called, calling = (head[start : start + 16].split(b"\0", 1)[0].decode("latin-1").strip() for start in (10, 26))
    return Titles(int.from_bytes(head[6:8], "big"), called, calling)


def read_associate_rq(data: bytes) -> AssociateRQ:
    """Parse a whole A-ASSOCIATE-RQ. Raises PduError, also for more contexts than there are identifiers."""
    application_context, contexts, user = "", list[ProposedContext](), b""
    for kind, value in _items(data[FIXED_LENGTH:]):
        if kind == _APPLICATION_CONTEXT:
            application_context = _uid(value)
        elif kind == _CONTEXT_RQ and value:
            inside = [*_items(value[4:])]
            abstract = next((_uid(one) for item, one in inside if item == _ABSTRACT), "")
            syntaxes = tuple(uid for item, one in inside if item == _TRANSFER and (uid := _uid(one)))
            contexts.append(ProposedContext(value[0], abstract, syntaxes))
        elif kind == _USER:
            user = value
    identifiers = {context.context_id for context in contexts}
    if len(contexts) > MAX_CONTEXTS or len(identifiers) < len(contexts):
        raise PduError("more presentation contexts than identifiers")
    max_length, roles, asynchronous = _user_information(user)
    return AssociateRQ(data[_AE_TITLES], application_context, tuple(contexts), max_length, roles, asynchronous)


def read_associate_ac(data: bytes) -> AssociateAC:
    """Parse a whole A-ASSOCIATE-AC. Raises PduError, also where it answers no context."""
    results, user = dict[int, ContextResult](), b""
    for kind, value in _items(data[FIXED_LENGTH:]):
        if kind == _CONTEXT_AC and len(value) >= 4:
            accepted = value[2] == ACCEPTANCE
            syntax = next((_uid(one) for item, one in _items(value[4:]) if item == _TRANSFER), "") if accepted else ""
            results[value[0]] = ContextResult(value[0], value[2], syntax)
        elif kind == _USER:
            user = value
    if not results:
        raise PduError("no presentation context is answered")
    max_length, roles, _ = _user_information(user)
    return AssociateAC(results, max_length, roles)


def read_associate_rj(data: bytes) -> Rejection:
    """Parse a whole A-ASSOCIATE-RJ. Raises PduError."""
    if len(data) < 10:
        raise PduError("an A-ASSOCIATE-RJ is cut short")
    return Rejection(*data[7:10])


def write_associate_rq(
    called_ae_title: str, calling_ae_title: str, contexts: Iterable[ProposedContext], roles: Mapping[str, RoleSelection]
) -> bytes:
    """Encode an A-ASSOCIATE-RQ that asks for synchronous operations."""
    titles = b"".join(title.encode("ascii").ljust(16)[:16] for title in (called_ae_title, calling_ae_title))
    items = b"".join(
        _item(
            _CONTEXT_RQ,
            bytes((context.context_id, 0, 0, 0))
            + _item(_ABSTRACT, context.abstract_syntax.encode())
            + b"".join(_item(_TRANSFER, syntax.encode()) for syntax in context.transfer_syntaxes),
        )
        for context in contexts
    )
    return _associate(A_ASSOCIATE_RQ, titles, items, roles, asynchronous=False)


def write_associate_ac(
    request: AssociateRQ, results: Sequence[ContextResult], roles: Mapping[str, RoleSelection]
) -> bytes:
    """Encode the acceptance of ``request``; a window of asynchronous operations is agreed to be one."""
    items = b"".join(
        _item(
            _CONTEXT_AC,
            bytes((one.context_id, 0, one.result, 0)) + _item(_TRANSFER, one.transfer_syntax.encode("latin-1")),
        )
        for one in results
    )
    return _associate(A_ASSOCIATE_AC, request.titles, items, roles, asynchronous=request.asynchronous)


def write_associate_rj(rejection: Rejection) -> bytes:
    """Encode an A-ASSOCIATE-RJ."""
    return HEADER.pack(A_ASSOCIATE_RJ, 4) + bytes((0, rejection.result, rejection.source, rejection.reason))


def _associate(
    kind: int, titles: bytes, contexts: bytes, roles: Mapping[str, RoleSelection], *, asynchronous: bool
) -> bytes:
    user = _item(_MAX_LENGTH, struct.pack(">L", MAX_PDU_LENGTH)) + _item(_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode())
    if asynchronous:
        user += _item(_ASYNCHRONOUS, struct.pack(">HH", 1, 1))
    for uid, role in roles.items():
        user += _item(_ROLE, struct.pack(">H", len(uid)) + uid.encode("latin-1") + bytes((role.scu, role.scp)))
    user += _item(_VERSION_NAME, IMPLEMENTATION_VERSION_NAME.encode())
    body = struct.pack(">HH", 1, 0) + titles + bytes(32)
    body += _item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode()) + contexts + _item(_USER, user)
    return HEADER.pack(kind, len(body)) + body


def _user_information(data: bytes) -> tuple[int, Mapping[str, RoleSelection], bool]:
    """Maximum length, role selection, and whether an asynchronous operations window is there."""
    max_length, roles, asynchronous = 0, dict[str, RoleSelection](), False
    for kind, value in _items(data):
        if kind == _MAX_LENGTH:
            max_length = int.from_bytes(value[:4], "big")
        elif kind == _ROLE:
            end = 2 + int.from_bytes(value[:2], "big")
            if len(value) >= end + 2:
                roles[_uid(value[2:end])] = RoleSelection(bool(value[end]), bool(value[end + 1]))
        asynchronous = asynchronous or kind == _ASYNCHRONOUS
    return max_length, roles, asynchronous


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        if position + _ITEM.size > len(data):
            raise PduError("an item is cut short")
        kind, length = _ITEM.unpack_from(data, position)
        position += _ITEM.size + length
        if position > len(data):
            raise PduError("an item is longer than what it lies in")
        yield kind, data[position - length : position]


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _uid(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")
