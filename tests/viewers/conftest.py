"""A viewer, a PACS behind it and a browser in front of it, one of each for a module.

Without Chromium, or without OHIF and a way to fetch it, these tests are skipped even where servers are required: a
clone without the internet must pass. ``make viewers`` has both or fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from chexnode.vocabulary.errors import Transient
from chexnode.web.viewer import install as product
from support import servers
from viewers.browser import Chromium
from viewers.ohif import Ohif

_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", type=Path, help="keep pictures of the screens in this folder, as the docs show them")


@pytest.fixture(scope="session")
def pictures(request: pytest.FixtureRequest) -> Path | None:
    """Where to keep pictures of the screens, if anywhere."""
    folder: Path | None = request.config.getoption("pictures", default=None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Orthanc]:
    """A PACS with DICOMweb."""
    with servers.Orthanc(tmp_path_factory.mktemp("pacs"), dicom_web=True) as orthanc:
        yield orthanc


@pytest.fixture(scope="session")
def viewer_home() -> Path:
    """Where `chexnode viewer fetch` has put OHIF, for all runs: ``$XDG_CACHE_HOME/chexnode``."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chexnode"
    try:
        product.install(home)
    except Transient as error:
        pytest.skip(f"no viewer was tested: {error}")
    return home


@pytest.fixture(scope="module")
def ohif(viewer_home: Path, pacs: servers.Orthanc) -> Iterator[Ohif]:
    """OHIF in front of :func:`pacs`."""
    folder = product.installed(viewer_home)
    assert folder is not None
    with Ohif(folder, pacs.http_port) as ohif:
        yield ohif


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """A browser. Not for the whole session: while it lives this thread has an event loop, which others could not."""
    executable = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if executable is None:
        pytest.skip("no viewer was tested: Chromium is not installed (apt-get install chromium)")
    with Chromium(executable) as chromium:
        yield chromium
