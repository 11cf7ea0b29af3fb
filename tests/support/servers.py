"""Real servers for tests: started on free loopback ports, waited for, stopped again.

Each server is a context manager; ``stop()`` and ``start()`` in between take it down and bring it back on the same port
with the same data. A tool that is not installed skips the test and names its Debian package; under
``CHEXNODE_TEST_REQUIRE_SERVERS=1`` (as ``make test`` runs) it fails instead, so that nothing is skipped unseen.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import psutil
import psycopg
import pydicom
import pytest

REQUIRED = os.environ.get("CHEXNODE_TEST_REQUIRE_SERVERS", "") not in ("", "0")
"""Read at import, because conftest then strips the variable like every other ``CHEXNODE_*``."""

LOOPBACK = "127.0.0.1"
START_SECONDS = 180.0
"""A wait costs nothing where it succeeds, and a busy machine is slow."""

RUNNING: list[Server] = []
"""Servers that are up; conftest adds their output to the report of a failing test."""

T = TypeVar("T")

_given_ports: set[int] = set()
_SHARE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
"""Which of the test processes this is, and how many there are: each gives out ports of its own, so that no two race."""


def missing(tool: str, package: str) -> None:
    """Skip, or fail where servers are required, because ``tool`` of Debian ``package`` is not installed."""
    message = f"{tool} is not installed (apt-get install {package})"
    if REQUIRED:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def find_tool(tool: str, package: str) -> str:
    """Return the path of ``tool``; see :func:`missing` where there is none."""
    path = shutil.which(tool, path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")
    if path is None:
        missing(tool, package)
        raise AssertionError("missing() returned")
    return path


def free_port() -> int:
    """A loopback port that nothing listens on and that this run has not given out before.

    Below the ports that Linux gives to outgoing connections, which could take it before its server does.
    """
    mine, count = _SHARE
    while True:
        port = 10_000 + mine + count * secrets.randbelow(20_000 // count)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        if port not in _given_ports:
            _given_ports.add(port)
            return port


def wait_for(condition: Callable[[], T], what: str, seconds: float = START_SECONDS, every: float = 0.02) -> T:
    """Poll ``condition`` until it is truthy and return its value; fail naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(every)
    return value


