"""The audit trail at real collectors: what is told of what, what survives, and who is not told anything."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from chexnode.archive.query_retrieve import Archive
from chexnode.audit.spool import AuditSpool
from chexnode.audit.syslog import Address, CollectorDown, collector
from chexnode.audit.trail import open_trail
from chexnode.audit.transfers import Transfers
from chexnode.deliver.courier import Courier
from chexnode.roles import check
from chexnode.roles.certificates import Authority, Issued
from chexnode.settings.audit import AuditSettings
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.peer import PeerSettings
from chexnode.settings.tls import TlsSettings
from chexnode.settings.tree import Settings
from chexnode.tls import client_context
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import Subject
from support import servers
from support.collectors import Collector, Rsyslog
from support.deliveries import Node as Deliveries
from support.deliveries import result, scripted
from support.ledgers import node_on, opened
from support.nodes import Node
from support.receivers import ReceiverProcess, a_settings, receiving
from support.senders import CR_IMAGE, EXPLICIT_VR, Refused, Sender, an_image, store_file
from support.servers import LOOPBACK, wait_for

START, STOP = "Application Activity/Application Start", "Application Activity/Application Stop"
TRANSFERRED, EXPORT, QUERY = "DICOM Instances Transferred", "Export", "Query"
INTRUDER, LOST = "Security Alert/Node Authentication", "Security Alert/Audit Recording Stopped"


class Papers:
    """Certificates of a hospital, and of somebody else."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.open(folder / "ours")
        self.other = Authority.open(folder / "others")
        self.node = self.authority.issue("CHEXNODE", [LOOPBACK], 1)
        self.log = self.authority.issue("LOG", [LOOPBACK], 1)
        self.elsewhere = self.authority.issue("ELSEWHERE", ["log.example"], 1)
        self.stranger = self.other.issue("LOG", [LOOPBACK], 1)

    def server(self, issued: Issued, trusted: Authority) -> ssl.SSLContext:
        """A collector's TLS with ``issued``, which wants a client certificate that ``trusted`` has signed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.certificate, issued.key)
        context.load_verify_locations(trusted.path)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def tls(self) -> TlsSettings:
        return TlsSettings(
            certificate=self.node.certificate, key=self.node.key, authorities=self.authority.path, port=0
        )


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


def audited(folder: Path, url: str, limit: int = 1000, **sections: Any) -> Settings:
    return a_settings(folder, audit=AuditSettings(url=url, spool_limit=limit), **sections)


def waiting(settings: Settings) -> int:
    return len(AuditSpool(settings.node.data_dir).waiting())


@contextmanager
def listening(scheme: str, papers: Papers) -> Iterator[Collector]:
    tls = papers.server(papers.log, papers.authority) if scheme == "tls" else None
    with Collector(scheme, tls) as one:
        yield one


# What is told


@pytest.mark.parametrize("scheme", ["udp", "tcp", "tls"])
def test_what_a_caller_stores_is_told_once_an_association_and_study(
    tmp_path: Path, papers: Papers, scheme: str
) -> None:
    with listening(scheme, papers) as log:
        settings = audited(tmp_path, log.url, tls=papers.tls)
        with receiving(settings) as (receiver, _, _):
            with Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))], calling="MODALITY") as sender:
                patient = {"_00100020": b"PID-7", "_00100010": b"Doe^Jane", "_00080050": b"ACC-1"}
                parts = [an_image(f"1.2.3.{number}", **patient) for number in range(3)]
                assert {sender.store(part).status for part in parts} == {0}
                assert sender.store(an_image("1.2.3.9", _0020000D=b"1.9", _00100020=b"PID-8")).status == 0
                assert sender.store(parts[0]).status == 0, "it was there before"
            first, other, again = log.wait_for(TRANSFERRED, 3)
            assert first.users == ["MODALITY", "CHEXNODE"]
            assert (first.action, other.action, again.action) == ("C", "C", "R")
            assert first.objects[1] == again.objects[1] == "PID-7"
            assert first.counts == {CR_IMAGE: 3}
            assert again.counts == {CR_IMAGE: 1}
            assert other.objects == ["1.9", "PID-8"]
            assert "Doe^Jane" in first.root.xpath("string(.)")
        log.wait_for(STOP)
        assert log.events() == [START, TRANSFERRED, TRANSFERRED, TRANSFERRED, STOP]
        assert log.connections <= 1
    assert waiting(settings) == 0


def test_an_association_that_lasts_is_told_of_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chexnode.audit.transfers.FLUSH_SECONDS", 0.0)
    with Collector("tcp") as log, receiving(audited(tmp_path, log.url)) as (receiver, _, _):
        with Sender(receiver.port, [(CR_IMAGE, (EXPLICIT_VR,))]) as sender:
            sender.store(an_image("1.2.3.1"))
            log.wait_for(TRANSFERRED)
            sender.store(an_image("1.2.3.2"))
            log.wait_for(TRANSFERRED, 2)
        wait_for(lambda: waiting(audited(tmp_path, log.url)) == 0, "everything to be sent")
        assert log.events() == [START, TRANSFERRED, TRANSFERRED]


def test_callers_that_are_turned_away_are_told_of(tmp_path: Path, papers: Papers) -> None:
    peers = (PeerSettings(ae_title="FRIEND", host=LOOPBACK),)
    with Collector("tcp") as log:
        with receiving(audited(tmp_path, log.url, peer=peers, tls=papers.tls)) as (receiver, _, _):
            for _ in range(5):
                with pytest.raises(Refused):
                    Sender(receiver.port, calling="FOE", called="CHEXNODE")
            (one,) = log.wait_for(INTRUDER)
            assert one.users == ["CHEXNODE", "FOE"]
            assert one.objects == [LOOPBACK]
            assert one.priority == "<84>1"

            nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
            with pytest.raises((OSError, EOFError, AssertionError, Exception)):
                Sender(receiver.tls_port, tls=nobody, calling="FRIEND")
            _, two = log.wait_for(INTRUDER, 2)
            assert two.users == ["CHEXNODE", LOOPBACK]
        log.wait_for(STOP)
        assert log.events() == [START, INTRUDER, INTRUDER, INTRUDER, STOP], "the other four as one"


@pytest.mark.parametrize("kind", ["dicom", "folder"])
def test_results_that_a_destination_takes_are_told_of(tmp_path: Path, ledger_url: str, kind: str) -> None:
    (tmp_path / "out").mkdir()
    with Collector("tcp") as log, scripted(lambda _: 0x0000) as (port, _):
        where: dict[str, Any] = (
            {"port": port} if kind == "dicom" else {"path": tmp_path / "out", "ae_title": None, "host": None}
        )
        node = Deliveries(tmp_path, ledger_url, **({"kind": kind} | where))
        settings = node.settings.model_copy(update={"audit": AuditSettings(url=log.url)})
        node.add(result(), result())
        with open_trail(settings, "worker") as trail:
            courier = Courier(node.opened(settings=settings, trail=trail))
            assert courier.deliver("pacs") == 2
            (one,) = log.wait_for(TRANSFERRED if kind == "dicom" else EXPORT)
    assert one.users == ["CHEXNODE", "STORESCP" if kind == "dicom" else (tmp_path / "out").as_uri()]
    assert one.action == "R"
    assert one.objects[0] == "1.2.3"
    assert one.counts == {SecondaryCaptureImageStorage: 2}
    node.ledger.close()


def test_a_web_destination_is_named_by_its_address(tmp_path: Path) -> None:
    where = {"name": "web", "kind": "stow", "url": "https://pacs.example:8443/dicom-web"}
    transfers = Transfers()
    transfers.add(Subject("1.2.3", "PID", "Doe^Jane", ""), SecondaryCaptureImageStorage, None)
    with Collector("tcp") as log:
        with open_trail(audited(tmp_path, log.url), "worker") as trail:
            trail.sent(DestinationSettings.model_validate(where), transfers)
        (one,) = log.wait_for(TRANSFERRED)
    assert one.users == ["CHEXNODE", where["url"]]
    assert one.root.findall("ActiveParticipant")[1].get("NetworkAccessPointID") == "pacs.example"


def test_what_an_archive_is_asked_is_told(tmp_path: Path) -> None:
    ae = AE("ARCHIVE")
    ae.add_supported_context("1.2.840.10008.5.1.4.1.2.2.1")
    port = servers.free_port()
    server = ae.start_server((LOOPBACK, port), block=False, evt_handlers=[(evt.EVT_C_FIND, lambda _: iter(()))])
    try:
        with Collector("tcp") as log:
            settings = audited(
                tmp_path, log.url, destination=[{"name": "p", "ae_title": "ARCHIVE", "host": LOOPBACK, "port": port}]
            )
            with open_trail(settings, "reconcile") as trail, opened(settings.database.url) as ledger:
                node = node_on(ledger, settings, trail=trail)
                with Archive(node, settings.destination[0]) as archive:
                    assert archive.studies(Filter(since=datetime(2026, 1, 1, tzinfo=UTC)), ["CR", "DX"]) == []
                first, second = log.wait_for(QUERY, 2)
    finally:
        server.shutdown()
    assert first.users == second.users == ["CHEXNODE", "ARCHIVE"]
    assert first.objects == ["1.2.840.10008.5.1.4.1.2.2.1"]


def test_every_role_tells_when_it_starts_and_stops(tmp_path: Path) -> None:
    with Collector("tcp") as log:
        node = Node(tmp_path / "node", audit={"url": log.url})
        node.run("db", "upgrade")
        with node.role("web"):
            (start,) = log.wait_for(START)
        log.wait_for(STOP)
        assert start.root.find("ActiveParticipant").get("UserName") == "ChexNode web"
        assert start.host
        assert start.process == start.root.find("ActiveParticipant").get("UserID")


# What survives


@pytest.mark.parametrize("scheme", ["udp", "tcp", "tls"])
def test_while_the_collector_is_away_messages_wait_and_come_in_order(
    tmp_path: Path, papers: Papers, scheme: str
) -> None:
    tls = papers.server(papers.log, papers.authority) if scheme == "tls" else None
    log = Collector(scheme, tls)
    settings = audited(tmp_path, log.url, tls=papers.tls)
    with receiving(settings) as (receiver, _, _):
        for number in range(5):
            part = an_image(f"1.2.3.{number}", _0020000D=b"1.%d" % number)
            assert store_file(receiver.port, part).status == 0, "nobody waits for a collector"
        if scheme == "udp":  # the first datagram meets nobody, and only that tells
            wait_for(lambda: 1 <= waiting(settings) <= 6, "messages to wait")
        else:
            wait_for(lambda: waiting(settings) == 6, "six messages to wait")
        with log:
            wait_for(lambda: waiting(settings) == 0, "everything to be sent")
            studies = [one.objects[0] for one in log.told if one.event == TRANSFERRED]
            if scheme == "udp":
                assert studies == [f"1.{n}" for n in range(5)][-len(studies) :], "a datagram may be lost, and no more"
            else:
                assert studies == [f"1.{n}" for n in range(5)]
                assert log.events()[0] == START


def test_what_a_killed_receiver_has_written_is_sent_by_the_next(tmp_path: Path) -> None:
    log = Collector("tcp")
    process = ReceiverProcess(tmp_path, f'[audit]\nurl = "{log.url}"\n')
    data_dir = AuditSpool(tmp_path / "var")
    with process:
        for number in range(3):
            assert store_file(process.port, an_image(f"1.2.3.{number}", _0020000D=b"1.%d" % number)).status == 0
        wait_for(lambda: len(data_dir.waiting()) == 4, "four messages to wait")
        process.kill()
    assert len(data_dir.waiting()) == 4
    with process, log:
        log.wait_for(START, 2)
        assert [one.objects[0] for one in log.told if one.event == TRANSFERRED] == ["1.0", "1.1", "1.2"]
        assert log.events()[0] == START


def test_a_collector_that_dies_in_between_loses_nothing(tmp_path: Path) -> None:
    with Collector("tcp") as log, receiving(audited(tmp_path, log.url)) as (receiver, _, _):
        log.wait_for(START)
        for number in range(4):
            log.hang_up()
            part = an_image(f"1.2.3.{number}", _0020000D=b"1.%d" % number)
            assert store_file(receiver.port, part).status == 0
            log.wait_for(TRANSFERRED, number + 1)
        assert log.connections > 1
        told = [one.objects[0] for one in log.told if one.event == TRANSFERRED]
        assert sorted(set(told)) == [f"1.{n}" for n in range(4)]


def test_beyond_the_limit_the_oldest_are_dropped_counted_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = Collector("tcp")
    settings = audited(tmp_path, log.url, limit=3)
    with receiving(settings) as (receiver, _, _):
        for number in range(8):
            part = an_image(f"1.2.3.{number}", _0020000D=b"1.%d" % number)
            assert store_file(receiver.port, part).status == 0
        wait_for(lambda: waiting(settings) == 3, "all but three to be dropped")
        assert AuditSpool(tmp_path).losses == (6, 0), "the start and five studies"
        assert any("dropped from a full spool" in record.message for record in caplog.records)
        with log:
            (alert,) = log.wait_for(LOST)
            log.wait_for(TRANSFERRED, 3)
            assert [one.objects[0] for one in log.told if one.event == TRANSFERRED] == ["1.5", "1.6", "1.7"]
            assert alert.root.find("EventIdentification").get("EventOutcomeIndicator") == "8"
            assert AuditSpool(tmp_path).losses == (6, 6)


@pytest.mark.parametrize("is_noticed", [False, True], ids=["at once", "after a look"])
def test_a_spool_that_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_noticed: bool
) -> None:
    with Collector("tcp") as log, receiving(audited(tmp_path, log.url)) as (receiver, _, _):
        log.wait_for(START)
        folder = tmp_path / "audit"
        shutil.rmtree(folder)
        folder.write_bytes(b"in the way")
        if is_noticed:
            wait_for(lambda: any("cannot be used" in r.message for r in caplog.records), "the spool to be looked at")
        assert store_file(receiver.port, an_image("1.2.3.1")).status == 0
        wait_for(lambda: any("could not be written" in r.message for r in caplog.records), "it to be logged")


# Who is told nothing


@pytest.mark.parametrize("who", ["stranger", "elsewhere", "distrustful"])
def test_a_collector_that_is_not_the_right_one_gets_nothing_and_nothing_is_lost(
    tmp_path: Path, papers: Papers, who: str
) -> None:
    issued = {"stranger": papers.stranger, "elsewhere": papers.elsewhere, "distrustful": papers.log}[who]
    trusted = papers.other if who == "distrustful" else papers.authority
    with Collector("tls", papers.server(issued, trusted)) as log:
        address, tls = Address.parse(log.url), client_context(papers.tls)
        with pytest.raises(CollectorDown, match=r"not trusted|TLS|hung up|reset|lost|Broken"):
            collector(address, tls).send([b"secret"])
        assert log.raw == []
        settings = audited(tmp_path, log.url, tls=papers.tls)
        with open_trail(settings, "test"):
            pass
        assert waiting(settings) == 2
        assert log.raw == []


@pytest.mark.parametrize("secured", [False, True])
def test_rsyslog_gets_it_whole(tmp_path: Path, papers: Papers, secured: bool) -> None:
    with Rsyslog(tmp_path / "log", (papers.authority, papers.log) if secured else None) as log:
        settings = audited(tmp_path, log.url, tls=papers.tls)
        with receiving(settings) as (receiver, _, _):
            patient = {"_00080005": b"ISO_IR 192", "_00100010": "Müller^Jörg".encode(), "_00100020": b"P 1"}
            assert store_file(receiver.port, an_image("1.2.3.1", **patient)).status == 0
        wait_for(lambda: len(log.told) == 3, "rsyslog to write")
        assert [one.event for one in log.told] == [START, TRANSFERRED, STOP]
        assert "Müller^Jörg" in log.told[1].root.xpath("string(.)")


# The doctor


def test_the_doctor_looks_at_the_collector(tmp_path: Path, papers: Papers) -> None:
    with Collector("tls", papers.server(papers.log, papers.authority)) as log:
        settings = audited(tmp_path, log.url, tls=papers.tls)
        AuditSpool(tmp_path).put(b"waits")
        assert check.audit(settings) == f"{log.url} answers, 1 message waits"
        AuditSpool(tmp_path).note_losses(3, 3)
        assert "3 were lost" in check.audit(settings)
    with pytest.raises(BadEnvironment, match="Connection refused"):
        check.audit(settings)
