"""Who may use the web role, and how much of it: tokens, scopes, limits and headers, over a real socket."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from typer.testing import CliRunner

from chexnode.cli.commands import app as commands
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.tokens import PREFIX
from chexnode.roles.up import _prepare
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import BadEnvironment, Usage
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web.app import create_app
from chexnode.web.middleware import HEADERS, Buckets, Limits
from support import dicomweb
from support.ledgers import Clock, node_on, opened
from support.servers import LOOPBACK
from support.webs import listening, serving


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with opened(f"sqlite:///{tmp_path / 'chexnode.db'}", clock) as ledger:
        yield ledger


def settings(tmp_path: Path, tls: dict[str, Any] | None = None, **web: Any) -> Settings:
    return Settings(
        node={"data_dir": tmp_path / "var"},
        database={"url": f"sqlite:///{tmp_path / 'chexnode.db'}"},
        tls=tls or {},
        web=web,
    )


def origin(url: str) -> str:
    return url.removesuffix("/dicom-web")


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_token_is_kept_as_its_digest_only(database_url: str) -> None:
    with opened(database_url) as ledger:
        token, secret = ledger.tokens.add("viewer", [TokenScope.READ])
        assert secret.startswith(PREFIX)
        assert len(secret) >= len(PREFIX) + 43  # 256 bits, base 64
        with ledger.database.read() as conn:
            tables = ("tokens", "events")
            kept = repr([conn.execute(text(f"SELECT * FROM {table}")).all() for table in tables])
        assert secret not in kept
        assert secret.removeprefix(PREFIX) not in kept
        assert ledger.tokens.recognise(secret) == token
        assert ledger.tokens.recognise(secret[:-1]) is None
        assert ledger.tokens.recognise("") is None
        assert ledger.tokens.recognise("\0ü\udc80") is None
        with pytest.raises(Usage, match="already"):
            ledger.tokens.add("viewer", [TokenScope.ADMIN])
        assert ledger.tokens.list() == [token]
        ledger.tokens.revoke("viewer")
        assert ledger.tokens.recognise(secret) is None
        assert ledger.tokens.list() == []
        with pytest.raises(Usage, match="no token 'viewer'"):
            ledger.tokens.revoke("viewer")
        assert ledger.tokens.add("viewer", [TokenScope.STORE])[1] != secret


def test_a_token_expires(ledger: Ledger, clock: Clock) -> None:
    _, secret = ledger.tokens.add("short", [TokenScope.READ], timedelta(days=1))
    clock.forward(86_399)
    assert ledger.tokens.recognise(secret) is not None
    clock.forward(1)
    assert ledger.tokens.recognise(secret) is None
    assert ledger.tokens.are_needed(), "the door must not open because a token has run out"


def test_revoking_the_last_token_does_not_open_the_node_at_the_next_start(ledger: Ledger, tmp_path: Path) -> None:
    ledger.tokens.add("viewer", [TokenScope.READ])
    with pytest.raises(Usage, match="revoke and remove"):
        ledger.tokens.open_door()
    ledger.tokens.revoke("viewer")
    with serving(settings(tmp_path), ledger) as client:
        assert client.get("/api/jobs").status_code == 401
    ledger.tokens.open_door()
    with serving(settings(tmp_path), ledger) as client:
        assert client.get("/api/jobs").status_code == 200


def test_on_loopback_without_a_token_everybody_may(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), serving(settings(tmp_path), ledger) as client:
        assert "neither a token nor a user exists" in caplog.text
        assert client.get("/api/jobs").status_code == 200
        # The first token closes the door, at once and for as long as we run.
        _, secret = ledger.tokens.add("viewer", [TokenScope.READ])
        assert client.get("/api/jobs").status_code == 401
        assert client.get("/api/jobs", headers=bearer(secret)).status_code == 200
        ledger.tokens.revoke("viewer")
        assert client.get("/api/jobs", headers=bearer(secret)).status_code == 401
        assert client.get("/api/jobs").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "chexnode.example"])
def test_no_other_address_opens_without_a_token(ledger: Ledger, tmp_path: Path, host: str) -> None:
    chosen = settings(tmp_path, host=host)
    for start in (lambda: create_app(node_on(ledger, chosen)), lambda: _prepare(chosen)):
        with pytest.raises(BadEnvironment, match="chexnode tokens add NAME"):
            start()
    ledger.tokens.add("viewer", [TokenScope.READ])
    create_app(node_on(ledger, chosen))


def test_what_a_refusal_says(ledger: Ledger, tmp_path: Path) -> None:
    _, reading = ledger.tokens.add("viewer", [TokenScope.READ])
    _, storing = ledger.tokens.add("modality", [TokenScope.STORE])
    _, ruling = ledger.tokens.add("admin", [TokenScope.ADMIN])
    with serving(settings(tmp_path), ledger) as client:

        def asked(*headers: tuple[str, str]) -> tuple[int, str]:
            answer = client.get("/api/jobs", headers=list(headers))
            return answer.status_code, answer.headers.get("www-authenticate", "")

        assert asked() == (401, 'Bearer realm="ChexNode"')
        for wrong in ("Bearer", "Basic Y2hleDpub2Rl", "Token x"):
            assert asked(("Authorization", wrong)) == (401, 'Bearer realm="ChexNode"')
        status, challenge = asked(("Authorization", "Bearer chexnode_wrong"))
        assert status == 401
        assert 'error="invalid_token"' in challenge
        status, challenge = asked(("Authorization", f"Bearer {storing}"))
        assert status == 403
        assert 'error="insufficient_scope"' in challenge
        assert 'scope="read"' in challenge
        both = ("Authorization", f"Bearer {reading}")
        assert asked(both)[0] == asked(("Authorization", f"bearer {ruling}"))[0] == 200
        assert asked(both, ("Authorization", "Bearer other"))[0] == 401
        assert client.get("/api/jobs", params={"access_token": reading}).status_code == 401


def test_what_needs_no_token(ledger: Ledger, tmp_path: Path) -> None:
    _, secret = ledger.tokens.add("prometheus", [TokenScope.READ])
    with serving(settings(tmp_path), ledger) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert {check["detail"] for check in ready.json()} == {""}
        assert all(check["detail"] for check in client.get("/health/ready", headers=bearer(secret)).json())
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=bearer(secret)).status_code == 200


def test_every_other_route_needs_one(ledger: Ledger, tmp_path: Path) -> None:
    """Whoever adds a route and forgets to protect it finds out here."""
    _, storing = ledger.tokens.add("modality", [TokenScope.STORE])
    free = {"/health/live", "/health/ready", "/api/openapi.json"}
    with dicomweb.serving(settings(tmp_path), ledger) as service, httpx.Client(base_url=origin(service.url)) as client:
        schema = client.get("/api/openapi.json").json()
        assert {"/api/jobs", "/metrics", "/dicom-web/studies"} <= set(schema["paths"])
        assert "post" in schema["paths"]["/dicom-web/studies"]
        for path, methods in schema["paths"].items():
            for method in set(methods) & {"get", "post", "put", "delete"}:
                url = re.sub(r"\{[^}]+\}", "1.2.3", path)
                if path in free:
                    continue
                assert client.request(method, url).status_code == 401, (method, path)
                assert methods[method]["security"], (method, path)
                if method == "get":
                    assert client.get(url, headers=bearer(storing)).status_code == 403, path


def test_headers_stand_on_every_answer(ledger: Ledger, tmp_path: Path) -> None:
    with serving(settings(tmp_path, max_request_mb=1), ledger) as client:
        answers = [
            client.get("/api/jobs"),
            client.get("/nothing"),
            client.get("/api/jobs", headers={"Host": "rebound.example"}),
            client.get("/api/jobs", params={"limit": 0}),
            client.post("/api/jobs", content=b"x" * 1_000_001),
        ]
        assert [answer.status_code for answer in answers] == [200, 404, 400, 422, 413]
        for answer in answers:
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
            assert "strict-transport-security" not in answer.headers
            assert "access-control-allow-origin" not in answer.headers


def test_pages_elsewhere_read_our_answers_only_by_permission(ledger: Ledger, tmp_path: Path) -> None:
    origin = "https://viewer.example"
    ask = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    with serving(settings(tmp_path), ledger) as client:
        assert "access-control-allow-origin" not in client.get("/api/jobs", headers={"Origin": origin}).headers
        assert client.options("/api/jobs", headers=ask).status_code == 405
    _, secret = ledger.tokens.add("viewer", [TokenScope.READ])
    with serving(settings(tmp_path, cors_origins=[origin]), ledger) as client:
        allowed = client.options("/api/jobs", headers=ask)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        assert "Authorization" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in allowed.headers
        read = client.get("/api/jobs", headers={"Origin": origin} | bearer(secret))
        assert read.headers["access-control-allow-origin"] == origin
        other = client.options("/api/jobs", headers=ask | {"Origin": "https://stranger.example"})
        assert "access-control-allow-origin" not in other.headers


def test_names_that_we_answer_to(ledger: Ledger, tmp_path: Path) -> None:
    with serving(settings(tmp_path, names=["chexnode.example"]), ledger) as client:
        assert client.get("/health/live", headers={"Host": "chexnode.example:8080"}).status_code == 200
        assert client.get("/health/live", headers={"Host": "other.example"}).status_code == 400
    ledger.tokens.add("viewer", [TokenScope.READ])
    with serving(settings(tmp_path, host="0.0.0.0"), ledger) as client:
        assert client.get("/health/live", headers={"Host": "any.example"}).status_code == 200


def test_too_many_requests(ledger: Ledger, tmp_path: Path) -> None:
    with serving(settings(tmp_path, requests_per_second=0.5), ledger) as client:
        answers = [client.get("/health/live") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    with serving(settings(tmp_path, requests_per_second=0), ledger) as client:
        assert {client.get("/health/live").status_code for _ in range(20)} == {200}


def test_buckets_are_filled_again_and_bounded() -> None:
    now = [0.0]
    buckets = Buckets(2, lambda: now[0], most=3)
    assert [buckets.take("10.0.0.1") for _ in range(9)] == [0] * 8 + [0.5]
    assert buckets.take("10.0.0.2") == 0
    now[0] += 0.5
    assert [buckets.take("10.0.0.1") for _ in range(2)] == [0, 0.5]
    now[0] += 1000
    assert [buckets.take("10.0.0.1") for _ in range(9)] == [0] * 8 + [0.5]
    for number in range(1000):
        buckets.take(f"10.1.{number // 256}.{number % 256}")
    assert len(buckets._levels) == 3
    # One subscriber has a whole /64 to call from; an IPv4 caller may look like an IPv6 one.
    six = Buckets(1, lambda: now[0])
    assert [six.take(f"2001:db8::{n}") for n in range(1, 6)] == [0, 0, 0, 0, 1]
    assert [six.take(a) for a in ("::ffff:10.0.0.1", "10.0.0.1") * 3][-2:] == [1, 1]


def raw(client: httpx.Client) -> socket.socket:
    return socket.create_connection((LOOPBACK, client.base_url.port or 0), timeout=10)


def test_a_body_that_is_too_long_or_never_ends(tmp_path: Path) -> None:
    """Over /dicom-web in its own tests; here by a route that reads a body: a token's refusal must not wait for it."""

    async def count(scope: Any, receive: Any, send: Any) -> None:
        size = 0
        async for chunk in Request(scope, receive).stream():
            size += len(chunk)
        await JSONResponse({"size": size})(scope, receive, send)

    limits = settings(tmp_path, max_request_mb=1, idle_seconds=0.3, min_kb_per_second=0.01).web
    with listening(Limits(count, limits)) as client:
        assert client.post("/", content=b"x" * 1_000_000).json() == {"size": 1_000_000}
        assert client.post("/", content=b"x" * 1_000_001).status_code == 413

        chunked = client.post("/", content=(b"x" * 100_000 for _ in range(11)))
        assert chunked.status_code == 413
        assert chunked.headers["connection"] == "close"

        with raw(client) as slow:
            slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        with raw(client) as steady:
            steady.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
            for byte in (b"1", b"2", b"3", b"4", b"5"):
                time.sleep(0.1)
                steady.sendall(byte)
            assert b'{"size":5}' in b"".join(iter(lambda: steady.recv(4096), b""))
        with raw(client) as trickling:
            trickling.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n")
            trickling.settimeout(0.15)
            answer = b""
            for _ in range(100):
                with suppress(TimeoutError, BrokenPipeError):
                    trickling.sendall(b"1")
                    answer = answer or trickling.recv(4096)
                if answer:
                    break
            assert answer.startswith(b"HTTP/1.1 408"), "7 bytes a second are fewer than 10"


