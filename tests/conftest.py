"""Fixtures for the whole suite. Real servers come from :mod:`servers`."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from support import servers

SHARED = "CHEXNODE_SHARED"

# Tests run side by side, and start workers: threads that wait for each other by spinning took a third of all time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files of tests are kept in memory where there is room: the tests write every image durably, and waited for the disk a
# fifth of the time. What is killed does not tell the two apart.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 8e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# Hundreds of processes of the node are started: each would compile every module of ours anew where this is set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples in every run, so that a change is judged by what it changes; --hypothesis-profile=default searches.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

_chaos = {name: value for name in ("SEED", "IMAGES") if (value := os.environ.get(f"CHEXNODE_CHAOS_{name}")) is not None}

for _name in [name for name in os.environ if name.startswith("CHEXNODE_") and name != SHARED]:
    del os.environ[_name]  # a developer's own settings must not reach a test


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test images: ``$CHEXNODE_SHARED``, or ``shared`` beside the repository."""
    folder = Path(os.environ.get(SHARED) or Path(__file__).parents[2] / "shared").resolve()
    if not (folder / "data" / "dicom" / "manifest.csv").is_file():
        pytest.skip(f"no test images under {folder}: set {SHARED} to the folder that holds data/dicom/manifest.csv")
    return folder


@pytest.fixture
def chaos_seed() -> str:
    """When what breaks: ``$CHEXNODE_CHAOS_SEED``; the same in every plain run, a new one in each ``make chaos``."""
    return _chaos.get("SEED") or (secrets.token_hex(4) if "IMAGES" in _chaos else "1")


@pytest.fixture
def chaos_images() -> int:
    """How many images the long form sends: ``$CHEXNODE_CHAOS_IMAGES``."""
    return int(_chaos.get("IMAGES") or 500)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[servers.Orthanc]:
    """An empty PACS of AE title ORTHANC that knows nobody."""
    with servers.Orthanc(tmp_path) as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[servers.Redis]:
    """An empty Redis."""
    with servers.Redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """One PostgreSQL cluster for the run; a test that stops it must start it again."""
    with servers.Postgres(in_memory=True) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: servers.Postgres) -> Iterator[str]:
    """SQLAlchemy URL of an empty PostgreSQL database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLAlchemy URL of an empty database; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'chexnode.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the running servers wrote beside a failure."""
    report = yield
    if report.failed:
        report.sections += [(f"output of {server.name} ({server.log})", server.output()) for server in servers.RUNNING]
    return report
