"""`/viewer` over a real socket: which files, with which headers; and how a browser that has a token is known by it."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from chexnode.ledger.ledger import Ledger
from chexnode.settings.tree import Settings
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web import cookie
from chexnode.web.viewer import install
from support import dicomweb, npm
from support.ledgers import Clock, opened
from support.webs import serving

PAGES = ["/viewer/", "/viewer/index.html", "/viewer/viewer?StudyInstanceUIDs=1.2.3", "/viewer/viewer/dicomweb?x=1"]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        node={"data_dir": tmp_path / "var"},
        database={"url": f"sqlite:///{tmp_path / 'chexnode.db'}"},
        web={"viewer": tmp_path / "viewer", "requests_per_second": 0, "proxies": ["127.0.0.1"]},
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(settings: Settings, clock: Clock) -> Iterator[Ledger]:
    with opened(settings.database.url, clock) as ledger:
        yield ledger


@pytest.fixture
def client(settings: Settings, ledger: Ledger) -> Iterator[httpx.Client]:
    with serving(settings, ledger) as client:
        yield client


@pytest.fixture
def folder(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small viewer, installed."""
    return install.install(settings.viewer_home, npm.trusted(monkeypatch, npm.archive(tmp_path / "app.tgz")))


def test_where_it_is_not_installed_a_page_tells_the_command(
    client: httpx.Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (*PAGES, f"/viewer/{npm.BUNDLE}"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "chexnode viewer fetch" in answer.text
    assert client.get("/viewer/page.css").status_code == 200
    install.install(settings.viewer_home, npm.trusted(monkeypatch, npm.archive(tmp_path / "app.tgz")))
    assert "root" in client.get("/viewer/").text, "not before a restart"


def test_files_that_go_while_it_runs_are_no_fault_of_the_callers(client: httpx.Client, folder: Path) -> None:
    assert client.get("/viewer/").status_code == 200
    (folder / npm.WORKER).unlink()
    assert client.get(f"/viewer/{npm.WORKER}").status_code == 404
    (folder / "index.html").unlink()
    assert client.get("/viewer/").status_code == 404


@pytest.mark.usefixtures("folder")
def test_every_file_has_its_type(client: httpx.Client) -> None:
    types = {
        "app-config.js": "text/javascript; charset=utf-8",
        npm.BUNDLE: "text/javascript; charset=utf-8",
        "app.bundle.css": "text/css; charset=utf-8",
        "0ddf166f7a343eda.wasm": "application/wasm",
        "manifest.json": "application/json",
        "assets/icon.png": "image/png",
    }
    for name, kind in types.items():
        answer = client.get(f"/viewer/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), name
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert '"../dicom-web"' in client.get("/viewer/app-config.js").text


@pytest.mark.usefixtures("folder")
def test_the_page_is_any_path_of_the_viewers(client: httpx.Client) -> None:
    root = client.get("/viewer?a=b")
    assert (root.status_code, root.headers["location"]) == (307, "viewer/?a=b")
    for path in PAGES:
        answer = client.get(path)
        assert answer.status_code == 200
        up = "../" if path.startswith("/viewer/viewer/") else "./"
        assert f'src="{up}app-config.js"' in answer.text
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self' 'unsafe-eval';" in policy, "no inline scripts"
        assert "http" not in policy, "it may load from elsewhere"
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    worker = client.get(f"/viewer/{npm.WORKER}")
    assert worker.headers["cross-origin-embedder-policy"] == "require-corp"
    assert "default-src 'none'" in worker.headers["content-security-policy"]


def test_what_did_not_change_is_not_sent_again(client: httpx.Client, folder: Path) -> None:
    url = f"/viewer/{npm.BUNDLE}"
    content = (folder / npm.BUNDLE).read_bytes()
    with client.stream("GET", url, headers={"Accept-Encoding": "br, gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())) == content
    plain = client.get(url, headers={"Accept-Encoding": "gzip;q=0, br"})
    assert "content-encoding" not in plain.headers
    assert plain.content == content
    assert {answer.headers["vary"], plain.headers["vary"]} == {"Accept-Encoding"}
    assert answer.headers["etag"] != plain.headers["etag"]
    assert plain.headers["cache-control"] == "no-cache"
    for tag in (plain.headers["etag"], f'"other", W/{plain.headers["etag"]}'):
        again = client.get(url, headers={"Accept-Encoding": "identity", "If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    part = client.get(url, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, content[5:10])
    assert client.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416


@pytest.mark.parametrize(
    "path",
    [
        "/viewer/../secret.txt",
        "/viewer/..%2f..%2fsecret.txt",
        "/viewer/%2e%2e/%2e%2e/secret.txt",
        "/viewer/assets/../../../secret.txt",
        "/viewer/..%5c..%5csecret.txt",
        "/viewer//secret.txt",
        "/viewer/secret.txt%00.js",
        "/viewer/link.txt",
        "/viewer/.npmrc",
        "/viewer/index.html.gz",
        "/viewer/../viewer/pages/sign-in.html",
        "/viewer/sign-in.html",
    ],
)
def test_nothing_else_is_served(client: httpx.Client, folder: Path, path: str) -> None:
    secret = folder.parent / "secret.txt"
    secret.write_text("secret")
    (folder / "link.txt").symlink_to(secret)
    (folder / ".npmrc").write_text("secret")
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:60]
    assert b"secret" not in answer.replace(b"secret.txt", b"")


class Guarded:
    """A web role with a token for each purpose."""

    def __init__(self, client: httpx.Client, ledger: Ledger) -> None:
        self.client, self.ledger = client, ledger
        self.read = ledger.tokens.add("radiologist", [TokenScope.READ], timedelta(hours=2))[1]
        self.all = ledger.tokens.add("root", [TokenScope.ADMIN])[1]
        self.both = ledger.tokens.add("both", [TokenScope.READ, TokenScope.STORE])[1]

    def sign_in(self, token: str, path: str = "/viewer/viewer?StudyInstanceUIDs=1.2", **headers: str) -> httpx.Response:
        return self.client.post(path, data={"token": token}, headers=headers)


@pytest.fixture
def guarded(client: httpx.Client, ledger: Ledger, folder: Path) -> Guarded:
    return Guarded(client, ledger)


def test_a_browser_without_a_token_is_asked_for_one(guarded: Guarded) -> None:
    for path in PAGES:
        answer = guarded.client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="ChexNode"'
        assert '<input id="token"' in answer.text
        assert "script-src" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
    assert guarded.client.get(f"/viewer/{npm.BUNDLE}").status_code == 200, "which is no secret"


def test_its_token_opens_the_page_and_lets_it_read(guarded: Guarded, clock: Clock) -> None:
    answer = guarded.sign_in(guarded.read)
    assert (answer.status_code, answer.headers["location"]) == (303, "./viewer?StudyInstanceUIDs=1.2")
    kept = answer.headers["set-cookie"].lower()
    assert guarded.read.lower() not in kept, "a session, not the token"
    for part in ("chexnode=", "; httponly", "; samesite=strict", "; path=/", f"; max-age={cookie.SECONDS}"):
        assert part in kept
    assert "secure" not in kept, "it would not come back over plain HTTP"
    assert "domain" not in kept
    for path in (*PAGES, "/api/jobs", "/metrics"):
        assert guarded.client.get(path).status_code == 200, path
    assert guarded.client.get("/dicom-web/studies").json() == []
    clock.forward(3 * 3600)
    assert guarded.client.get("/viewer/").status_code == 401, "it has expired"


def test_a_revoked_token_is_asked_for_again(guarded: Guarded) -> None:
    guarded.sign_in(guarded.read)
    assert guarded.client.get("/viewer/").status_code == 200
    guarded.ledger.tokens.revoke("radiologist")
    assert guarded.client.get("/dicom-web/studies").status_code == 401
    assert '<input id="token"' in guarded.client.get("/viewer/").text


def test_signing_out_ends_the_session_for_everybody_who_has_its_cookie(guarded: Guarded) -> None:
    guarded.sign_in(guarded.read)
    session = guarded.client.cookies["chexnode"]
    assert guarded.client.post("/viewer/sign-out", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    answer = guarded.client.post("/viewer/sign-out")
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert "chexnode" not in guarded.client.cookies
    guarded.client.cookies.set("chexnode", session)
    assert guarded.client.get("/viewer/").status_code == 401
    guarded.client.cookies.set("chexnode", guarded.read)
    assert guarded.client.get("/viewer/").status_code == 401, "a token is no session"


def test_a_deep_page_comes_back_to_itself(guarded: Guarded) -> None:
    answer = guarded.sign_in(guarded.read, "/viewer/viewer/dicomweb?x=//elsewhere.example")
    assert str(httpx.URL(answer.url).join(answer.headers["location"])) == str(answer.url)


@pytest.mark.parametrize(
    "path", ["/viewer//elsewhere.example", "/viewer/https://elsewhere.example", "/viewer/\\e.example"]
)
def test_nobody_is_sent_elsewhere(guarded: Guarded, path: str) -> None:
    answer = guarded.sign_in(guarded.read, path)
    if answer.status_code == 303:
        assert httpx.URL(answer.url).join(answer.headers["location"]).host == guarded.client.base_url.host


@pytest.mark.parametrize("token", ["", "nonsense", "chexnode_" + "A" * 43, "\0\udcff", "<script>"])
def test_a_wrong_token_is_told_and_not_kept(guarded: Guarded, token: str) -> None:
    answer = guarded.client.post("/viewer/", content=f"token={token}".encode("utf-8", "replace"), headers=FORM)
    assert answer.status_code == 401
    assert "unknown, revoked or expired" in answer.text
    assert "<script>" not in answer.text
    assert "set-cookie" not in answer.headers


def test_a_token_that_can_do_more_is_not_kept(guarded: Guarded) -> None:
    for token in (guarded.all, guarded.both):
        answer = guarded.sign_in(token)
        assert answer.status_code == 403
        assert "more than read" in answer.text
        assert "set-cookie" not in answer.headers


def test_a_cookie_changes_nothing(guarded: Guarded) -> None:
    """Nor would one of a mightier token's session, which somebody put there by hand."""
    for token in (guarded.read, guarded.all):
        shown = guarded.ledger.tokens.recognise(token)
        assert shown is not None
        guarded.client.cookies.set("chexnode", guarded.ledger.tokens.open_session(shown, timedelta(hours=1)))
        for kind in ("application/dicom", "text/plain", "multipart/related; type=application/dicom; boundary=a"):
            answer = guarded.client.post("/dicom-web/studies", content=b"x", headers={"Content-Type": kind})
            assert answer.status_code in (401, 405), "405: this web role has no storage"


def test_a_cookie_never_stores(tmp_path: Path) -> None:
    settings = Settings(node={"data_dir": tmp_path / "var"}, database={"url": f"sqlite:///{tmp_path / 'c.db'}"}, web={})
    with dicomweb.serving(settings) as service:
        token, _ = service.ledger.tokens.add("root", [TokenScope.ADMIN])
        service.client.cookies.set("chexnode", service.ledger.tokens.open_session(token, timedelta(hours=1)))
        assert service.get("/studies").json() == []
        assert service.store(b"x").status_code == 401


def test_another_page_signs_nobody_in(guarded: Guarded) -> None:
    for site in ("cross-site", "same-site"):
        answer = guarded.sign_in(guarded.read, **{"Sec-Fetch-Site": site})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert guarded.sign_in(guarded.read, **{"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_a_form_is_small_and_a_form(guarded: Guarded) -> None:
    assert guarded.client.post("/viewer/", content=b"token=" + b"a" * 5000, headers=FORM).status_code == 413
    assert guarded.client.post("/viewer/", json={"token": guarded.read}).status_code == 415
    assert guarded.client.post("/viewer/").status_code == 415
    assert guarded.client.put("/viewer/").status_code == 405


def test_over_tls_the_cookie_is_bound_to_the_host(guarded: Guarded) -> None:
    answer = guarded.sign_in(guarded.read, **{"X-Forwarded-Proto": "https"})  # of a proxy on this machine
    kept = answer.headers["set-cookie"]
    assert kept.startswith("__Host-chexnode=")
    assert "; secure" in kept.lower()
    headers, session = {"X-Forwarded-Proto": "https"}, kept.partition("=")[2].partition(";")[0]
    assert guarded.client.get("/viewer/", headers=headers | {"Cookie": f"__Host-chexnode={session}"}).is_success
    refused = guarded.client.get("/viewer/", headers=headers | {"Cookie": f"chexnode={session}"})
    assert refused.status_code == 401, "a page without TLS could have set that one"


@pytest.mark.usefixtures("folder")
def test_where_no_token_exists_nobody_is_asked(client: httpx.Client) -> None:
    assert client.get("/viewer/").status_code == 200
    answer = client.post("/viewer/", data={"token": "anything, even €"})
    assert answer.status_code == 303
    assert "set-cookie" not in answer.headers
