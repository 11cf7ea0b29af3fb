"""A small identity provider on loopback: OpenID Connect's authorization code flow, as OpenID Connect Core 1.0, RFC 6749
and RFC 7636 have it. Whoever comes is signed in at once as :attr:`Provider.claims` says.

It checks what a conforming one checks, and can be made to lie in one thing at a time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

from support.servers import LOOPBACK

CLIENT, SECRET = "chexnode", "a secret of / the client"


@dataclass
class Provider:
    """What it knows and does."""

    issuer: str = ""
    port: int = 0
    claims: dict[str, Any] = field(default_factory=lambda: {"sub": "248", "preferred_username": "olga", "groups": []})
    """Of whoever signs in."""
    in_token: bool = True
    """Whether the ID token has them all; otherwise the UserInfo endpoint has."""
    lies: dict[str, Any] = field(default_factory=dict)
    """Claims of the ID token that are others than they should be; None: it is left out."""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1", "use": "sig"}))
    """That signs."""
    published: list[RSAKey] | None = None
    """Keys that it publishes; None: that which signs."""
    algorithm: str = "RS256"
    redirect_uris: set[str] = field(default_factory=set)
    """That are registered; empty: any."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    """Paths of requests."""

    def authorize(self, query: dict[str, str]) -> tuple[int, str]:
        """Status, and where the browser goes or what is wrong."""
        if query.get("client_id") != CLIENT or (self.redirect_uris and query["redirect_uri"] not in self.redirect_uris):
            return 400, "no such client or redirect_uri"
        back = {"state": query.get("state", "")}
        is_well = query.get("response_type") == "code" and "openid" in query.get("scope", "").split()
        if not is_well or query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
            return 302, f"{query['redirect_uri']}?{urlencode(back | {'error': 'invalid_request'})}"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return 302, f"{query['redirect_uri']}?{urlencode(back | {'code': code, 'iss': self.issuer})}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and answer of the token endpoint."""
        given = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (unquote(given[0].replace("+", " ")), unquote(given[2].replace("+", " "))) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        query = self.codes.pop(form.get("code", ""), None)  # each is good once
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if query is None or form.get("redirect_uri") != query["redirect_uri"] or challenge != query["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        access = secrets.token_urlsafe(16)
        self.tokens.add(access)
        half = base64.urlsafe_b64encode(hashlib.sha256(access.encode()).digest()[:16]).rstrip(b"=").decode()
        now = int(time.time())
        times = {"iat": now, "exp": now + 300}
        claims = {"iss": self.issuer, "aud": CLIENT, "nonce": query.get("nonce"), "at_hash": half} | times
        claims |= self.claims if self.in_token else {"sub": self.claims["sub"]}
        claims = {name: value for name, value in (claims | self.lies).items() if value is not None}
        return 200, {"access_token": access, "token_type": "Bearer", "id_token": self._signed(claims)}

    def _signed(self, claims: dict[str, Any]) -> str:
        if self.algorithm == "none":
            parts = ({"alg": "none"}, claims)
            return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts) + "."
        return jwt.encode({"alg": self.algorithm, "kid": self.key.kid}, claims, self.key, [self.algorithm])

    def get(self, path: str, query: dict[str, str], authorization: str) -> tuple[int, Any]:
        """Status and answer of everything that is only read."""
        if path == "/.well-known/openid-configuration":
            ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "userinfo_endpoint": "me"}
            ends |= {"jwks_uri": "keys"}
            return 200, {"issuer": self.issuer} | {name: f"{self.issuer}/{end}" for name, end in ends.items()}
        if path == "/keys":
            return 200, {"keys": [key.as_dict(private=False) for key in self.published or [self.key]]}
        if path == "/me":
            is_known = authorization.removeprefix("Bearer ") in self.tokens
            return (200, self.claims) if is_known else (401, {"error": "invalid_token"})
        return (self.authorize(query)) if path == "/authorize" else (404, {})


@contextmanager
def identity_provider() -> Iterator[Provider]:
    """Run one."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            provider.asked.append(parts.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self.answer(*provider.get(parts.path, query, self.headers.get("Authorization", "")))

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.answer(*provider.token(form, self.headers.get("Authorization", "")))

        def answer(self, status: int, content: Any) -> None:
            body = b"" if status == 302 else json.dumps(content).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", content)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    provider.port = server.server_port
    provider.issuer = f"http://{LOOPBACK}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
