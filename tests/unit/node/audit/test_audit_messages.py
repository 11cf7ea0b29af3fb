"""Audit messages against the schema of PS3.15 A.5.1 and the tables of A.5.3; syslog framing, spool and counting."""

from __future__ import annotations

import multiprocessing
import os
import signal
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sr._concepts_dict import concepts

from chexnode.audit import message, syslog
from chexnode.audit.elements import AuditSource, EventOutcome, Message, MovedInstances, Participant
from chexnode.audit.refusals import QUIET_SECONDS, Refusal, Refusals
from chexnode.audit.spool import AuditSpool
from chexnode.audit.syslog import Address
from chexnode.audit.transfers import Transfers
from chexnode.dimse import datasets
from chexnode.vocabulary.records import Subject

AT = datetime(2026, 3, 4, 5, 6, 7, 891000, tzinfo=UTC)
SOURCE = AuditSource("CHEXNODE@node1", "HOSPITAL-7")
US = Participant("4711", "CHEXNODE", "ChexNode receiver", "node1")
PEER = Participant("MODALITY", "MODALITY", host="10.0.0.7")
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
STUDY = MovedInstances("1.2.3", "P-1", "Müller^Jörg=山田^太郎", "A-1", {CR: 2, DX: 1})
SCHEMA = etree.RelaxNG(file=str(Path(__file__).with_name("audit_message.rng")))
FIND = "1.2.840.10008.5.1.4.1.2.2.1"

ALL: Mapping[str, Message] = {
    "start": message.application(SOURCE, AT, US, True),
    "stop": message.application(SOURCE, AT, US, False),
    "received": message.transferred(SOURCE, AT, PEER, US, STUDY, had_before=False),
    "received again": message.transferred(SOURCE, AT, PEER, US, STUDY, had_before=True),
    "sent": message.transferred(SOURCE, AT, US, PEER, STUDY, had_before=None),
    "nameless": message.transferred(SOURCE, AT, PEER, US, MovedInstances("", "", "", "", {CR: 1}), had_before=False),
    "exported": message.exported(SOURCE, AT, US, "file:///mnt/out", STUDY),
    "query": message.query(SOURCE, AT, US, PEER, FIND, "1.2.840.10008.1.2", b"\x00\xff"),
    "refused": message.alert(
        SOURCE, AT, message.NODE_AUTHENTICATION, EventOutcome.MINOR_FAILURE, US, "calling AE title not recognised", PEER
    ),
    "lost": message.alert(SOURCE, AT, message.AUDIT_RECORDING_STOPPED, EventOutcome.SERIOUS_FAILURE, US, "7 were lost"),
}


def read(one: Message) -> etree._Element:
    """Parse a message that the schema allows."""
    root = etree.fromstring(one.xml)
    SCHEMA.assertValid(root)
    return root


def codes(element: etree._Element, path: str) -> list[str | None]:
    return [code.get("csd-code") for code in element.findall(path)]


@pytest.mark.parametrize("name", ALL)
def test_every_message_is_what_the_schema_allows(name: str) -> None:
    root = read(ALL[name])
    event = root.find("EventIdentification")
    assert event.get("EventDateTime") == "2026-03-04T05:06:07.891+00:00"
    source = root.find("AuditSourceIdentification")
    assert (source.get("AuditSourceID"), source.get("AuditEnterpriseSiteID")) == ("CHEXNODE@node1", "HOSPITAL-7")
    assert [p.get("UserIsRequestor") for p in root.findall("ActiveParticipant")].count("true") <= 1, "A.5.2"


def test_the_schema_refuses_what_is_none() -> None:
    root = etree.fromstring(ALL["received"].xml)
    del root.find("ActiveParticipant").attrib["UserID"]
    assert not SCHEMA.validate(root)


@pytest.mark.parametrize("name", ALL)
def test_codes_are_those_of_the_dictionary(name: str) -> None:
    known = {(code, meaning) for uses in concepts["DCM"].values() for code, (meaning, _) in uses.items()}
    found = [e for e in read(ALL[name]).iter() if e.get("codeSystemName") == "DCM"]
    assert found
    assert {(e.get("csd-code"), e.get("originalText")) for e in found} <= known


