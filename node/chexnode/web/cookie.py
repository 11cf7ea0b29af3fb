"""What a browser keeps for us in cookies: a session of whoever showed a token, or of a person who has signed in.

The first is for pages that cannot send an Authorization header with all they load. Its cookie is good for reading
only: it counts on GET and HEAD alone, and only tokens that may do nothing but read are ever given one. So no page of
another's can make a browser that has it change anything, and it cannot read either: ``SameSite=Strict`` keeps the
cookie at home, and answers are for pages of this origin.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping

from fastapi import Request, Response

from chexnode.ledger.tokens import Token
from chexnode.vocabulary.scopes import TokenScope

SECONDS = 12 * 3600
"""How long a browser keeps it: a working day."""

_FLOW_SECONDS = 600
"""How long somebody may take to sign in elsewhere."""

_SAFE = frozenset({"GET", "HEAD"})  # RFC 9110 section 9.2.1; OPTIONS needs nobody's token


def may_be_kept(token: Token) -> bool:
    """Whether ``token`` can do no more than read."""
    return token.scopes == (TokenScope.READ,)


def secret_of(request: Request) -> str | None:
    """The session of a token that the browser keeps, if it does and if the request is one that only reads."""
    return kept_by(request) if only_reads(request) else None


def kept_by(request: Request) -> str | None:
    """The session of a token that the browser keeps, if it does."""
    return request.cookies.get(_name(request))


def only_reads(request: Request) -> bool:
    """Whether the request changes nothing."""
    return request.method in _SAFE


def keep(request: Request, response: Response, secret: str) -> None:
    """Have the browser keep ``secret`` and show it to no script."""
    response.set_cookie(
        _name(request), secret, max_age=SECONDS, path="/", secure=_is_secure(request), httponly=True, samesite="strict"
    )


def forget(request: Request, response: Response) -> None:
    """Have the browser forget it."""
    name, secure = _name(request), _is_secure(request)
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")


def session_of(request: Request) -> str | None:
    """The secret of the session that the browser keeps, if any."""
    return request.cookies.get(_name(request, "-session"))


def keep_session(request: Request, response: Response, secret: str, seconds: int) -> None:
    """Have the browser keep a session. A link from elsewhere finds it: what changes anything asks for more."""
    name = _name(request, "-session")
    secure = _is_secure(request)
    response.set_cookie(name, secret, max_age=seconds, path="/", secure=secure, httponly=True, samesite="lax")


def forget_session(request: Request, response: Response) -> None:
    """Have the browser forget the session."""
    keep_session(request, response, "", 0)


def keep_flow(request: Request, response: Response, flow: Mapping[str, str]) -> None:
    """Have the browser keep what it has asked an identity provider, until the answer comes."""
    value = urlsafe_b64encode(json.dumps(dict(flow)).encode()).decode()
    name, secure = _name(request, "-oidc"), _is_secure(request)
    response.set_cookie(name, value, max_age=_FLOW_SECONDS, path="/", secure=secure, httponly=True, samesite="lax")


def flow_of(request: Request) -> dict[str, str]:
    """What the browser has asked an identity provider; nothing where it has not."""
    try:
        found = json.loads(urlsafe_b64decode(request.cookies.get(_name(request, "-oidc"), "")))
    except ValueError:
        return {}
    return found if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()) else {}


def forget_flow(request: Request, response: Response) -> None:
    """Have the browser forget it."""
    name, secure = _name(request, "-oidc"), _is_secure(request)
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")


def _name(request: Request, suffix: str = "") -> str:
    # The prefix binds it to this very host, and no page without TLS can have set it (RFC 6265bis section 4.1.3.2).
    return ("__Host-chexnode" if _is_secure(request) else "chexnode") + suffix


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
