"""What audit messages are made of: participants, objects and codes in the XML of PS3.15 A.5.1. Pure.

The schema is that of PS3.15 A.5.1 (RELAX NG); codes are of DCM where no other system is named.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from ipaddress import ip_address
from xml.etree.ElementTree import Element, SubElement, tostring

from chexnode.logs import escaped

Code = tuple[str, str, str]
"""csd-code, codeSystemName and originalText (the code meaning)."""

# What identifies a participant object (CID 404, and RFC 3881 section 5.5.4)
STUDY_UID: Code = ("110180", "DCM", "Study Instance UID")
SOP_CLASS_UID: Code = ("110181", "DCM", "SOP Class UID")
NODE_ID: Code = ("110182", "DCM", "Node ID")
PATIENT_NUMBER: Code = ("2", "RFC-3881", "Patient Number")
RESOURCE: Code = ("12", "RFC-3881", "URI")

PERSON, SYSTEM = "1", "2"
PATIENT, REPORT, SECURITY_RESOURCE = "1", "3", "13"
_APPLICATION_SERVER = "4"  # Audit Source Type Code, PS3.15 A.5.1.2.1
_MACHINE_NAME, _IP_ADDRESS = "1", "2"


class EventOutcome(IntEnum):
    """EventOutcomeIndicator (PS3.15 A.5.2)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    """As an alert: it was averted."""
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


@dataclass(frozen=True, slots=True)
class AuditSource:
    """Who reports: AuditSourceIdentification."""

    audit_source_id: str
    enterprise_site_id: str = ""


@dataclass(frozen=True, slots=True)
class Participant:
    """A process at work, ours or another's, or a user: ActiveParticipant."""

    user_id: str
    """Ours: process id, as in our log lines (A.5.2.1); another's: its AE title, or the name of its token, which is all
    we know it by."""
    ae_title: str = ""
    name: str = ""
    host: str = ""
    """IP address or host name."""


@dataclass(frozen=True, slots=True)
class MovedInstances:
    """What was moved of one study of one patient."""

    study_instance_uid: str
    """Empty where a data set brings none."""
    patient_id: str
    patient_name: str
    accession_number: str
    sop_classes: Mapping[str, int] = field(default_factory=dict)
    """SOP Class UID -> how many instances."""


@dataclass(frozen=True, slots=True)
class Message:
    """One audit message."""

    xml: str
    at: datetime
    outcome: EventOutcome


def begin(
    event: Code,
    action: str,
    at: datetime,
    kind: Code | None = None,
    outcome: EventOutcome = EventOutcome.SUCCESS,
    description: str = "",
) -> Element:
    """A message with its EventIdentification; ``description``: of the outcome."""
    root = Element("AuditMessage")
    attributes = {
        "EventActionCode": action,
        "EventDateTime": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "EventOutcomeIndicator": str(int(outcome)),
    }
    identification = SubElement(root, "EventIdentification", attributes)
    _add_code(identification, "EventID", event)
    if kind is not None:
        _add_code(identification, "EventTypeCode", kind)
    if description:
        SubElement(identification, "EventOutcomeDescription").text = clean(description)
    return root


def add_participant(root: Element, who: Participant, role: Code | None = None, *, requestor: bool = False) -> Element:
    """Add an ActiveParticipant, and return it."""
    attributes = {"UserID": who.user_id}
    if who.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={who.ae_title}"
    if who.name:
        attributes["UserName"] = who.name
    attributes["UserIsRequestor"] = "true" if requestor else "false"
    if who.host:
        attributes["NetworkAccessPointID"] = who.host
        attributes["NetworkAccessPointTypeCode"] = _IP_ADDRESS if _is_address(who.host) else _MACHINE_NAME
    element = SubElement(root, "ActiveParticipant", {key: clean(value) for key, value in attributes.items()})
    if role is not None:
        _add_code(element, "RoleIDCode", role)
    return element


def add_medium(element: Element, medium: Code) -> None:
    """Say what medium a participant is."""
    _add_code(SubElement(element, "MediaIdentifier"), "MediaType", medium)


def finish(
    root: Element, source: AuditSource, at: datetime, *objects: Element, outcome: EventOutcome = EventOutcome.SUCCESS
) -> Message:
    """Add AuditSourceIdentification and ``objects``: the message is complete."""
    attributes = {"AuditEnterpriseSiteID": source.enterprise_site_id} if source.enterprise_site_id else {}
    attributes["AuditSourceID"] = source.audit_source_id
    element = SubElement(root, "AuditSourceIdentification", {key: clean(value) for key, value in attributes.items()})
    SubElement(element, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    root.extend(objects)
    return Message(tostring(root, encoding="unicode"), at, outcome)


def study_and_patient(instances: MovedInstances) -> tuple[Element, Element]:
    """The two objects of a message about instances."""
    study = make_object(instances.study_instance_uid, SYSTEM, REPORT, STUDY_UID)
    # The schema wants a name or a query; a study has no other name than its UID.
    SubElement(study, "ParticipantObjectName").text = clean(instances.study_instance_uid)
    description = SubElement(study, "ParticipantObjectDescription")
    if instances.accession_number:
        SubElement(description, "Accession", {"Number": clean(instances.accession_number)})
    for uid, count in sorted(instances.sop_classes.items()):
        SubElement(description, "SOPClass", {"UID": clean(uid), "NumberOfInstances": str(count)})
    patient = make_object(instances.patient_id, PERSON, PATIENT, PATIENT_NUMBER)
    SubElement(patient, "ParticipantObjectName").text = clean(instances.patient_name)
    return study, patient


def make_object(identifier: str, kind: str, role: str, id_type: Code) -> Element:
    """A ParticipantObjectIdentification, to which a name or a query is to be added."""
    attributes = {
        "ParticipantObjectID": clean(identifier),
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = Element("ParticipantObjectIdentification", attributes)
    _add_code(element, "ParticipantObjectIDTypeCode", id_type)
    return element


def add_query(element: Element, query: bytes) -> None:
    """Say what was asked."""
    SubElement(element, "ParticipantObjectQuery").text = b64encode(query).decode("ascii")


def add_detail(element: Element, kind: str, value: str) -> None:
    """Add a ParticipantObjectDetail."""
    content = b64encode(value.encode("utf-8", "replace")).decode("ascii")
    SubElement(element, "ParticipantObjectDetail", {"type": kind, "value": content})


def clean(text: str) -> str:
    """``text`` as XML 1.0 can hold it, on one line."""
    return escaped(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")


def _add_code(parent: Element, name: str, code: Code) -> None:
    attributes: Sequence[str] = ("csd-code", "codeSystemName", "originalText")
    SubElement(parent, name, dict(zip(attributes, code, strict=True)))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
