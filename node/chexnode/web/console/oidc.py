"""Signing in with an identity provider: OpenID Connect's authorization code flow with PKCE, state and nonce.

The provider says who it is and what groups they are in; the settings say what role that is. Nothing of the provider is
kept but the name and the role: a session here is a session like any other.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError
from joserfc.jwk import KeySet

from chexnode.audit.refusals import Cause
from chexnode.ledger.users import SESSION
from chexnode.node import Node
from chexnode.settings.oidc import OidcSettings, is_safe
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.roles import Role
from chexnode.web import cookie
from chexnode.web.console.pages import HEADERS, ROOT
from chexnode.web.console.visitor import Turned, inside

log = logging.getLogger(__name__)

#: Signatures that only the provider can make: none that a client's secret makes, and never none.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_LEEWAY_SECONDS = 60
_TIMEOUT_SECONDS = 10.0
_FRESH_SECONDS = 3600.0
_LONGEST_NAME = 64


class NotAccepted(Exception):
    """What the provider or the browser brought is not accepted; the text says why and names nobody."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the provider vouches for."""

    subject: str
    """Unique at the provider and never given to anybody else."""
    name: str
    role: Role | None
    """None: they have none here."""


@dataclass(frozen=True, slots=True)
class _Provider:
    """What the provider publishes."""

    metadata: Mapping[str, Any]
    keys: KeySet
    at: float


class Relying:
    """This node as a client of the provider. Thread safe."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._known: _Provider | None = None

    def start(self, redirect_uri: str, flow: Mapping[str, str]) -> str:
        """Where the browser goes to sign in; ``flow`` has state, nonce and verifier. Raises NotAccepted."""
        with self._client(redirect_uri) as client:
            metadata = self._provider().metadata
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=flow["state"],
                nonce=flow["nonce"],
                code_verifier=flow["verifier"],
            )
            return str(url)

    def finish(self, redirect_uri: str, query: Mapping[str, str], flow: Mapping[str, str]) -> Identity:
        """Whom the answer in ``query`` vouches for. Raises NotAccepted."""
        if not hmac.compare_digest(query.get("state", "").encode(), flow.get("state", "").encode()) or not flow:
            raise NotAccepted("it answers no question that this browser has asked")
        if query.get("iss", self._settings.issuer) != self._settings.issuer:
            raise NotAccepted("it comes from another provider")  # RFC 9207
        if "error" in query or not query.get("code"):
            raise NotAccepted(f"the provider says {plain(query.get('error', 'nothing'))[:80]}")
        try:
            with self._client(redirect_uri) as client:
                return self._identity(client, query["code"], flow)
        except NotAccepted:
            raise
        except Exception as error:  # whatever a provider sends, and whichever way it is away
            log.warning("a sign-in by OpenID Connect failed: %s", type(error).__name__)
            raise NotAccepted(f"its answer is not valid ({type(error).__name__}: {plain(error)[:120]})") from error

    def _identity(self, client: OAuth2Client, code: str, flow: Mapping[str, str]) -> Identity:
        provider = self._provider()
        token = client.fetch_token(
            provider.metadata["token_endpoint"],
            code=code,
            grant_type="authorization_code",
            code_verifier=flow["verifier"],
        )
        claims = self._claims(token["id_token"], flow["nonce"], token.get("access_token"))
        settings = self._settings
        if _at(claims, settings.role_claim) is None and "userinfo_endpoint" in provider.metadata:
            more = client.get(_safe(provider.metadata["userinfo_endpoint"])).json()
            if more.get("sub") != claims["sub"]:
                raise NotAccepted("its answers are about two people")
            claims = {**more, **claims}
        name = _at(claims, settings.name_claim)
        if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME or plain(name) != name:
            raise NotAccepted(f"the claim {settings.name_claim} is no name of up to {_LONGEST_NAME} characters")
        return Identity(str(claims["sub"]), name.strip(), role_of(_at(claims, settings.role_claim), settings))

    def _claims(self, id_token: str, nonce: str, access_token: str | None) -> dict[str, Any]:
        """Those of a token that is the provider's, for this node, of now and of this very sign-in."""
        try:
            decoded = jwt.decode(id_token, self._provider().keys, algorithms=_ALGORITHMS)
        except (BadSignatureError, InvalidKeyIdError):  # the provider may have changed its keys
            decoded = jwt.decode(id_token, self._provider(anew=True).keys, algorithms=_ALGORITHMS)
        settings = self._settings
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            {
                "iss": {"essential": True, "value": settings.issuer},
                "aud": {"essential": True, "value": settings.client_id},
                "nonce": {"essential": True, "value": nonce},
            },
            {"nonce": nonce, "client_id": settings.client_id, "access_token": access_token},
        )
        claims.validate(leeway=_LEEWAY_SECONDS)
        return dict(claims)

    def _provider(self, *, anew: bool = False) -> _Provider:
        """What it publishes, asked for once an hour. Raises NotAccepted."""
        with self._lock:
            known = self._known
            if known is not None and not anew and time.monotonic() - known.at < _FRESH_SECONDS:
                return known
            try:
                self._known = self._discover()
            except NotAccepted:
                raise
            except Exception as error:
                log.warning("the identity provider cannot be asked: %s", type(error).__name__)
                raise NotAccepted(f"the identity provider cannot be asked ({type(error).__name__})") from error
            return self._known

    def _discover(self) -> _Provider:
        issuer = self._settings.issuer
        with self._client("") as client:
            where = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
            metadata = client.request("GET", where, withhold_token=True).raise_for_status().json()
            if metadata["issuer"] != issuer:
                raise NotAccepted(f"the provider calls itself {plain(metadata['issuer'])[:200]}")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                _safe(metadata[name])
            keys = client.request("GET", metadata["jwks_uri"], withhold_token=True).raise_for_status().json()
        signing = [key for key in keys["keys"] if key.get("use", "sig") == "sig" and key.get("kty") != "oct"]
        return _Provider(metadata, KeySet.import_key_set({"keys": signing}), time.monotonic())

    def _client(self, redirect_uri: str) -> OAuth2Client:
        settings = self._settings
        secret = settings.client_secret.get_secret_value() if settings.client_secret is not None else None
        return OAuth2Client(
            settings.client_id,
            secret,
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            scope=" ".join(dict.fromkeys(("openid", *settings.scopes))),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_SECONDS,
            verify=ssl.create_default_context(cafile=settings.authorities),
            trust_env=False,
        )


