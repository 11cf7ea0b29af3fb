"""Delivery by STOW-RS: to Orthanc's DICOMweb plugin, and to a service that answers as a test wants."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit, SegmentationStorage

from chexnode.deliver import stow
from chexnode.deliver.courier import BATCH, DOUBTFUL_TRIES, STEP_BACK_SECONDS
from chexnode.roles.certificates import Authority
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.tls import TlsSettings
from chexnode.tls import client_context, server_context
from chexnode.vocabulary.errors import DestinationDown
from support import servers
from support.deliveries import Node, canned, result
from support.stow import Reply, Request, all_stored, module, service


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(url: str, authorities: TlsSettings | None = None, **destination: Any) -> Node:
        chosen = {"kind": "stow", "url": url, "ae_title": None, "host": None} | destination
        node = Node(tmp_path, f"sqlite:///{tmp_path / 'node.db'}", authorities, **chosen)
        made.append(node)
        return node

    yield make
    for node in made:
        node.ledger.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("deliver-")]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Orthanc]:
    with servers.Orthanc(tmp_path_factory.mktemp("orthanc"), dicom_web=True) as server:
        yield server


def test_orthanc_has_everything_once(make_node: Callable[..., Node], pacs: servers.Orthanc) -> None:
    pacs.delete_all()
    url = f"http://{servers.LOOPBACK}:{pacs.http_port}/dicom-web"
    node = make_node(url)
    objects = [
        result(),
        result(syntax=ImplicitVRLittleEndian),
        result(syntax=JPEGBaseline8Bit),
        result(SegmentationStorage, size=3_000_000),
    ]
    node.add(*objects[:2])
    node.add(*objects[2:])
    assert node.deliver() == 4
    assert node.states() == ["SENT"] * 4
    assert node.job_states() == {"DONE"}
    assert {v.error for v in node.view().values()} == {None}
    independent = DICOMwebClient(url)
    found = independent.search_for_instances(study_instance_uid="1.2.3")
    assert {one["00080018"]["Value"][0] for one in found} == {ds.SOPInstanceUID for ds in objects}
    seg = objects[3]
    kept = independent.retrieve_instance("1.2.3", seg.SeriesInstanceUID, seg.SOPInstanceUID)
    assert kept.PixelData == seg.PixelData
    assert kept[0x0011, 0x1001].value == "kept as it is"

    assert node.ledger.deliveries.replay() == 4
    assert node.deliver() == 4
    assert len(pacs.instances()) == 4
    assert node.job_states() == {"DONE"}


def test_the_bytes_that_arrive_are_the_files_bytes(make_node: Callable[..., Node]) -> None:
    with service() as (url, seen):
        node = make_node(url)
        objects = [result(), result(syntax=ImplicitVRLittleEndian), result(SegmentationStorage, size=600_001)]
        node.add(*objects)
        assert node.deliver() == 3
        assert [r.path for r in seen] == ["/dicom-web/studies"]
        for ds, part in zip(objects, seen[0].parts, strict=True):
            assert part == node.file(ds).read_bytes()
    assert node.states() == ["SENT"] * 3


def test_each_instance_has_its_own_answer(make_node: Callable[..., Node]) -> None:
    objects = [result() for _ in range(9)]
    uids = [ds.SOPInstanceUID for ds in objects]
    reasons = dict(zip(uids[2:8], [0x0111, 45070, 0xA700, 0xA900, 0xC122, 0], strict=True))
    partial = Reply(202, module({uids[0]: 0, uids[1]: 0xB000}, reasons))
    with service(lambda request: partial if len(request.parts) > 1 else Reply(202)) as (url, seen):
        node = make_node(url)
        ids = node.add(*objects)
        assert node.deliver() == 9
        view = node.view()
        assert [(view[i].state.value, view[i].error) for i in ids] == [
            ("SENT", None),
            ("SENT", "0xB000 warning: data elements coerced"),
            ("SENT", "0x0111 the destination already had it"),
            ("SENT", "0xB00E the destination already had it"),
            ("WAITING", "0xA700 the destination is out of resources"),
            ("DEAD", "0xA900 data set does not match SOP class"),
            ("WAITING", "0xC122 the destination cannot understand the data set"),
            ("WAITING", "not stored, without a reason"),
            ("WAITING", "HTTP 202 Accepted, but nothing says that it is stored: is it a STOW-RS service?"),
        ]
        assert [len(r.parts) for r in seen] == [9, 1]  # the one that the answer does not name, once more and alone
        assert node.ledger.deliveries.breaker("pacs").failures == 0
        assert node.job_states() == {"DELIVERING"}


@pytest.mark.parametrize(
    ("status", "body", "state", "error"),
    [
        (200, b"", "WAITING", "nothing says that it is stored"),
        (200, b"<html>please log in</html>", "WAITING", "nothing says that it is stored"),
        (204, b"", "WAITING", "nothing says that it is stored"),
        (409, b"", "DEAD", "refused with HTTP 409 Conflict"),
        (409, b"<html>conflict</html>", "DEAD", "refused with HTTP 409 Conflict"),
        (409, b'{"error": "SOP class not supported"}', "DEAD", "refused with HTTP 409 Conflict"),
        (400, b"{}", "DEAD", "refused with HTTP 400 Bad Request"),
        (413, b"", "DEAD", "refused with HTTP 413"),
        (415, b"", "DEAD", "refused with HTTP 415 Unsupported Media Type"),
        (422, b'{"00081198": 5}', "DEAD", "refused with HTTP 422"),
        (
            409,
            b'{"0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}',
            "WAITING",
            "0x0110",
        ),
        (200, b'{"00081199": {"vr": "SQ"}, "00081198": {"vr": "SQ"}}', "WAITING", "nothing says"),
    ],
)
def test_what_an_answer_does_not_name_is_not_stored(
    make_node: Callable[..., Node], status: int, body: bytes, state: str, error: str
) -> None:
    with service(lambda _: Reply(status, body)) as (url, _):
        node = make_node(url)
        (one,) = node.add(result())
        assert node.deliver() == 1
        found = node.view()[one]
        assert found.state.value == state
        assert error in (found.error or "")
        assert node.ledger.deliveries.breaker("pacs").failures == 0


@pytest.mark.parametrize("status", [200, 409])
def test_what_a_search_finds_is_stored(make_node: Callable[..., Node], status: int) -> None:
    """An answer that names nothing, of a service that has the instance, and of one that has another."""
    stored, lost = result(), result()
    found = [{"00080018": {"vr": "UI", "Value": [stored.SOPInstanceUID]}}]
    with service(lambda _: Reply(status), search=lambda _: Reply(200, json.dumps(found).encode())) as (url, _):
        node = make_node(url)
        (one,) = node.add(stored)
        (other,) = node.add(lost)
        assert node.deliver() == 2
        view = node.view()
        assert view[one].state == "SENT"
        assert "a search finds it there" in (view[one].error or "")
        assert view[other].state == ("WAITING" if status == 200 else "DEAD")


def test_what_is_never_proven_is_given_up_after_a_few_tries(make_node: Callable[..., Node]) -> None:
    with service(lambda _: Reply(200, b"<html>please log in</html>", {"Content-Type": "text/html"})) as (url, seen):
        node = make_node(url)
        node.add(result())
        for _ in range(DOUBTFUL_TRIES):
            node.clock.skip(3600)
            node.deliver()
        assert node.states() == ["DEAD"]
        assert len(seen) == DOUBTFUL_TRIES
        with pytest.raises(DestinationDown, match="a web page answers there, and no STOW-RS service"):
            stow.probe(node.destination)


def test_a_conflict_with_a_reason_is_no_duplicate(make_node: Callable[..., Node]) -> None:
    objects = [result(), result()]
    failed = {objects[0].SOPInstanceUID: 0x0122, objects[1].SOPInstanceUID: 0xA900}
    with service(lambda _: Reply(409, module({}, failed))) as (url, _):
        node = make_node(url)
        node.add(*objects)
        assert node.deliver() == 2
        assert node.states() == ["DEAD", "DEAD"]
        assert node.job_states() == {"DONE"}


def test_one_that_spoils_the_request_does_not_spoil_the_others(make_node: Callable[..., Node]) -> None:
    objects = [result() for _ in range(4)]
    bad = objects[2].SOPInstanceUID

    def answer(request: Request) -> Reply:
        return Reply(400) if bad in request.uids else all_stored(request)

    with service(answer) as (url, seen):
        node = make_node(url)
        node.add(*objects)
        assert node.deliver() == 4
        assert node.states() == ["SENT", "SENT", "DEAD", "SENT"]
        assert [len(r.parts) for r in seen] == [4, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(500), "it answered HTTP 500 Internal Server Error"),
        (Reply(503), "it answered HTTP 503"),
        (Reply(507), "it answered HTTP 507 Insufficient Storage"),
        (Reply(401), "it answered HTTP 401 Unauthorized: it does not know our credentials"),
        (Reply(403), "our credentials do not allow it"),
        (Reply(404), "is the URL right?"),
        (Reply(429), "it answered HTTP 429"),
        (Reply(302, headers={"Location": "http://elsewhere.example/"}), "give the URL that it redirects to"),
        (Reply(599), "it answered HTTP 599"),
        (Reply(200, b" " * 5_000_000), "its answer is too long"),
        (Reply(hang_up=True), "the connection failed"),
    ],
)
def test_a_service_that_is_not_well_is_tried_again_later(
    make_node: Callable[..., Node], reply: Reply, error: str
) -> None:
    replies = [reply]
    with service(lambda request: replies[0] if replies else all_stored(request)) as (url, seen):
        node = make_node(url)
        node.add(result(), result())
        assert node.deliver() == 2
        assert node.states() == ["WAITING", "WAITING"]
        assert all(error in (v.error or "") for v in node.view().values())
        assert node.ledger.deliveries.breaker("pacs").failures == 1
        assert node.deliver() == 0
        assert len(seen) == 1

        replies.clear()
        node.clock.skip(1.5)
        assert node.deliver() == 2
        assert node.states() == ["SENT", "SENT"]
        assert node.ledger.deliveries.breaker("pacs").failures == 0


def test_after_a_failure_one_instance_is_tried_alone(make_node: Callable[..., Node]) -> None:
    objects = [result() for _ in range(3)]
    poison = objects[0].SOPInstanceUID
    with service(lambda request: Reply(500) if poison in request.uids else all_stored(request)) as (url, seen):
        node = make_node(url)
        node.add(*objects)
        for seconds in (2, STEP_BACK_SECONDS / 2, STEP_BACK_SECONDS / 2):
            node.deliver()
            node.clock.skip(seconds)
        node.deliver()
        assert node.states() == ["WAITING", "SENT", "SENT"]
        assert len(seen[0].parts) == 3
        assert len(seen[1].parts) == 1


def test_nobody_there_and_silence(make_node: Callable[..., Node], tmp_path: Path) -> None:
    node = make_node(f"http://{servers.LOOPBACK}:{servers.free_port()}")
    (one,) = node.add(result())
    assert node.deliver() == 1
    assert "no connection" in (node.view()[one].error or "")
    with socket.create_server((servers.LOOPBACK, 0)) as silent:
        made = DestinationSettings(
            name="x", kind="stow", url=f"http://{servers.LOOPBACK}:{silent.getsockname()[1]}", timeout_seconds=0.3
        )
        with pytest.raises(DestinationDown, match=r"no answer within 0\.3 s"):
            stow.probe(made)
    with canned(b"220 smtp.example ready\r\n") as port, pytest.raises(DestinationDown, match="the connection failed"):
        stow.probe(DestinationSettings(name="x", kind="stow", url=f"http://{servers.LOOPBACK}:{port}"))


def test_an_answer_that_trickles_is_given_up(make_node: Callable[..., Node]) -> None:
    with socket.create_server((servers.LOOPBACK, 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(100):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return
                    time.sleep(0.05)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://{servers.LOOPBACK}:{listener.getsockname()[1]}"
        with pytest.raises(DestinationDown, match=r"no end of its answer within 0\.4 s"):
            stow.probe(DestinationSettings(name="x", kind="stow", url=url, timeout_seconds=0.4))
        thread.join()


def test_stopping_ends_a_request_and_blames_nobody(make_node: Callable[..., Node]) -> None:
    with service() as (url, seen):
        node = make_node(url)
        node.add(result(size=3_000_000), result())
        destination = stow.StowDestination(node.destination, node.stopping)
        node.stopping.set()
        assert list(destination.send([])) == []
        assert node.deliver() == 0
        node.stopping.clear()
        assert node.states() == ["PENDING", "PENDING"]
        assert seen == []


def test_it_gives_up_at_the_maximum_age(make_node: Callable[..., Node]) -> None:
    node = make_node(f"http://{servers.LOOPBACK}:{servers.free_port()}", max_age_hours=1)
    (one,) = node.add(result())
    node.deliver()
    node.clock.now += timedelta(hours=2)
    node.deliver()
    found = node.view()[one]
    assert found.state.value == "DEAD"
    assert (found.error or "").startswith("gave up after 1 h: no connection")


def test_one_connection_serves_many_requests(make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "MOST_BYTES", 10_000)
    with service() as (url, seen):
        node = make_node(url)
        node.add(*(result(size=4000) for _ in range(BATCH + 4)))
        assert node.deliver() == BATCH + 4
        assert {r.connection for r in seen} == {1}
        assert [len(r.parts) for r in seen] == [2] * 10
    assert set(node.states()) == {"SENT"}


def test_a_damaged_file_is_never_sent(make_node: Callable[..., Node]) -> None:
    with service() as (url, seen):
        node = make_node(url)
        objects = [result(), result()]
        node.add(*objects)
        path = node.file(objects[0])
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        assert node.deliver() == 2
        assert node.states() == ["DEAD", "SENT"]
        assert [r.uids for r in seen] == [[objects[1].SOPInstanceUID]]


def test_who_we_are(make_node: Callable[..., Node], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token_file, password_file = tmp_path / "token", tmp_path / "password"
    password_file.write_text("hunter2\n")
    basic = "Basic " + base64.b64encode(b"chex:hunter2").decode()

    def probed(**facts: Any) -> None:
        stow.probe(DestinationSettings.model_validate({"name": "x", "kind": "stow", "url": url} | facts))

    with service() as (url, seen), caplog.at_level(logging.DEBUG):
        probed(token="s3cret-token")
        probed(user="chex", password_file=password_file)
        probed(user="chex", password="hunter2")
        probed()
        for content in ("first", "second\n"):
            token_file.write_text(content)
            probed(token_file=token_file)
        said = [r.headers.get("Authorization") for r in seen]
        assert said == ["Bearer s3cret-token", basic, basic, None, "Bearer first", "Bearer second"]
        token_file.write_text("tw o\nlines-of-secret")
        with pytest.raises(DestinationDown) as caught:
            probed(token_file=token_file)
        assert "secret" not in str(caught.value)
        with pytest.raises(DestinationDown, match=r"cannot read .*nowhere"):
            probed(token_file=tmp_path / "nowhere")
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("chexnode"))
    assert "secret" not in ours
    assert "hunter2" not in ours


def test_https_with_certificates_on_both_sides(make_node: Callable[..., Node], tmp_path: Path) -> None:
    authority, stranger = Authority.open(tmp_path / "ca"), Authority.open(tmp_path / "other")
    ours, theirs = (authority.issue(name, [servers.LOOPBACK], 5) for name in ("CHEXNODE", "PACS"))
    to_them = TlsSettings(certificate=theirs.certificate, key=theirs.key, authorities=authority.path)
    with service(tls=server_context(to_them)) as (url, seen):
        us = TlsSettings(certificate=ours.certificate, key=ours.key, authorities=authority.path)
        node = make_node(url, us)
        node.add(result())
        assert node.deliver() == 1
        assert node.states() == ["SENT"]

        for wrong in (TlsSettings(authorities=authority.path), us.model_copy(update={"authorities": stranger.path})):
            with pytest.raises(DestinationDown, match=r"certificate|connection failed"):
                stow.probe(node.destination, client_context(wrong))
        with pytest.raises(DestinationDown, match=r"no connection.*certificate"):
            stow.probe(node.destination, client_context(TlsSettings()))  # the system's authorities
        assert len(seen) == 1


def test_check_looks_for_the_service(pacs: servers.Orthanc, tmp_path: Path) -> None:
    from chexnode.roles import check
    from chexnode.settings.tree import Settings
    from chexnode.vocabulary.errors import NodeError

    base = f"http://{servers.LOOPBACK}:{pacs.http_port}"
    before = len(pacs.instances())

    def said(url: str, **facts: Any) -> str:
        one = DestinationSettings.model_validate({"name": "x", "kind": "stow", "url": url} | facts)
        return check.destination(Settings(), one)

    assert said(f"{base}/dicom-web/") == f"{base}/dicom-web answers STOW-RS"
    assert "without TLS" in said(f"{base}/dicom-web", token="t")
    for wrong in (base, f"{base}/nothing"):
        with pytest.raises(NodeError, match=r"is the URL right\?"):
            said(wrong)
    assert len(pacs.instances()) == before
