"""Audit messages in the XML of PS3.15 annex A.5: pure, one function for each event that the node reports.

The schema is that of PS3.15 A.5.1 (RELAX NG); codes are of DCM where no other system is named. Instances are counted by
SOP class and not listed one by one, which A.5.2 allows and which keeps a message below what a datagram holds.
Audit messages name patients: that is what they are for. They go to the collector and the spool, never into the log.
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

# Event IDs (PS3.16 CID 400)
_APPLICATION_ACTIVITY = ("110100", "DCM", "Application Activity")
_TRANSFERRED = ("110104", "DCM", "DICOM Instances Transferred")
_EXPORT = ("110106", "DCM", "Export")
_QUERY = ("110112", "DCM", "Query")
_SECURITY_ALERT = ("110113", "DCM", "Security Alert")

# Event types (CID 401)
_START = ("110120", "DCM", "Application Start")
_STOP = ("110121", "DCM", "Application Stop")
NODE_AUTHENTICATION = ("110126", "DCM", "Node Authentication")
"""Somebody was not who may call."""
AUDIT_RECORDING_STOPPED = ("110133", "DCM", "Audit Recording Stopped")
"""Messages were lost."""

# Roles of active participants (CID 402)
_APPLICATION = ("110150", "DCM", "Application")
_DESTINATION = ("110152", "DCM", "Destination Role ID")
_SOURCE = ("110153", "DCM", "Source Role ID")
_DESTINATION_MEDIA = ("110154", "DCM", "Destination Media")

_URI_MEDIUM = ("110037", "DCM", "URI")

# What identifies a participant object (CID 404, and RFC 3881 section 5.5.4)
_STUDY_UID = ("110180", "DCM", "Study Instance UID")
_SOP_CLASS_UID = ("110181", "DCM", "SOP Class UID")
_NODE_ID = ("110182", "DCM", "Node ID")
_PATIENT_NUMBER = ("2", "RFC-3881", "Patient Number")

_PERSON, _SYSTEM = "1", "2"
_PATIENT, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"
_APPLICATION_SERVER = "4"  # Audit Source Type Code, PS3.15 A.5.1.2.1
_MACHINE_NAME, _IP_ADDRESS = "1", "2"


class Outcome(IntEnum):
    """EventOutcomeIndicator (PS3.15 A.5.2)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    """As an alert: it was averted."""
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


@dataclass(frozen=True, slots=True)
class Source:
    """Who reports: AuditSourceIdentification."""

    audit_source_id: str
    enterprise_site_id: str = ""


@dataclass(frozen=True, slots=True)
class Participant:
    """A process at work, ours or another's: ActiveParticipant."""

    user_id: str
    """Ours: process id, as in our log lines (A.5.2.1); another's: its AE title, which is all we know it by."""
    ae_title: str = ""
    name: str = ""
    host: str = ""
    """IP address or host name."""


@dataclass(frozen=True, slots=True)
class Instances:
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
    outcome: Outcome


def application(source: Source, at: datetime, process: Participant, started: bool) -> Message:
    """Application Activity (A.5.3.1): one of our processes has started or is about to stop."""
    root = _event(_APPLICATION_ACTIVITY, "E", at, _START if started else _STOP)
    _participant(root, process, _APPLICATION)
    return _finished(root, source, at)


def transferred(
    source: Source,
    at: datetime,
    sender: Participant,
    receiver: Participant,
    instances: Instances,
    held_before: bool | None,
) -> Message:
    """DICOM Instances Transferred (A.5.3.7), about one patient.

    ``held_before``: whether the receiver had the instances; None where the audit source is not the receiver.
    """
    action = "C" if held_before is False else "R"
    root = _event(_TRANSFERRED, action, at)
    _participant(root, sender, _SOURCE, requestor=True)
    _participant(root, receiver, _DESTINATION)
    return _finished(root, source, at, _study(instances), _patient(instances))


def exported(source: Source, at: datetime, process: Participant, uri: str, instances: Instances) -> Message:
    """Data Export (A.5.3.4): files were written to ``uri``, where others take them."""
    root = _event(_EXPORT, "R", at)
    _participant(root, process, _SOURCE, requestor=True)
    medium = _participant(root, Participant(uri), _DESTINATION_MEDIA)
    _code(SubElement(medium, "MediaIdentifier"), "MediaType", _URI_MEDIUM)
    return _finished(root, source, at, _study(instances), _patient(instances))


