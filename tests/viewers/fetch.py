"""Fetch OHIF's prebuilt viewer from npm into a cache folder, once; ``python tests/viewers/fetch.py`` prints which.

The folder is ``$XDG_CACHE_HOME/chexnode/ohif-VERSION``, by default under ``~/.cache``. It holds the package's ``dist``
without its two heaviest parts, which are of no use for radiographs: an ONNX runtime and a microscopy viewer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from base64 import b64encode
from hashlib import sha512
from pathlib import Path, PurePosixPath

VERSION = "3.13.2"
INTEGRITY = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
"""As ``npm view @ohif/app@VERSION dist.integrity`` prints it."""
URL = f"https://registry.npmjs.org/@ohif/app/-/app-{VERSION}.tgz"
_ROOT = PurePosixPath("package/dist")
_LEFT_OUT = frozenset({"ort", "dicom-microscopy-viewer"})
_SECONDS = 300


class Unreachable(Exception):
    """The registry does not answer."""


def folder() -> Path:
    """Where the viewer is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "chexnode" / f"ohif-{VERSION}"


def fetch() -> Path:
    """Return the folder that holds the viewer's ``index.html``, after a download of 50 MB where there is none yet.

    Raises Unreachable if the registry cannot be reached and ValueError if it sends other bytes than were tried.
    """
    target = folder()
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
            work = Path(temporary)
            archive = _download(work)
            _verify(archive)
            _unpack(archive, work / "dist")
            try:
                (work / "dist").rename(target)  # whole or not at all
            except OSError:
                if not target.is_dir():  # else another process was quicker
                    raise
    return target


def _download(work: Path) -> Path:
    """By npm, which knows a site's own mirror, or from the public registry where npm is not installed."""
    archive = work / "app.tgz"
    try:
        if npm := shutil.which("npm"):
            options = ["--loglevel=error", "--fetch-retries=1", f"--pack-destination={work}"]
            command = [npm, "pack", *options, f"@ohif/app@{VERSION}"]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_SECONDS, check=True)
            return work / done.stdout.split()[-1]
        with urllib.request.urlopen(URL, timeout=60) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).splitlines()[0]
        raise Unreachable(f"@ohif/app {VERSION} cannot be fetched from npm: {reason}") from error
    return archive


def _verify(archive: Path) -> None:
    found = "sha512-" + b64encode(sha512(archive.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        raise ValueError(f"@ohif/app {VERSION} is {found}, not {INTEGRITY}")


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and path.is_relative_to(_ROOT):
                inside = path.relative_to(_ROOT)
                if inside.parts[0] not in _LEFT_OUT:
                    tar.extract(member.replace(name=str(inside), deep=False), target, filter="data")


if __name__ == "__main__":
    try:
        print(fetch())
    except (Unreachable, ValueError) as error:
        sys.exit(str(error))
