"""Whatever is asked, the answer is never a 5xx; and 200 MB in either direction do not sit in memory."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from chexnode.settings.web import WebSettings
from support.dicomweb import BOUNDARY, DICOM, Service, part10_of, path_of, read_all, related, serving
from support.nodes import Node
from support.radiographs import radiograph
from support.receivers import a_settings, spooled
from support.servers import LOOPBACK

RELATED = f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(a_settings(tmp_path_factory.mktemp("hostile"))) as service:
        yield service


def post(service: Service, body: bytes, kind: str = RELATED) -> httpx.Response:
    return service.client.post("/studies", content=body, headers={"Content-Type": kind})


GOOD = part10_of(radiograph())
many = examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(st.binary(max_size=300), st.sampled_from([RELATED, DICOM]))
def test_rubbish_as_a_body(service: Service, body: bytes, kind: str) -> None:
    assert 400 <= post(service, body, kind).status_code < 500


@many
@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=20))
def test_a_file_with_a_hole(service: Service, start: int, end: int, filling: bytes) -> None:
    mutilated = GOOD[:start] + filling + GOOD[max(start, min(end, start + 40)) :]
    assert post(service, related([(DICOM, mutilated)])).status_code in (200, 202, 400, 409)
    assert post(service, related([(DICOM, GOOD), (DICOM, mutilated)])[: -len(filling) or None]).status_code in (
        200,
        202,
    )


@many
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_any_content_type_and_accept(service: Service, text: str) -> None:
    kind = text.strip() or "x"
    assert post(service, related([(DICOM, GOOD)]), kind).status_code in (200, 400, 415)
    assert post(service, related([(kind.replace("\r", ""), GOOD)])).status_code in (200, 202, 400, 409, 415)
    assert service.get("/studies", kind).status_code in (200, 204, 406)


@many
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_query(service: Service, name: str, value: str) -> None:
    for path in ("/studies", "/series", "/instances"):
        assert service.client.get(path, params={name: value}).status_code in (200, 204, 400, 406)


@many
@given(st.sampled_from(["window", "viewport", "quality", "accept", "annotation"]), st.text(max_size=20))
def test_any_rendering(service: Service, name: str, value: str) -> None:
    post(service, GOOD, DICOM)
    answer = service.client.get(f"{path_of(radiograph())}/rendered", params={name: value})
    assert answer.status_code in (200, 400, 406)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/studies/abc", 400),
        ("/studies/1.2.3", 404),
        ("/studies/" + "1" * 200, 400),
        ("/studies/1.2.3/metadata", 404),
        ("/studies/1.2/series/1.2/instances/1.2/frames/1", 404),
        ("/studies/1.2/series/1.2/instances/1.2/bulkdata/..%2F..%2Fetc", 404),
        ("/nothing", 404),
    ],
)
def test_paths_that_lead_nowhere(service: Service, path: str, status: int) -> None:
    assert service.get(path).status_code == status


def test_methods_that_are_not_offered(service: Service) -> None:
    assert service.client.delete("/studies/1.2.3").status_code == 405
    assert service.client.options("/studies").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    wadl = service.client.options("", follow_redirects=True)
    assert wadl.headers["content-type"] == "application/vnd.sun.wadl+xml"
    assert 'path="studies/{study}/metadata"' in wadl.text


@pytest.mark.shared
def test_every_test_file_in_every_form_without_a_fault(service: Service, shared: Path) -> None:
    for file in read_all(shared / "data" / "dicom"):
        assert post(service, related([(DICOM, file.read_bytes())])).status_code in (200, 202, 400, 409)
    asked = 0
    for found in service.get("/instances", limit="1000").json():
        study, series, instance = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
        path = f"/studies/{study}/series/{series}/instances/{instance}"
        for end in ("", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulkdata/7FE00010"):
            answer = service.get(path + end)
            assert answer.status_code in (200, 404, 406), (path + end, answer.text)
            asked += 1
        explicit = service.get(path, f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.1")
        assert explicit.status_code in (200, 406), explicit.text
    assert asked > 300
    assert spooled(service.settings)


def peak_mb(node: Node) -> float:
    """The largest resident size so far of the process that serves."""
    (pid,) = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == node.web_port}
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1000


def test_memory_while_200_mb_go_in_and_out(tmp_path: Path) -> None:
    side = 10_000  # 200 MB of 16 bits
    ds = radiograph(shape=(8, 8), Rows=side, Columns=side, BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=b"")
    ds.SOPInstanceUID = generate_uid()
    head = part10_of(ds)[:-12]
    length = 2 * side * side
    element = bytes.fromhex("E07F1000") + b"OW\0\0" + length.to_bytes(4, "little")

    def body() -> Iterator[bytes]:
        yield f"--{BOUNDARY}\r\nContent-Type: {DICOM}\r\n\r\n".encode() + head + element
        for _ in range(length // 1_000_000):
            yield bytes(1_000_000)
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    node = Node(tmp_path)
    node.run("db", "upgrade")
    with node.role("web"), httpx.Client(base_url=f"http://127.0.0.1:{node.web_port}/dicom-web", timeout=120) as client:
        small = part10_of(radiograph(SOPInstanceUID=generate_uid()))
        assert client.post("/studies", content=small, headers={"Content-Type": DICOM}).status_code == 200
        before = peak_mb(node)
        answer = client.post("/studies", content=body(), headers={"Content-Type": RELATED})
        assert answer.status_code == 200, answer.text
        stored = peak_mb(node)
        received = 0
        with client.stream("GET", f"/studies/{ds.StudyInstanceUID}") as stream:
            assert stream.status_code == 200
            for piece in stream.iter_bytes():
                received += len(piece)
        served = peak_mb(node)
    print(f"peak MB: {before:.0f} before, {stored:.0f} after storing 200 MB, {served:.0f} after serving them")
    assert received > length
    assert stored - before < 60
    assert served - before < 60


def test_a_slow_reader_is_not_an_idle_one(tmp_path: Path) -> None:
    settings = a_settings(tmp_path, web=WebSettings(idle_seconds=2))
    with serving(settings) as service:
        ds = radiograph(shape=(4096, 4096), PixelData=bytes(4096 * 4096))
        assert service.store(part10_of(ds)).status_code == 200
        end = b""
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            caller.connect((LOOPBACK, service.client.base_url.port or 0))
            request = f"GET /dicom-web{path_of(ds)}/frames/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            caller.sendall(request.encode())
            while piece := caller.recv(100_000):
                end = (end + piece)[-100:]
                time.sleep(0.03)
    assert end.endswith(b"--\r\n\r\n0\r\n\r\n"), "the closing boundary and the last chunk"