@pytest.mark.parametrize(
    ("name", "event", "kind", "action", "outcome", "roles"),
    [
        ("start", "110100", ["110120"], "E", "0", ["110150"]),  # table A.5.3.1-1
        ("stop", "110100", ["110121"], "E", "0", ["110150"]),
        ("received", "110104", [], "C", "0", ["110153", "110152"]),  # table A.5.3.7-1
        ("received again", "110104", [], "R", "0", ["110153", "110152"]),
        ("sent", "110104", [], "R", "0", ["110153", "110152"]),
        ("exported", "110106", [], "R", "0", ["110153", "110154"]),  # table A.5.3.4-1
        ("query", "110112", [], "E", "0", ["110153", "110152"]),  # table A.5.3.10-1
        ("refused", "110113", ["110126"], "E", "4", []),  # table A.5.3.11-1
        ("lost", "110113", ["110133"], "E", "8", []),
    ],
)
def test_events_have_the_values_of_their_tables(
    name: str, event: str, kind: list[str], action: str, outcome: str, roles: list[str]
) -> None:
    root = read(ALL[name])
    identification = root.find("EventIdentification")
    assert codes(identification, "EventID") == [event]
    assert codes(identification, "EventTypeCode") == kind
    assert identification.get("EventActionCode") == action
    assert identification.get("EventOutcomeIndicator") == outcome
    assert codes(root, "ActiveParticipant/RoleIDCode") == roles


@pytest.mark.parametrize("name", ["received", "sent", "exported"])
def test_a_transfer_names_the_study_and_the_patient(name: str) -> None:
    study, patient = read(ALL[name]).findall("ParticipantObjectIdentification")
    assert codes(study, "ParticipantObjectIDTypeCode") == ["110180"]
    assert (study.get("ParticipantObjectTypeCode"), study.get("ParticipantObjectTypeCodeRole")) == ("2", "3")
    assert study.get("ParticipantObjectID") == "1.2.3"
    counts = {c.get("UID"): c.get("NumberOfInstances") for c in study.iter("SOPClass")}
    assert counts == {CR: "2", DX: "1"}
    assert [a.get("Number") for a in study.iter("Accession")] == ["A-1"]
    assert codes(patient, "ParticipantObjectIDTypeCode") == ["2"]
    assert (patient.get("ParticipantObjectTypeCode"), patient.get("ParticipantObjectTypeCodeRole")) == ("1", "1")
    assert patient.get("ParticipantObjectID") == "P-1"
    assert patient.findtext("ParticipantObjectName") == STUDY.patient_name


def test_participants_are_named_by_process_ae_title_and_address() -> None:
    sender, receiver = read(ALL["received"]).findall("ActiveParticipant")
    assert sender.get("AlternativeUserID") == "AETITLES=MODALITY"
    assert (sender.get("NetworkAccessPointID"), sender.get("NetworkAccessPointTypeCode")) == ("10.0.0.7", "2")
    assert (receiver.get("UserID"), receiver.get("UserName")) == ("4711", "ChexNode receiver")
    assert (receiver.get("NetworkAccessPointID"), receiver.get("NetworkAccessPointTypeCode")) == ("node1", "1")


def test_a_query_carries_its_data_set_and_transfer_syntax() -> None:
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyDate, ds.StudyInstanceUID = "STUDY", "20260101-", ""
    one = message.query(SOURCE, AT, US, PEER, FIND, "1.2.840.10008.1.2", datasets.encode(ds, "1.2.840.10008.1.2"))
    what = read(one).find("ParticipantObjectIdentification")
    assert codes(what, "ParticipantObjectIDTypeCode") == ["110181"]
    assert what.get("ParticipantObjectID") == FIND
    content = BytesIO(b64decode(what.findtext("ParticipantObjectQuery")))
    assert read_dataset(content, is_implicit_VR=True, is_little_endian=True) == ds
    detail = what.find("ParticipantObjectDetail")
    assert detail.get("type") == "TransferSyntax"
    assert b64decode(detail.get("value")) == b"1.2.840.10008.1.2"


def test_an_alert_names_its_subject_and_says_why() -> None:
    what = read(ALL["refused"]).find("ParticipantObjectIdentification")
    assert codes(what, "ParticipantObjectIDTypeCode") == ["110182"]
    assert what.get("ParticipantObjectID") == "10.0.0.7"
    detail = what.find("ParticipantObjectDetail")
    assert detail.get("type") == "Alert Description"
    assert b64decode(detail.get("value")) == b"calling AE title not recognised"
    reporting, performing = read(ALL["refused"]).findall("ActiveParticipant")
    assert (reporting.get("UserID"), performing.get("UserID")) == ("4711", "MODALITY")


@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_whatever_a_stranger_writes_stays_one_line_of_sound_xml(text: str) -> None:
    caller = Participant(text, text, text, text)
    instances = MovedInstances(text, text, text, text, {text: 1})
    for one in (
        message.transferred(SOURCE, AT, caller, US, instances, False),
        message.alert(SOURCE, AT, message.NODE_AUTHENTICATION, EventOutcome.MINOR_FAILURE, US, text, caller),
    ):
        content = syslog.encode(one, text, text, 1)
        assert b"\n" not in content
        assert b"\x1b" not in content
        head, _, body = content.partition(b"\xef\xbb\xbf")
        assert head.decode("ascii").count(" ") == 7
        SCHEMA.assertValid(etree.fromstring(body))


