"""OHIF, the viewer: its prebuilt files from npm, checked against a digest and made to work under any path.

The package is built to be served at ``/``. Each of its webpack runtimes says so in one statement, its page and style
sheet in the URLs that begin with a slash; :func:`prepare` makes all of them relative to the file they are in, which is
what webpack writes itself for ``publicPath: "auto"``. See docs/explanation/decisions/0020-the-viewer-under-a-path.md.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable
from hashlib import sha512
from pathlib import Path, PurePosixPath

import httpx

from chexnode.vocabulary.errors import BadEnvironment, Transient

VERSION = "3.13.2"
INTEGRITY = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
"""As ``npm view @ohif/app@VERSION dist.integrity`` prints it."""
#: The last number is of :func:`prepare`: files that an earlier one made are made anew.
FOLDER = f"ohif-{VERSION}-1"

_ROOT = PurePosixPath("package/dist")
_LEFT_OUT = frozenset(
    {
        "ort",  # two thirds of all: an ONNX runtime, and a microscope
        "dicom-microscopy-viewer",
        "sw.js",  # these load scripts of other hosts
        "init-service-worker.js",
        "google.js",
        "app-config.js",  # the web role has its own
    }
)
_MOST_BYTES = 500_000_000

_PUBLIC_PATH = b'__webpack_require__.p = "/";'
#: A window's script knows its URL while it runs, a worker's always.
_OWN_PATH = b'__webpack_require__.p = new URL(".", self.document?.currentScript?.src ?? self.location.href).href;'
_INLINE_SCRIPT = re.compile(rb"<script>.*?</script>", re.DOTALL)
_SERVICE_WORKER = re.compile(rb'<script[^>]*src="/init-service-worker\.js"[^>]*></script>')

_COMPRESSED = frozenset({".js", ".mjs", ".css", ".html", ".json", ".svg", ".wasm"})
_LEAST_COMPRESSED = 1024

Progress = Callable[[Iterable[bytes], int | None], Iterable[bytes]]
"""Passes the pieces of a download on, given its length in bytes where that is known."""


def installed(home: Path) -> Path | None:
    """The folder of the viewer's files under ``home``; None if this release's viewer is not there."""
    folder = home / FOLDER
    return folder if (folder / "index.html").is_file() else None


def study_url(web_url: str, study_instance_uid: str) -> str:
    """Where the viewer shows one study."""
    return f"{web_url}/viewer/viewer?StudyInstanceUIDs={study_instance_uid}"


def install(
    home: Path,
    archive: Path | None = None,
    registry: str | None = None,
    progress: Progress = lambda pieces, _: pieces,
) -> Path:
    """Put the viewer's files under ``home`` and return their folder; at once where they are there already.

    They come from ``archive``, the package's file, or else by HTTP from ``registry``, 50 MB; none: the one that npm is
    configured for. The folder appears whole or not at all, and earlier releases' are deleted then. Raises Transient if
    the registry does not send the package, and BadEnvironment if the package is another than was tried, ``home`` cannot
    be written, or nobody says where packages come from.
    """
    if (folder := installed(home)) is not None:
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".fetch-") as temporary:
            work = Path(temporary)
            if archive is None:
                url = f"{(registry or _registry_of_npm()).rstrip('/')}/@ohif/app/-/app-{VERSION}.tgz"
                archive = _download(url, work / "app.tgz", progress)
            _verify(archive)
            _unpack(archive, work / "dist")
            prepare(work / "dist")
            _put(work / "dist", home / FOLDER)
    except (OSError, tarfile.TarError) as error:
        raise BadEnvironment(f"the viewer cannot be put into {home}: {error}") from error
    for other in home.glob("ohif-*"):
        if other.name != FOLDER:
            shutil.rmtree(other, ignore_errors=True)
    return home / FOLDER


def _registry_of_npm() -> str:
    """URL of the registry that this machine's npm asks. Raises BadEnvironment where there is no npm to say it."""
    try:
        command = ["npm", "config", "get", "registry"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise BadEnvironment(
            "there is no npm here to say where packages come from: name the registry with --registry, or fetch the "
            f"package elsewhere with `npm pack @ohif/app@{VERSION}` and give it with --from"
        ) from error
    return answer


def _download(url: str, target: Path, progress: Progress) -> Path:
    try:
        with (
            httpx.stream("GET", url, timeout=60, follow_redirects=True) as answer,
            target.open("wb") as file,
        ):
            answer.raise_for_status()
            length = answer.headers.get("content-length", "")
            got = 0
            for piece in progress(answer.iter_raw(), int(length) if length.isdecimal() else None):
                got += len(piece)
                if got > _MOST_BYTES:
                    raise BadEnvironment(f"{url} is larger than any release of the viewer")
                file.write(piece)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Transient(f"OHIF {VERSION} cannot be fetched from {url}: {error or type(error).__name__}") from error
    return target


def _verify(archive: Path) -> None:
    digest = sha512()
    with archive.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    found = "sha512-" + b64encode(digest.digest()).decode()
    if found != INTEGRITY:
        raise BadEnvironment(f"this is not @ohif/app {VERSION}: its digest is {found}, not {INTEGRITY}")


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and path.is_relative_to(_ROOT):
                inside = path.relative_to(_ROOT)
                if inside.parts[0] not in _LEFT_OUT:
                    tar.extract(member.replace(name=str(inside), deep=False), target, filter="data")


def prepare(folder: Path) -> None:
    """Make the unpacked files work under any path, and lay a compressed one beside each that gains by it.

    Raises BadEnvironment where the files are not as those that this was written for.
    """
    if not (folder / "index.html").is_file() or not list(folder.glob("app.bundle.*.js")):
        raise BadEnvironment("the package holds no prebuilt viewer")
    _rewrite(folder / "index.html", _page)
    _rewrite(folder / "manifest.json", lambda text: text.replace(b'"/assets/', b'"assets/'))
    for path in folder.glob("*.css"):
        _rewrite(path, lambda text: text.replace(b"url(/", b"url("))
    runtimes = [path for path in folder.glob("*.js") if _PUBLIC_PATH in path.read_bytes()]
    if not any(path.name.startswith("app.bundle.") for path in runtimes):
        raise BadEnvironment("the viewer's bundle does not say where it is served")
    for path in runtimes:
        _rewrite(path, lambda text: text.replace(_PUBLIC_PATH, _OWN_PATH))
    for path in sorted(folder.rglob("*")):
        if path.suffix in _COMPRESSED and path.stat().st_size >= _LEAST_COMPRESSED:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))


def _page(html: bytes) -> bytes:
    """Without inline scripts, which say where it is served (app-config.js does), and with relative URLs."""
    html = _SERVICE_WORKER.sub(b"", _INLINE_SCRIPT.sub(b"", html))
    html = re.sub(rb'(src|href|content)="/', rb'\1="./', html)
    if b"<script>" in html or b'="/' in html or b'src="./app-config.js"' not in html:
        raise BadEnvironment("the viewer's page is not as expected")
    return html


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _put(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was quicker
            raise