def query(
    source: Source,
    at: datetime,
    asking: Participant,
    asked: Participant,
    sop_class_uid: str,
    transfer_syntax_uid: str,
    identifier: bytes,
) -> Message:
    """Query (A.5.3.10): ``identifier`` is the encoded data set that is matched."""
    root = _event(_QUERY, "E", at)
    _participant(root, asking, _SOURCE, requestor=True)
    _participant(root, asked, _DESTINATION)
    what = _object(sop_class_uid, _SYSTEM, _REPORT, _SOP_CLASS_UID)
    SubElement(what, "ParticipantObjectQuery").text = _base64(identifier)
    _detail(what, "TransferSyntax", transfer_syntax_uid)
    return _finished(root, source, at, what)


def alert(
    source: Source,
    at: datetime,
    kind: Code,
    outcome: Outcome,
    reporting: Participant,
    description: str,
    performing: Participant | None = None,
) -> Message:
    """Security Alert (A.5.3.11) about ``performing``, or about the reporting node where there is nobody else."""
    root = _event(_SECURITY_ALERT, "E", at, kind, outcome)
    _participant(root, reporting)
    if performing is not None:
        _participant(root, performing)
    subject = performing or reporting
    what = _object(subject.host or subject.user_id, _SYSTEM, _SECURITY_RESOURCE, _NODE_ID)
    SubElement(what, "ParticipantObjectName").text = _clean(subject.ae_title or subject.user_id)
    _detail(what, "Alert Description", description)
    return _finished(root, source, at, what, outcome=outcome)


def _event(
    event: Code, action: str, at: datetime, kind: Code | None = None, outcome: Outcome = Outcome.SUCCESS
) -> Element:
    root = Element("AuditMessage")
    attributes = {
        "EventActionCode": action,
        "EventDateTime": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "EventOutcomeIndicator": str(int(outcome)),
    }
    identification = SubElement(root, "EventIdentification", attributes)
    _code(identification, "EventID", event)
    if kind is not None:
        _code(identification, "EventTypeCode", kind)
    return root


def _participant(root: Element, who: Participant, role: Code | None = None, *, requestor: bool = False) -> Element:
    attributes = {"UserID": who.user_id}
    if who.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={who.ae_title}"
    if who.name:
        attributes["UserName"] = who.name
    attributes["UserIsRequestor"] = "true" if requestor else "false"
    if who.host:
        attributes["NetworkAccessPointID"] = who.host
        attributes["NetworkAccessPointTypeCode"] = _IP_ADDRESS if _is_address(who.host) else _MACHINE_NAME
    element = SubElement(root, "ActiveParticipant", {key: _clean(value) for key, value in attributes.items()})
    if role is not None:
        _code(element, "RoleIDCode", role)
    return element


def _finished(
    root: Element, source: Source, at: datetime, *objects: Element, outcome: Outcome = Outcome.SUCCESS
) -> Message:
    attributes = {"AuditEnterpriseSiteID": source.enterprise_site_id} if source.enterprise_site_id else {}
    attributes["AuditSourceID"] = source.audit_source_id
    element = SubElement(root, "AuditSourceIdentification", {key: _clean(value) for key, value in attributes.items()})
    SubElement(element, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    root.extend(objects)
    return Message(tostring(root, encoding="unicode"), at, outcome)


def _study(instances: Instances) -> Element:
    study = _object(instances.study_instance_uid, _SYSTEM, _REPORT, _STUDY_UID)
    # The schema wants a name or a query; a study has no other name than its UID.
    SubElement(study, "ParticipantObjectName").text = _clean(instances.study_instance_uid)
    description = SubElement(study, "ParticipantObjectDescription")
    if instances.accession_number:
        SubElement(description, "Accession", {"Number": _clean(instances.accession_number)})
    for uid, count in sorted(instances.sop_classes.items()):
        SubElement(description, "SOPClass", {"UID": _clean(uid), "NumberOfInstances": str(count)})
    return study


def _patient(instances: Instances) -> Element:
    patient = _object(instances.patient_id, _PERSON, _PATIENT, _PATIENT_NUMBER)
    SubElement(patient, "ParticipantObjectName").text = _clean(instances.patient_name)
    return patient


def _object(identifier: str, kind: str, role: str, id_type: Code) -> Element:
    attributes = {
        "ParticipantObjectID": _clean(identifier),
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = Element("ParticipantObjectIdentification", attributes)
    _code(element, "ParticipantObjectIDTypeCode", id_type)
    return element


def _detail(element: Element, kind: str, value: str) -> None:
    SubElement(element, "ParticipantObjectDetail", {"type": kind, "value": _base64(value.encode("utf-8", "replace"))})


def _code(parent: Element, name: str, code: Code) -> None:
    attributes: Sequence[str] = ("csd-code", "codeSystemName", "originalText")
    SubElement(parent, name, dict(zip(attributes, code, strict=True)))


def _clean(text: str) -> str:
    """``text`` as XML 1.0 can hold it, on one line."""
    return escaped(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")


def _base64(content: bytes) -> str:
    return b64encode(content).decode("ascii")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