# Syslog


def test_the_header_is_that_of_rfc_5424_and_ps3_15() -> None:
    content = syslog.encode(ALL["received"], "node1", "ChexNode", 4711)
    assert content.startswith(b"<85>1 2026-03-04T05:06:07.891Z node1 ChexNode 4711 DICOM+RFC3881 - \xef\xbb\xbf<?xml ")
    assert syslog.encode(ALL["refused"], "node1", "ChexNode", 1).startswith(b"<84>1 ")
    assert syslog.encode(ALL["start"], "", "", 1).split()[2:4] == [b"-", b"-"], "NILVALUE"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("udp://log", Address("udp", "log", 514)),
        ("tls://log.example", Address("tls", "log.example", 6514)),
        ("tcp://10.0.0.1:601", Address("tcp", "10.0.0.1", 601)),
        ("tls://[::1]:6514", Address("tls", "::1", 6514)),
    ],
)
def test_where_the_collector_is(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert Address.parse(str(address)) == address


# Spool


def test_what_is_put_comes_out_in_order_and_once(tmp_path: Path) -> None:
    spool = AuditSpool(tmp_path)
    assert spool.waiting() == []
    for number in range(30):
        spool.put(b"%d" % number)
    names = spool.waiting()
    assert spool.read(names) == [b"%d" % number for number in range(30)]
    spool.remove(names[:10])
    assert spool.read(AuditSpool(tmp_path).waiting()) == [b"%d" % number for number in range(10, 30)]
    assert (tmp_path / "audit").stat().st_mode & 0o077 == 0, "it names patients"
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "audit").iterdir())


def test_one_holds_the_lock_and_loses_it_with_its_life(tmp_path: Path) -> None:
    def hold() -> None:
        with AuditSpool(tmp_path).lock():
            AuditSpool(tmp_path).put(b"written before the end")
            held.set()
            signal.pause()

    fork = multiprocessing.get_context("fork")
    held = fork.Event()
    process = fork.Process(target=hold)
    process.start()
    assert held.wait(20)
    spool = AuditSpool(tmp_path)
    with spool.lock() as ours:
        assert not ours
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with spool.lock() as ours:
        assert ours
    assert spool.read(spool.waiting()) == [b"written before the end"]


def test_losses_are_kept_and_half_written_messages_are_not(tmp_path: Path) -> None:
    spool = AuditSpool(tmp_path)
    spool.put(b"x")
    assert spool.losses == (0, 0)
    spool.note_losses(7, 3)
    assert AuditSpool(tmp_path).losses == (7, 3)
    half = tmp_path / "audit" / "1-1-1.msg.part"
    half.write_bytes(b"half")
    spool.tidy()
    assert half.exists(), "somebody may be writing it"
    os.utime(half, (0, 0))
    spool.tidy()
    assert not half.exists()
    assert len(spool.waiting()) == 1


# Counting


def test_instances_are_counted_by_study_patient_and_whether_they_were_held() -> None:
    transfers = Transfers()
    one, other = Subject("1.2", "P", "N", "A"), Subject("1.2", "Q", "N", "A")
    for subject, sop_class, held in [(one, CR, False), (one, CR, False), (one, DX, False), (other, CR, False)]:
        transfers.add(subject, sop_class, held)
    transfers.add(one, CR, True)
    assert list(transfers.take()) == [
        (MovedInstances("1.2", "P", "N", "A", {CR: 2, DX: 1}), False),
        (MovedInstances("1.2", "Q", "N", "A", {CR: 1}), False),
        (MovedInstances("1.2", "P", "N", "A", {CR: 1}), True),
    ]
    assert list(transfers.take()) == []
    assert not transfers.due


def test_a_caller_that_hammers_makes_two_messages_a_minute() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    caller = Refusal("10.0.0.9", "EVIL", "calling AE title not recognised")
    assert [refusals.add(caller) for _ in range(1000)] == [True] + [False] * 999
    assert refusals.take() == []
    now = QUIET_SECONDS
    assert refusals.take() == [(caller, 999)]
    assert refusals.take() == []
    assert refusals.add(caller)


def test_a_thousand_names_do_not_make_a_thousand_messages() -> None:
    refusals = Refusals(lambda: 0.0)
    told = sum(refusals.add(Refusal("10.0.0.9", f"EVIL{n}", "no")) for n in range(1000))
    assert told == 256
    assert refusals.take(everything=True) == [(Refusal("", "", "no"), 744)]