def listens(port: int) -> bool:
    """Whether something accepts TCP connections on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


class Server:
    """One server process in a folder of its own; its output goes to ``<folder>/<name>.log``."""

    name = "server"
    start_seconds = START_SECONDS
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str | Path]:
        """The command line."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Variables on top of ours."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Arguments of Popen that change the user."""
        return {}

    def start(self) -> Self:
        """Start the process and return once it answers."""
        assert self.process is None, f"{self.name} is running"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                start_new_session=True,
                **self.identity(),
            )
        RUNNING.append(self)
        try:
            wait_for(self._ready_or_gone, f"{self.name} to answer", self.start_seconds)
        except BaseException:
            self.kill()
            raise
        return self

    def _ready_or_gone(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.output()}")
        return self.is_ready()

    def stop(self) -> None:
        """Ask the process to end, and wait until it has."""
        self._end(self.stop_signal, 20)

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL, 20)

    def _end(self, number: int, seconds: float) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        RUNNING.remove(self)
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)

    def output(self, characters: int = 6000) -> str:
        """The last of what the process has written."""
        return self.log.read_text("utf-8", "replace")[-characters:] if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class Orthanc(Server):
    """A PACS. ``modalities`` maps a name to (AE title, port): whom it can store to.

    ``options`` are merged into its configuration, e.g. ``{"OverwriteInstances": False}``.
    """

    name = "orthanc"

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "ORTHANC",
        modalities: Mapping[str, tuple[str, int]] | None = None,
        options: Mapping[str, Any] | None = None,
        dicom_web: bool = False,
    ) -> None:
        super().__init__(folder)
        self.binary = find_tool("Orthanc", "orthanc")
        self.ae_title = ae_title
        self.port = free_port()
        self.http_port = free_port()
        self.config = folder / "orthanc.json"
        plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
        if dicom_web and not plugin.exists():
            missing(plugin.name, "orthanc-dicomweb")
        configuration: dict[str, Any] = {
            "Name": "PACS",
            "StorageDirectory": str(folder / "orthanc"),
            "IndexDirectory": str(folder / "orthanc"),
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpPort": self.http_port,
            "HttpThreadsCount": 8,
            "DicomPort": self.port,
            "DicomAet": ae_title,
            "DicomCheckCalledAet": False,
            "DicomModalities": {key: [aet, LOOPBACK, port] for key, (aet, port) in (modalities or {}).items()},
            "Plugins": [str(plugin)] if dicom_web else [],
            "StableAge": 5,
            "OverwriteInstances": True,
            "SynchronousCMove": True,
            "MaximumPduLength": 131072,
        }
        if dicom_web:
            configuration["DicomWeb"] = {
                "Enable": True,
                "Root": "/dicom-web/",
                "StudiesMetadata": "Full",
                "SeriesMetadata": "Full",
            }
        self.config.write_text(json.dumps(configuration | dict(options or {}), indent=1))
        # No connection is kept: Orthanc closes an idle one just as the next request may be going out on it.
        once = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=f"http://{LOOPBACK}:{self.http_port}", timeout=120, limits=once)

    def command(self) -> Sequence[str | Path]:
        return [self.binary, self.config]

    def environment(self) -> Mapping[str, str]:
        return {"TCP_NODELAY": "1"}  # DCMTK's switch: without it each answer waits 44 ms for a delayed acknowledgement

    def is_ready(self) -> bool:
        try:
            return self.http.get("/system").status_code == 200 and listens(self.port)
        except httpx.TransportError:
            return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()  # an orderly end takes seconds, and nobody reads this one's files again
        self.http.close()

    def get(self, path: str) -> Any:
        """GET a path of the REST interface as JSON."""
        answer = self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    def post(self, file: Path | bytes) -> str:
        """Upload one DICOM file and return its Orthanc identifier."""
        answer = self.http.post("/instances", content=file if isinstance(file, bytes) else file.read_bytes())
        answer.raise_for_status()
        return str(answer.json()["ID"])

    def store(self, modality: str, resources: Sequence[str] | str) -> dict[str, Any]:
        """``POST /modalities/<modality>/store``: C-STORE resources (Orthanc identifiers) to it, and wait."""
        ids = [resources] if isinstance(resources, str) else list(resources)
        answer = self.http.post(f"/modalities/{modality}/store", json={"Resources": ids, "Synchronous": True})
        assert answer.is_success, f"{answer.status_code}: {answer.text}"
        return dict(answer.json())

    def echo(self, modality: str) -> bool:
        """C-ECHO to a modality."""
        return self.http.post(f"/modalities/{modality}/echo", json={}).is_success

    def instances(self) -> list[str]:
        """Orthanc identifiers of all instances."""
        return list(self.get("/instances"))

    def series(self) -> list[dict[str, Any]]:
        """All series, with ``MainDicomTags``, ``ParentStudy`` and ``Instances``."""
        return list(self.get("/series?expand"))

    def studies(self) -> list[dict[str, Any]]:
        """All studies, with ``MainDicomTags``, ``PatientMainDicomTags`` and ``Series``."""
        return list(self.get("/studies?expand"))

    def tags(self, instance: str) -> dict[str, Any]:
        """Keyword -> value of one instance."""
        return dict(self.get(f"/instances/{instance}/simplified-tags"))

    def file(self, instance: str) -> bytes:
        """The Part 10 file of one instance. Orthanc re-writes sequence lengths, never values."""
        answer = self.http.get(f"/instances/{instance}/file")
        answer.raise_for_status()
        return answer.content

    def dataset(self, instance: str) -> pydicom.Dataset:
        """One instance, read by pydicom."""
        return pydicom.dcmread(BytesIO(self.file(instance)))

    def lookup(self, uid: str) -> list[str]:
        """Orthanc identifiers of whatever (study, series, instance) has this DICOM UID."""
        answer = self.http.post("/tools/lookup", content=uid)
        answer.raise_for_status()
        return [found["ID"] for found in answer.json()]

    def delete_all(self) -> None:
        """Empty the PACS."""
        for patient in self.get("/patients"):
            self.http.delete(f"/patients/{patient}").raise_for_status()


class Redis(Server):
    """A broker that keeps nothing on disk."""

    name = "redis"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.binary = find_tool("redis-server", "redis-server")
        self.port = free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"

    def command(self) -> Sequence[str | Path]:
        return [
            self.binary, "--port", str(self.port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no",
            "--dir", self.folder,
        ]  # fmt: skip

    def ask(self, request: bytes) -> bytes:
        """Send one inline command, e.g. ``b"FLUSHALL"``, and return the raw answer."""
        with socket.create_connection((LOOPBACK, self.port), timeout=5) as connection:
            connection.sendall(request + b"\r\n")
            return connection.recv(65536)

    def is_ready(self) -> bool:
        try:
            return self.ask(b"PING").startswith(b"+PONG")
        except OSError:
            return False


class Postgres(Server):
    """A PostgreSQL cluster. As root it runs as user postgres, or nobody: initdb refuses root."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": do not wait for clients

    def __init__(self, in_memory: bool = False) -> None:
        """``in_memory``: its files are on a tmpfs where there is one. ``kill -9`` does not tell it from a disk, and a
        recovery, which syncs every file, takes no minute where the disk is busy."""
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
        initdb = str(binaries[-1]) if binaries else find_tool("initdb", "postgresql")
        self.bin = Path(initdb).resolve().parent
        # Not under pytest's folder: that is closed to other users, and a socket's path must be short.
        memory = Path("/dev/shm")
        base = memory if in_memory and os.access(memory, os.W_OK) else None
        super().__init__(Path(tempfile.mkdtemp(prefix="chexnode-pg-", dir=base)))
        self.port = free_port()
        self.data = self.folder / "data"
        if os.geteuid() == 0:
            os.chown(self.folder, self._account().pw_uid, self._account().pw_gid)
        setup = subprocess.run(
            [initdb, "--pgdata", self.data, "--username", "chexnode", "--auth", "trust", "--encoding", "UTF8",
             "--locale", "C", "--no-sync", "--no-instructions"],
            capture_output=True, text=True, cwd=self.folder, timeout=120, **self.identity(),
        )  # fmt: skip
        if setup.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise AssertionError(f"initdb failed: {setup.stdout}{setup.stderr}")

    @staticmethod
    def _account() -> pwd.struct_passwd:
        try:
            return pwd.getpwnam("postgres")
        except KeyError:
            return pwd.getpwnam("nobody")

    def identity(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        account = self._account()
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def command(self) -> Sequence[str | Path]:
        return [
            self.bin / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.folder, "-h", LOOPBACK,
            "-c", "max_connections=200", "-c", "shared_buffers=32MB",
        ]  # fmt: skip

    def dsn(self, database: str = "postgres") -> str:
        """A libpq connection string."""
        return f"host={LOOPBACK} port={self.port} user=chexnode dbname={database} connect_timeout=5"

    def is_ready(self) -> bool:
        try:
            psycopg.connect(self.dsn()).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """``kill -9`` of the postmaster and of all that it started: nothing is left that could still commit."""
        if self.process is not None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            super().kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=20)

    def crash(self) -> None:
        """Immediate shutdown: every session is cut, nothing is flushed, the next start recovers from the log."""
        self._end(signal.SIGQUIT, 20)

    def create_database(self) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://chexnode@{LOOPBACK}:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop what :meth:`create_database` made, cutting its sessions."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        super().__exit__(kind, error, tb)
        shutil.rmtree(self.folder, ignore_errors=True)


