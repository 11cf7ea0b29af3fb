"""`chexnode viewer fetch`: what is fetched is what was tried, stays in its folder, and works under any path."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chexnode.cli.commands import app, exit_code
from chexnode.cli.options import Exit
from chexnode.vocabulary.errors import BadEnvironment, Transient
from chexnode.web.viewer import install
from support import npm
from support.servers import LOOPBACK, free_port


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return npm.trusted(monkeypatch, npm.archive(tmp_path / "app.tgz"))


@pytest.fixture
def registry(tmp_path: Path, package: Path) -> Iterator[str]:
    """An npm registry that has the package."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    folder = tmp_path / "registry" / "@ohif" / "app" / "-"
    folder.mkdir(parents=True)
    package.rename(folder / f"app-{install.VERSION}.tgz")
    server = ThreadingHTTPServer((LOOPBACK, 0), partial(Quiet, directory=str(tmp_path / "registry")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{LOOPBACK}:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_command_fetches_once(tmp_path: Path, registry: str) -> None:
    config = tmp_path / "chexnode.toml"
    config.write_text('[web]\nviewer = "there"\nport = 81\n')
    older = tmp_path / "there" / "ohif-3.0.0-1"
    older.mkdir(parents=True)
    command = ["--config", str(config), "viewer", "fetch", "--registry", f"{registry}/", "--json"]
    first = CliRunner().invoke(app, command)
    folder = tmp_path / "there" / install.FOLDER
    assert json.loads(first.stdout) == {
        "version": install.VERSION,
        "folder": str(folder),
        "url": "http://127.0.0.1:81/viewer/",
    }
    assert install.installed(tmp_path / "there") == folder
    assert list((tmp_path / "there").iterdir()) == [folder]
    command[-2] = f"http://{LOOPBACK}:{free_port()}"  # nobody there, and nobody is asked
    assert CliRunner().invoke(app, command).exit_code == 0


def test_without_a_network_a_file_does(tmp_path: Path, package: Path) -> None:
    config = tmp_path / "chexnode.toml"
    config.touch()
    done = CliRunner().invoke(app, ["--config", str(config), "viewer", "fetch", "--from", str(package)])
    assert done.exit_code == 0, done.output
    assert "http://127.0.0.1:8080/viewer/" in done.stdout
    assert install.installed(tmp_path / "var" / "viewer") is not None


def test_the_version_that_the_docs_name_is_the_one_that_is_taken() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "open-in-the-browser.md").read_text("utf-8")
    assert f"@ohif/app@{install.VERSION}`" in page


def test_another_package_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(BadEnvironment, match="is not @ohif/app"):
        install.install(home, npm.archive(tmp_path / "app.tgz"))
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://[", "nonsense"])
def test_a_registry_that_does_not_answer_is_told(tmp_path: Path, url: str) -> None:
    home = tmp_path / "home"
    with pytest.raises(Transient, match="cannot be fetched from") as told:
        install.install(home, registry=url.format(port=free_port()))
    assert exit_code(told.value) is Exit.ENVIRONMENT
    assert list(home.iterdir()) == []


def test_a_registry_without_it_is_told(tmp_path: Path, registry: str) -> None:
    with pytest.raises(Transient, match="404"):
        install.install(tmp_path / "home", registry=f"{registry}/mirror")


def test_without_npm_a_registry_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadEnvironment, match=r"--registry.*--from"):
        install.install(tmp_path / "home")


def test_the_registry_is_the_one_npm_is_configured_for(
    tmp_path: Path, registry: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm_command = tmp_path / "bin" / "npm"
    npm_command.parent.mkdir()
    npm_command.write_text(f'#!/bin/sh\n[ "$*" = "config get registry" ] && echo {registry}/\n')
    npm_command.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm_command.parent))
    assert (install.install(tmp_path / "home") / "index.html").is_file()


def test_no_file_leaves_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = npm.archive(tmp_path / "app.tgz", {**npm.FILES, "package/dist/../../outside": "no"})
    with pytest.raises(BadEnvironment, match="outside"):
        install.install(tmp_path / "home", npm.trusted(monkeypatch, package))
    assert not list(tmp_path.rglob("outside"))
    assert list((tmp_path / "home").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, package: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(BadEnvironment, match="home"):
        install.install(tmp_path / "home", package)


@pytest.mark.parametrize(
    "name", ["index.html", npm.BUNDLE], ids=["a page that is otherwise", "a bundle that says nothing of its place"]
)
def test_what_cannot_be_prepared_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = npm.archive(tmp_path / "app.tgz", {**npm.FILES, f"package/dist/{name}": "<p>otherwise</p>"})
    with pytest.raises(BadEnvironment):
        install.install(tmp_path / "home", npm.trusted(monkeypatch, package))
    assert install.installed(tmp_path / "home") is None


def test_nothing_in_it_says_where_it_is_served(tmp_path: Path, package: Path) -> None:
    folder = install.install(tmp_path / "home", package)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    assert not set(found) & {"app-config.js", "init-service-worker.js", "ort/big.wasm", "package.json"}
    page = found["index.html"]
    assert b'="/' not in page
    assert b"<script>" not in page
    assert b"init-service-worker" not in page
    assert f'<script defer src="./{npm.BUNDLE}"></script>'.encode() in page
    assert found["app.bundle.css"] == b"@font-face { src: url(a34f9d1faa5f3315.woff2) }"
    assert json.loads(found["manifest.json"]) == {"icons": [{"src": "assets/icon.png"}]}
    for name in (npm.BUNDLE, npm.WORKER):
        assert b'.p = "/"' not in found[name]
        assert b"self.location.href" in found[name]
    assert gzip.decompress(found[f"{npm.BUNDLE}.gz"]) == found[npm.BUNDLE]
    assert f"{npm.WORKER}.gz" not in found, "too small to gain by it"
