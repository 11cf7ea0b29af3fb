"""Audit messages in the XML of PS3.15 annex A.5: pure, one function for each event that the node reports.

Instances are counted by SOP class and not listed one by one, which A.5.2 allows and which keeps a message below what a
datagram holds. Audit messages name patients: that is what they are for. They go to the collector and the spool, never
into the log.
"""

from __future__ import annotations

from datetime import datetime
from xml.etree.ElementTree import SubElement

from chexnode.audit.elements import (
    NODE_ID,
    REPORT,
    RESOURCE,
    SECURITY_RESOURCE,
    SOP_CLASS_UID,
    SYSTEM,
    AuditSource,
    Code,
    EventOutcome,
    Message,
    MovedInstances,
    Participant,
    add_detail,
    add_medium,
    add_participant,
    add_query,
    begin,
    clean,
    finish,
    make_object,
    study_and_patient,
)

# Event IDs (PS3.16 CID 400)
_APPLICATION_ACTIVITY = ("110100", "DCM", "Application Activity")
_ACCESSED = ("110103", "DCM", "DICOM Instances Accessed")
_TRANSFERRED = ("110104", "DCM", "DICOM Instances Transferred")
_EXPORT = ("110106", "DCM", "Export")
_QUERY = ("110112", "DCM", "Query")
_SECURITY_ALERT = ("110113", "DCM", "Security Alert")
_USER_AUTHENTICATION = ("110114", "DCM", "User Authentication")

# Event types (CID 401)
_START = ("110120", "DCM", "Application Start")
_STOP = ("110121", "DCM", "Application Stop")
_LOGIN = ("110122", "DCM", "Login")
NODE_AUTHENTICATION: Code = ("110126", "DCM", "Node Authentication")
"""Somebody was not who may call."""
RESTRICTED_FUNCTION: Code = ("110132", "DCM", "Use of Restricted Function")
"""Somebody is known and may not do this."""
AUDIT_RECORDING_STOPPED: Code = ("110133", "DCM", "Audit Recording Stopped")
"""Messages were lost."""

# Roles of active participants (CID 402)
_APPLICATION = ("110150", "DCM", "Application")
_DESTINATION = ("110152", "DCM", "Destination Role ID")
_SOURCE = ("110153", "DCM", "Source Role ID")
_DESTINATION_MEDIA = ("110154", "DCM", "Destination Media")

_URI_MEDIUM = ("110037", "DCM", "URI")

_LONGEST_QUERY = 32_768


def application(source: AuditSource, at: datetime, process: Participant, started: bool) -> Message:
    """Application Activity (A.5.3.1): one of our processes has started or is about to stop."""
    root = begin(_APPLICATION_ACTIVITY, "E", at, _START if started else _STOP)
    add_participant(root, process, _APPLICATION)
    return finish(root, source, at)


def transferred(
    source: AuditSource,
    at: datetime,
    sender: Participant,
    receiver: Participant,
    instances: MovedInstances,
    had_before: bool | None,
    *,
    asked_by_receiver: bool = False,
    outcome: EventOutcome = EventOutcome.SUCCESS,
) -> Message:
    """DICOM Instances Transferred (A.5.3.7), about one patient.

    ``had_before``: whether the receiver had the instances; None where the audit source is not the receiver.
    """
    root = begin(_TRANSFERRED, "C" if had_before is False else "R", at, outcome=outcome)
    add_participant(root, sender, _SOURCE, requestor=not asked_by_receiver)
    add_participant(root, receiver, _DESTINATION, requestor=asked_by_receiver)
    return finish(root, source, at, *study_and_patient(instances), outcome=outcome)


def accessed(
    source: AuditSource,
    at: datetime,
    user: Participant,
    process: Participant,
    instances: MovedInstances,
    outcome: EventOutcome,
) -> Message:
    """DICOM Instances Accessed (A.5.3.6): ``user`` was shown something of them by ``process``, about one patient."""
    root = begin(_ACCESSED, "R", at, outcome=outcome)
    add_participant(root, user, requestor=True)
    add_participant(root, process)
    return finish(root, source, at, *study_and_patient(instances), outcome=outcome)


def exported(source: AuditSource, at: datetime, process: Participant, uri: str, instances: MovedInstances) -> Message:
    """Data Export (A.5.3.4): files were written to ``uri``, where others take them."""
    root = begin(_EXPORT, "R", at)
    add_participant(root, process, _SOURCE, requestor=True)
    add_medium(add_participant(root, Participant(uri), _DESTINATION_MEDIA), _URI_MEDIUM)
    return finish(root, source, at, *study_and_patient(instances))


def query(
    source: AuditSource,
    at: datetime,
    asking: Participant,
    asked: Participant,
    sop_class_uid: str,
    transfer_syntax_uid: str,
    identifier: bytes,
) -> Message:
    """Query (A.5.3.10): ``identifier`` is the encoded data set that is matched."""
    root = begin(_QUERY, "E", at)
    add_participant(root, asking, _SOURCE, requestor=True)
    add_participant(root, asked, _DESTINATION)
    what = make_object(sop_class_uid, SYSTEM, REPORT, SOP_CLASS_UID)
    add_query(what, identifier)
    add_detail(what, "TransferSyntax", transfer_syntax_uid)
    return finish(root, source, at, what)


def web_query(
    source: AuditSource,
    at: datetime,
    asking: Participant,
    asked: Participant,
    resource: str,
    parameters: bytes,
    outcome: EventOutcome = EventOutcome.SUCCESS,
) -> Message:
    """Query (A.5.3.10) by QIDO-RS: ``resource`` is what is searched, ``parameters`` the query of the URI as it came.

    A.5.3.10 has fields for data sets and leaves those of other queries open: the object is named by its URI, the query
    is in the form of its protocol (as IHE ITI has it), and is cut where it is longer than any is.
    """
    root = begin(_QUERY, "E", at, outcome=outcome)
    add_participant(root, asking, _SOURCE, requestor=True)
    add_participant(root, asked, _DESTINATION)
    what = make_object(resource, SYSTEM, REPORT, RESOURCE)
    add_query(what, parameters[:_LONGEST_QUERY])
    add_detail(what, "QueryEncoding", "UTF-8")
    return finish(root, source, at, what, outcome=outcome)


def login(
    source: AuditSource,
    at: datetime,
    user: Participant,
    process: Participant,
    outcome: EventOutcome,
    description: str = "",
) -> Message:
    """User Authentication (A.5.3.12): ``user`` has shown ``process`` who it is, or has failed to.

    ``description``: of the outcome.
    """
    root = begin(_USER_AUTHENTICATION, "E", at, _LOGIN, outcome, description)
    add_participant(root, user, requestor=True)
    add_participant(root, process)
    return finish(root, source, at, outcome=outcome)


def alert(
    source: AuditSource,
    at: datetime,
    kind: Code,
    outcome: EventOutcome,
    reporting: Participant,
    description: str,
    performing: Participant | None = None,
) -> Message:
    """Security Alert (A.5.3.11) about ``performing``, or about the reporting node where there is nobody else."""
    root = begin(_SECURITY_ALERT, "E", at, kind, outcome)
    add_participant(root, reporting)
    if performing is not None:
        add_participant(root, performing)
    subject = performing or reporting
    what = make_object(subject.host or subject.user_id, SYSTEM, SECURITY_RESOURCE, NODE_ID)
    SubElement(what, "ParticipantObjectName").text = clean(subject.ae_title or subject.user_id)
    add_detail(what, "Alert Description", description)
    return finish(root, source, at, what, outcome=outcome)