class StoreSCP(Server):
    """DCMTK's storescp, bit preserving; ``options`` make it misbehave.

    ``--refuse`` refuses associations, ``--abort-after`` and ``--abort-during`` abort a store, ``--sleep-after N`` and
    ``--sleep-during N`` answer late, ``-xs`` and the like restrict transfer syntaxes.
    """

    name = "storescp"

    def __init__(self, folder: Path, *options: str, ae_title: str = "STORESCP") -> None:
        super().__init__(folder)
        self.binary = find_tool("storescp", "dcmtk")
        self.ae_title = ae_title
        self.port = free_port()
        self.options = options
        self.received = folder / f"received-{self.port}"
        self.received.mkdir()

    def command(self) -> Sequence[str | Path]:
        return [
            self.binary, "--fork", "--bit-preserving", "+xa", "--aetitle", self.ae_title,
            "--output-directory", self.received, "--filename-extension", ".dcm", *self.options, str(self.port),
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        return {"TCP_NODELAY": "1"}

    def is_ready(self) -> bool:
        return listens(self.port)

    def files(self) -> list[Path]:
        """What it has received."""
        return sorted(self.received.glob("*.dcm"))


class PlainStoreSCP(StoreSCP):
    """storescp that takes and prefers the transfer syntaxes that its options say."""

    def command(self) -> Sequence[str | Path]:
        return [part for part in super().command() if part != "+xa" or "+xa" in self.options]


class OnlySecondaryCapture(StoreSCP):
    """storescp with a profile that has no Segmentation."""

    def command(self) -> Sequence[str | Path]:
        profile = self.folder / "profile.cfg"
        profile.write_text(
            "[[TransferSyntaxes]]\n[Explicit]\nTransferSyntax1 = LittleEndianExplicit\n"
            "[Implicit]\nTransferSyntax1 = LittleEndianImplicit\n"
            "[[PresentationContexts]]\n[Only]\n"
            "PresentationContext1 = VerificationSOPClass\\Implicit\n"
            "PresentationContext2 = SecondaryCaptureImageStorage\\Explicit\n"
            "[[Profiles]]\n[Only]\nPresentationContexts = Only\n"
        )
        where = ["--output-directory", self.received, "--filename-extension", ".dcm"]
        return [self.binary, "--config-file", profile, "Only", *where, str(self.port)]