def role_of(value: object, settings: OidcSettings) -> Role | None:
    """The highest role that ``value`` of the claim gives."""
    values = {value} if isinstance(value, str) else set(map(str, value)) if isinstance(value, list) else set()
    for role, names in (
        (Role.ADMIN, settings.admins),
        (Role.OPERATOR, settings.operators),
        (Role.VIEWER, settings.viewers),
    ):
        if values & set(names):
            return role
    return None


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim ``path``: by its whole name, as names with dots are, or each part within the one before."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _safe(url: object) -> str:
    if not isinstance(url, str) or not is_safe(url):
        raise NotAccepted("an address of the provider does not begin with https://")
    return url


def router(node: Node) -> APIRouter:
    """The way to the provider, and back."""
    routes = APIRouter(prefix="/oidc")
    relying, users, trail = Relying(node.settings.oidc), node.ledger.users, node.trail

    def here(request: Request) -> str:
        return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}{ROOT}/oidc/back"

    @routes.get("/start")
    def start(request: Request, to: str = "") -> Response:
        flow = {name: secrets.token_urlsafe(32) for name in ("state", "nonce")}
        flow |= {"verifier": secrets.token_urlsafe(48), "to": to[:500]}
        try:
            response = RedirectResponse(relying.start(here(request), flow), 303, HEADERS)
        except NotAccepted as error:
            raise Turned(503, "turned.oidc", why=str(error)) from error
        cookie.keep_flow(request, response, flow)
        return response

    @routes.get("/back")
    def back(request: Request) -> Response:
        address = request.client.host if request.client else ""
        flow = cookie.flow_of(request)
        try:
            who = relying.finish(here(request), request.query_params, flow)
        except NotAccepted as error:
            trail.refused(address, "", f"OpenID Connect: {error}", Cause.TOKEN)
            raise Turned(401, "turned.oidc", why=str(error)) from error
        if who.role is None:
            trail.refused(address, who.name, "the identity provider gives no role here", Cause.TOKEN)
            raise Turned(403, "turned.no_role")
        try:
            user = users.enter(who.name, f"{node.settings.oidc.issuer} {who.subject}", who.role)
        except Usage as error:
            trail.refused(address, who.name, str(error), Cause.TOKEN)
            raise Turned(403, "turned.oidc", why=str(error)) from error
        trail.signed_in(user.name, address)
        response = RedirectResponse(inside(request, flow.get("to", "")), 303, HEADERS)
        cookie.keep_session(request, response, users.open_session(user), int(SESSION.total_seconds()))
        cookie.forget_flow(request, response)
        return response

    return routes
