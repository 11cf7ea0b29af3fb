"""The web role's DICOMweb service as tests want it: over a real socket, with its own storage service."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest
import uvicorn
from pydicom.dataset import Dataset

from chexnode.audit.trail import open_trail
from chexnode.ledger.ledger import Ledger
from chexnode.receive.storage import StorageService
from chexnode.settings.tree import Settings
from chexnode.web.app import create_app
from support.ledgers import Clock, CountingBell, node_on, opened
from support.receivers import a_settings
from support.servers import LOOPBACK, free_port, wait_for

DICOM = "application/dicom"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    client: httpx.Client
    settings: Settings
    ledger: Ledger
    bell: CountingBell

    def store(self, *files: bytes, study: str = "", **headers: str) -> httpx.Response:
        """STOW ``files``."""
        body = related([(DICOM, file) for file in files])
        kind = f'multipart/related; type="{DICOM}"; boundary={BOUNDARY}'
        path = f"/studies/{study}" if study else "/studies"
        return self.client.post(path, content=body, headers={"Content-Type": kind} | headers)

    def get(self, path: str, accept: str = "*/*", **query: str) -> httpx.Response:
        """GET with an Accept header."""
        return self.client.get(path, headers={"Accept": accept}, params=query or None)


BOUNDARY = "0123456789abcdef"


def related(parts: Sequence[tuple[str, bytes]], boundary: str = BOUNDARY) -> bytes:
    """A ``multipart/related`` body of (Content-Type, content) parts."""
    body = b""
    for kind, content in parts:
        body += f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + content
    return body + f"\r\n--{boundary}--\r\n".encode()


def parts_of(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """(headers, content) of each part of a multipart answer, by the standard library's parser."""
    boundary = answer.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    pieces = answer.content.split(b"--" + boundary)
    assert pieces[-1].startswith(b"--")
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        found.append(({name.lower(): value for name, value in headers.items()}, content.removesuffix(b"\r\n")))
    return found


def path_of(ds: Dataset) -> str:
    """The path of an instance under the service."""
    study, series, instance = (str(ds[k].value) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    return f"/studies/{study}/series/{series}/instances/{instance}"


def part10_of(ds: Dataset) -> bytes:
    """A data set as a file."""
    from io import BytesIO

    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


@contextmanager
def serving(settings: Settings, ledger: Ledger | None = None) -> Iterator[Service]:
    """The service in this process, on a free port."""
    with (
        nullcontext(ledger) if ledger else opened(settings.database.url) as the_ledger,
        open_trail(settings, "web") as trail,
    ):
        bell = CountingBell()
        node = node_on(the_ledger, settings, bell=bell, trail=trail)
        storage = StorageService(node)
        storage.start()
        port = free_port()
        app = create_app(node, storage)
        config = uvicorn.Config(app, LOOPBACK, port, log_config=None, access_log=False, proxy_headers=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive(), "the web role to start")
            url = f"http://{LOOPBACK}:{port}/dicom-web"
            # Without TLS; reading the authorities that a client would trust takes as long as a test.
            with httpx.Client(base_url=url, timeout=60, verify=False) as client:
                yield Service(url, client, settings, the_ledger, bell)
        finally:
            server.should_exit = True
            thread.join(30)
            storage.stop()


@contextmanager
def holding(request: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of a module's own on an empty ledger, on the database that the fixture's parameter names."""
    folder = folders.mktemp("service")
    settings = a_settings(folder)
    url = settings.database.url
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url = postgres.create_database()
    with opened(url, Clock()) as ledger, serving(settings, ledger) as service:
        yield service
    if request.param == "postgresql":
        postgres.drop_database(url)


def read_all(folder: Path) -> list[Path]:
    """The DICOM files of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv")
