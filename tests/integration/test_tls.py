"""DICOM TLS and HTTPS with real peers: DCMTK, Orthanc, a browser's library; and those who must not get through."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from chexnode.deliver.dicom import probe
from chexnode.roles.certificates import Authority, Issued
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.limits import LimitSettings
from chexnode.settings.tls import TlsSettings
from chexnode.settings.tree import Settings
from chexnode.tls import CIPHERS, client_context, server_context
from chexnode.vocabulary.errors import BadEnvironment, DestinationDown, Usage
from support.deliveries import Node as Deliveries
from support.deliveries import result
from support.nodes import Node as WholeNode
from support.nodes import Process
from support.receivers import Node, a_settings, dcmtk, receiving, rows
from support.senders import CR_IMAGE, EXPLICIT_VR, Sender, an_image, store_file
from support.servers import LOOPBACK, Orthanc, StoreSCP

CONTEXT = (SecondaryCaptureImageStorage, ExplicitVRLittleEndian)


@dataclass(frozen=True)
class Papers:
    """An authority, and those it has and has not signed for."""

    authority: Authority
    node: Issued
    peer: Issued
    expired: Issued
    stranger: Issued
    """Signed by somebody else."""

    @property
    def tls(self) -> TlsSettings:
        return TlsSettings(
            certificate=self.node.certificate, key=self.node.key, authorities=self.authority.path, port=0
        )

    @property
    def as_peer(self) -> TlsSettings:
        return self.tls.model_copy(update={"certificate": self.peer.certificate, "key": self.peer.key})


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    authority = Authority.open(tmp_path_factory.mktemp("certs"))
    other = Authority.open(tmp_path_factory.mktemp("others"))
    return Papers(
        authority,
        authority.issue("CHEXNODE", [LOOPBACK], 1),
        authority.issue("STORESCU", [LOOPBACK], 1),
        authority.issue("EXPIRED", [LOOPBACK], -1),
        other.issue("STORESCU", [LOOPBACK], 1),
    )


@pytest.fixture
def node(tmp_path: Path, papers: Papers) -> Iterator[Node]:
    yield from listening(tmp_path, papers.tls)


def listening(folder: Path, tls: TlsSettings) -> Iterator[Node]:
    settings = a_settings(folder, tls=tls, limits=LimitSettings(negotiation_seconds=60))
    with receiving(settings) as (receiver, ledger, bell):
        assert receiver.tls_port is not None
        one = Node(settings, receiver.tls_port, ledger, bell)
        one.plain_port = receiver.port  # type: ignore[attr-defined]
        yield one


def tls_options(papers: Papers, who: Issued) -> list[object]:
    return ["+tls", who.key, who.certificate, "+cf", papers.authority.path]


def send(node: Node, tmp_path: Path, options: list[object], calling: str = "STORESCU") -> int:
    file = tmp_path / "image.dcm"
    part = an_image()
    ds = dcmread(BytesIO(part.data), force=True)  # a data set without group 0002, as it goes over the wire
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = part.transfer_syntax_uid
    ds.save_as(file, enforce_file_format=True)
    return dcmtk("storescu", *options, "-R", "-aet", calling, "-aec", "CHEXNODE", LOOPBACK, node.port, file).returncode


# The listener


def test_a_trusted_peer_stores_and_the_plain_port_stays(node: Node, papers: Papers, tmp_path: Path) -> None:
    assert dcmtk("echoscu", *tls_options(papers, papers.peer), "-aec", "CHEXNODE", LOOPBACK, node.port).returncode == 0
    assert send(node, tmp_path, tls_options(papers, papers.peer)) == 0
    assert store_file(node.plain_port, an_image("1.2.3.5")).status == 0  # type: ignore[attr-defined]
    assert {row.sop_instance_uid for row in rows(node.ledger)} == {"1.2.3.4", "1.2.3.5"}


@pytest.mark.parametrize("who", ["stranger", "expired", "anonymous", "plain"])
def test_who_shows_no_good_certificate_stores_nothing(node: Node, papers: Papers, tmp_path: Path, who: str) -> None:
    options: list[object] = []
    if who == "anonymous":
        options = ["+tla", "+cf", papers.authority.path]
    elif who != "plain":
        options = tls_options(papers, getattr(papers, who))
    assert send(node, tmp_path, options) != 0
    assert rows(node.ledger) == []
    assert send(node, tmp_path, tls_options(papers, papers.peer)) == 0, "and nobody is the worse for it"


def test_without_the_demand_for_certificates_the_anonymous_may_store(tmp_path: Path, papers: Papers) -> None:
    tls = papers.tls.model_copy(update={"require_certificate": False})
    for node in listening(tmp_path, tls):
        assert send(node, tmp_path, ["+tla", "+cf", papers.authority.path]) == 0


def test_a_certificate_is_bound_to_its_ae_title(tmp_path: Path, papers: Papers) -> None:
    tls = papers.tls.model_copy(update={"match_ae_title": True})
    for node in listening(tmp_path, tls):
        assert send(node, tmp_path, tls_options(papers, papers.peer), calling="SOMEBODY") != 0
        assert rows(node.ledger) == []
        assert send(node, tmp_path, tls_options(papers, papers.peer), calling="STORESCU") == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(node: Node, papers: Papers, version: ssl.TLSVersion) -> None:
    context = client_context(papers.as_peer)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection((LOOPBACK, node.port), timeout=30) as sock:
        if version == ssl.TLSVersion.TLSv1_1:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(sock, server_hostname=LOOPBACK)
        else:
            with context.wrap_socket(sock, server_hostname=LOOPBACK) as secured:
                assert secured.version() == version.name.replace("_", ".")
                cipher = secured.cipher()
                assert cipher is not None
                assert cipher[0] in CIPHERS or version == ssl.TLSVersion.TLSv1_3


def test_tls_1_2_can_be_turned_off(tmp_path: Path, papers: Papers) -> None:
    tls = papers.tls.model_copy(update={"min_version": "1.3", "require_certificate": False})
    for node in listening(tmp_path, tls):
        context = client_context(tls)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection((LOOPBACK, node.port), timeout=30) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_hostname=LOOPBACK)


def test_large_images_and_long_associations(node: Node, papers: Papers, tmp_path: Path) -> None:
    context = client_context(papers.as_peer)
    part = an_image("1.2.3.9", pixels=1 << 22)
    with Sender(node.port, [(part.sop_class_uid, (EXPLICIT_VR,))], tls=context, pdu_length=1 << 17) as sender:
        assert sender.store(part).status == 0
        assert sender.store(an_image("1.2.3.10")).status == 0
    assert len(rows(node.ledger)) == 2


def test_a_record_that_trickles_is_ended_however_alive_its_sender_is(tmp_path: Path, papers: Papers) -> None:
    limits = LimitSettings(idle_seconds=1, negotiation_seconds=60)
    with receiving(a_settings(tmp_path, tls=papers.tls, limits=limits)) as (receiver, ledger, _):
        assert receiver.tls_port is not None
        slow = Sender(receiver.tls_port, [(CR_IMAGE, (EXPLICIT_VR,))], tls=client_context(papers.as_peer))
        slow.send_command(1, slow.store_elements(an_image()), has_data_set=True)
        with socket.fromfd(slow.sock.fileno(), socket.AF_INET, socket.SOCK_STREAM) as below:
            record = b"\x17\x03\x03" + (16_000).to_bytes(2, "big") + bytes(16_000)  # whose end nobody will wait for
            sent = 0
            with suppress(BrokenPipeError, ConnectionResetError):
                for byte in record[:400]:  # in time, every time
                    below.sendall(bytes((byte,)))
                    sent += 1
                    time.sleep(0.05)
        slow.sock.close()
        assert 10 < sent < 200
        assert rows(ledger) == []


def test_the_receiver_stops_while_tls_associations_are_open(tmp_path: Path, papers: Papers) -> None:
    settings = a_settings(tmp_path, tls=papers.tls.model_copy(update={"require_certificate": False}))
    with receiving(settings) as (receiver, _, _), ExitStack() as stack:
        context = client_context(papers.tls.model_copy(update={"certificate": None, "key": None}))
        assert receiver.tls_port is not None
        stack.callback(Sender(receiver.tls_port, tls=context).sock.close)
        stopping = threading.Thread(target=receiver.stop)
        stopping.start()
        stopping.join(20)
        assert not stopping.is_alive()
        receiver.stop = lambda: None  # type: ignore[method-assign]  # it has


# Destinations


def a_destination(port: int, **more: object) -> DestinationSettings:
    return DestinationSettings.model_validate(
        {"name": "pacs", "ae_title": "STORESCP", "host": LOOPBACK, "port": port, "tls": True} | more
    )


def test_results_go_out_by_tls(tmp_path: Path, papers: Papers) -> None:
    options = ["+tls", str(papers.peer.key), str(papers.peer.certificate), "+cf", str(papers.authority.path)]
    (tmp_path / "scp").mkdir()
    with StoreSCP(tmp_path / "scp", *options) as scp:
        node = Deliveries(tmp_path, f"sqlite:///{tmp_path}/ledger.db", port=scp.port, tls=True, authorities=papers.tls)
        node.add(result())
        assert node.deliver() == 1
        assert node.states() == ["SENT"]
        node.ledger.close()
        assert len(scp.files()) == 1
        found = probe(a_destination(scp.port), "CHEXNODE", [CONTEXT], client_context(papers.tls))
        assert found.refused == ()


@pytest.mark.parametrize(
    ("who", "name", "why"),
    [
        ("stranger", None, "not trusted"),
        ("expired", None, "expired"),
        ("peer", "pacs.example", "not trusted"),
    ],
)
def test_a_destination_that_is_another_is_not_spoken_to(
    tmp_path: Path, papers: Papers, who: str, name: str | None, why: str
) -> None:
    issued: Issued = getattr(papers, who)
    scp = StoreSCP(tmp_path, "+tls", str(issued.key), str(issued.certificate), "-ic")
    with scp, pytest.raises(DestinationDown, match=why):
        probe(a_destination(scp.port, tls_name=name), "CHEXNODE", [CONTEXT], client_context(papers.tls))


def test_a_destination_without_tls_is_down(tmp_path: Path, papers: Papers) -> None:
    with StoreSCP(tmp_path) as scp, pytest.raises(DestinationDown, match="no connection"):
        probe(a_destination(scp.port, timeout_seconds=3), "CHEXNODE", [CONTEXT], client_context(papers.tls))


def test_orthanc_both_ways(tmp_path: Path, papers: Papers, node: Node) -> None:
    pacs = papers.authority.folder / "ORTHANC.pem"
    issued = (
        papers.authority.issue("ORTHANC", [LOOPBACK], 1)
        if not pacs.exists()
        else Issued("ORTHANC", pacs, pacs.with_suffix(".key"), papers.node.not_after)
    )
    modality = {"AET": "CHEXNODE", "Host": LOOPBACK, "Port": node.port, "UseDicomTls": True}
    options = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(issued.certificate),
        "DicomTlsPrivateKey": str(issued.key),
        "DicomTlsTrustedCertificates": str(papers.authority.path),
        "DicomModalities": {"node": modality},
    }
    with Orthanc(tmp_path / "pacs", options=options) as orthanc:
        assert orthanc.http.post("/modalities/node/echo", json={}).status_code == 200
        found = probe(
            a_destination(orthanc.port, ae_title="ORTHANC"), "CHEXNODE", [CONTEXT], client_context(papers.tls)
        )
        assert found.echo
        assert found.refused == ()


# HTTPS


class WebByTls(Process):
    """The web role, which is there when it answers by HTTPS."""

    def __init__(self, node: WholeNode, trusted: ssl.SSLContext) -> None:
        super().__init__(node, "web")
        self.trusted = trusted

    def is_ready(self) -> bool:
        try:
            url = f"https://{LOOPBACK}:{self.node.web_port}/health/live"
            return httpx.get(url, verify=self.trusted).status_code == 200
        except httpx.TransportError:
            return False


def test_the_web_role_speaks_https(tmp_path: Path, papers: Papers) -> None:
    tls = {
        "certificate": str(papers.node.certificate),
        "key": str(papers.node.key),
        "authorities": str(papers.authority.path),
        "web": True,
    }
    node = WholeNode(tmp_path, tls=tls)
    node.run("db", "upgrade")
    trusted = ssl.create_default_context(cafile=papers.authority.path)
    url = f"https://{LOOPBACK}:{node.web_port}/health/live"
    with WebByTls(node, trusted):
        assert httpx.get(url, verify=trusted).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url, verify=ssl.create_default_context())
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))


# Files and settings


def test_keys_are_for_their_owner_only_and_never_written_over(tmp_path: Path, papers: Papers) -> None:
    assert all(path.stat().st_mode & 0o077 == 0 for path in papers.authority.folder.glob("*.key"))
    with pytest.raises(Usage, match="exists"):
        papers.authority.issue("CHEXNODE", [], 1)
    for name in ("ca", "../up", "a\nb", "x" * 65, ""):
        with pytest.raises(Usage):
            papers.authority.issue(name, [], 1)
    (tmp_path / "ca.pem").write_text("no certificate")
    (tmp_path / "ca.key").write_text("no key")
    with pytest.raises(Usage):
        Authority.open(tmp_path)


def test_a_key_of_another_certificate_is_refused(papers: Papers, tmp_path: Path) -> None:
    with pytest.raises(BadEnvironment, match="not fit for TLS"):
        server_context(papers.tls.model_copy(update={"key": papers.peer.key}))
    with pytest.raises(BadEnvironment, match="cannot read"):
        server_context(papers.tls.model_copy(update={"certificate": tmp_path / "none.pem"}))


@pytest.mark.parametrize(
    "tls",
    [
        {"port": 2762},
        {"port": 2762, "certificate": "a.pem"},
        {"web": True},
        {"plain": False},
        {"port": 2762, "certificate": "a.pem", "require_certificate": False, "match_ae_title": True},
    ],
)
def test_halves_of_a_configuration_are_refused(tls: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tls"):
        Settings(tls=tls)


def test_the_command_makes_what_check_accepts(tmp_path: Path) -> None:
    node = WholeNode(tmp_path)
    node.run("certs", "--out", str(tmp_path / "certs"), "--days", "30", "CHEXNODE", "PACS", "--json")
    node.tables["tls"] = {
        "certificate": "certs/CHEXNODE.pem",
        "key": "certs/CHEXNODE.key",
        "authorities": "certs/ca.pem",
    }
    node.write_settings()
    checks = {line["name"]: line for line in node.json("check")}
    assert checks["certificate"]["ok"]