def test_who_does_not_read_the_answer_is_left(tmp_path: Path) -> None:
    ended: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await StreamingResponse(endless())(scope, receive, send)
        finally:
            ended.append("left")

    with listening(Limits(app, settings(tmp_path, idle_seconds=0.3).web)) as client, raw(client) as deaf:
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 20
        while "left" not in ended and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "left" in ended


def test_the_commands(tmp_path: Path) -> None:
    config = tmp_path / "chexnode.toml"
    config.write_text('[database]\nurl = "sqlite:///chexnode.db"\n')

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(commands, ["--config", str(config), "tokens", *arguments])

    with opened(f"sqlite:///{tmp_path / 'chexnode.db'}") as ledger:
        made = json.loads(run("add", "viewer", "--scope", "read", "--scope", "store", "--days", "7", "--json").stdout)
        assert made["scopes"] == ["read", "store"]
        token = ledger.tokens.recognise(made["token"])
        assert token is not None
        assert token.name == "viewer"
        plain = run("add", "admin.1", "--scope", "admin").stdout.strip()
        assert ledger.tokens.recognise(plain) is not None
        listed = json.loads(run("list", "--json").stdout)
        assert [(one["name"], one["scopes"]) for one in listed] == [
            ("admin.1", ["admin"]),
            ("viewer", ["read", "store"]),
        ]
        assert made["token"] not in run("list").stdout
        assert "viewer" in run("list").stdout
        assert run("revoke", "viewer", "--json").exit_code == 0
        assert ledger.tokens.recognise(made["token"]) is None
    assert isinstance(run("revoke", "viewer").exception, Usage)
    assert isinstance(run("add", "a b", "--scope", "read").exception, Usage)
    assert run("add", "x").exit_code == 2
    assert run("add", "x", "--scope", "everything").exit_code == 2
