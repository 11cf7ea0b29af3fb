"""Who may: bearer tokens (RFC 6750) with scopes, asked for by each route that needs one, and people's sessions.

On a loopback address, and as long as no token was ever made and there is no user, everybody on the machine may do
everything: the embedded default. The first token or user closes that for good. On any other address the web role does
not start without one.

Programs show a token; people sign in to the console, and their browser keeps a session. For what programs are served
with, a session counts on GET and HEAD alone, and only of a person who may see patients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from chexnode.audit.refusals import Cause
from chexnode.audit.trail import OFF, Trail
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.tokens import Token
from chexnode.ledger.users import User
from chexnode.settings.base import is_loopback
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.roles import Role
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web import cookie
from chexnode.web.access import access

log = logging.getLogger(__name__)

REALM = "ChexNode"
CHALLENGE = f'Bearer realm="{REALM}"'


class Doorkeeper:
    """Decides about each request; ``app.state.doorkeeper``. Raises BadEnvironment where it may not open at all."""

    def __init__(self, settings: Settings, ledger: Ledger, trail: Trail = OFF) -> None:
        self._tokens = ledger.tokens
        self._users = ledger.users
        self._trail = trail
        host = settings.web.host
        # Where a provider says who people are, nobody does anything unsaid, also before the first has signed in.
        has_provider = bool(settings.oidc.issuer)
        exist = has_provider or self._tokens.check(host, is_open_to_others=not is_loopback(host))
        self._open = not exist
        if self._open:
            log.warning("neither a token nor a user exists: whoever is on this machine may do everything over HTTP")
        elif not is_loopback(host) and not settings.tls.web:
            log.warning("tokens and patient data are served without TLS, unless a proxy adds it: see tls.web")

    def is_open(self) -> bool:
        """Whether nobody needs a token. Once closed it stays so: `chexnode tokens open` opens it."""
        if self._open:
            with suppress(Transient):  # the database is away: there is nothing to be read then but that it is
                self._open = not self._tokens.are_needed()
        return self._open

    def caller(self, request: Request) -> Token | None:
        """Whose token the request brings; None if it brings none. Raises 401 if that is no good."""
        headers = request.headers.getlist("authorization")
        if not headers:
            kept = cookie.secret_of(request)
            token = self._tokens.of_session(kept) if kept else None
            return token or self._reader(request)
        scheme, secret = get_authorization_scheme_param(headers[0])
        if len(headers) > 1 or not secret or scheme.lower() != "bearer":
            raise _refusal(401, "the Authorization header is to be: Bearer TOKEN")
        token = self._tokens.recognise(secret)
        if token is None:
            raise _refusal(401, "the token is unknown, revoked or expired", error="invalid_token")
        return token

    def _reader(self, request: Request) -> Token | None:
        """What the person may read whose session the request brings, as a token says it."""
        user = self.person(request) if cookie.only_reads(request) else None
        if user is None:
            return None
        return Token(user.name, (TokenScope.READ,) if user.role.includes(Role.OPERATOR) else (), user.created_at, None)

    def person(self, request: Request, *, is_active: bool = True) -> User | None:
        """Who is signed in with the browser that asks; None where nobody is. ``is_active``: see the ledger's users."""
        secret = cookie.session_of(request)
        return self._users.of_session(secret, is_active=is_active) if secret else None

    def sign_in(self, request: Request, secret: str) -> str | None:
        """A session for a browser that shows ``secret``, a token that only reads; None where none is needed.

        Raises 401 or 403 for any other.
        """
        if self.is_open():
            return None
        token = self._tokens.recognise(secret)
        address = request.client.host if request.client else ""
        if token is not None and cookie.may_be_kept(token):
            self._trail.signed_in(token.name, address)
            return self._tokens.open_session(token, timedelta(seconds=cookie.SECONDS))
        if token is None:
            refusal = _refusal(401, "the token is unknown, revoked or expired", error="invalid_token")
            self._trail.refused(address, "", refusal.detail, Cause.TOKEN)
        else:
            refusal = _refusal(403, "the token can do more than read: a browser keeps only one that cannot")
            self._trail.refused(address, token.name, refusal.detail, Cause.SCOPE)
        raise refusal

    def sign_out(self, request: Request) -> None:
        """End the session that the browser keeps, if any."""
        if kept := cookie.kept_by(request):
            self._tokens.close_session(kept)

    def allows(self, request: Request, scope: TokenScope) -> bool:
        """Whether ``request`` may see what needs ``scope``, without an exception where not."""
        if self.is_open():
            return True
        try:
            token = self.caller(request)
        except HTTPException:
            return False
        return token is not None and token.allows(scope)

    def admit(self, request: Request, scope: TokenScope) -> None:
        """Let ``request`` pass, or raise 401 or 403 as RFC 6750 section 3 says."""
        if self.is_open():
            return
        address = request.client.host if request.client else ""
        try:
            token = self.caller(request)
            if token is None:
                raise _refusal(401, "a token is needed")
        except HTTPException as refusal:
            self._trail.refused(address, "", refusal.detail, Cause.TOKEN)
            raise
        if not token.allows(scope):
            forbidden = _refusal(403, f"the token has no scope {scope}", error="insufficient_scope", scope=scope)
            self._trail.refused(address, token.name, forbidden.detail, Cause.SCOPE)
            raise forbidden
        access().user = request.state.caller = token.name


def require(scope: TokenScope) -> Callable[..., None]:
    """A dependency for a route, or for a whole router: ``dependencies=[Depends(require(TokenScope.READ))]``."""
    # It only describes the need in the OpenAPI document: its own refusals are not RFC 6750's.
    described = Depends(HTTPBearer(scheme_name=f"token-{scope}", auto_error=False))

    def admitted(request: Request, _: object = described) -> None:
        doorkeeper: Doorkeeper = request.app.state.doorkeeper
        doorkeeper.admit(request, scope)

    return admitted


def _refusal(status: int, detail: str, **parameters: str) -> HTTPException:
    """With its challenge. RFC 6750 section 3.1: no error code where the request brought no credentials."""
    said = {"realm": REALM} | parameters | ({"error_description": detail} if parameters else {})
    challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in said.items())
    return HTTPException(status, detail, {"WWW-Authenticate": challenge})
