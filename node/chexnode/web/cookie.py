"""A token in a browser's cookie, for pages that cannot send an Authorization header with all they load.

The cookie is good for reading only, whatever the token is: it counts on GET and HEAD alone, and only tokens that may do
nothing but read are ever put into one. So no page of another's can make a browser that has it change anything, and it
cannot read either: ``SameSite=Strict`` keeps the cookie at home, and answers are for pages of this origin.
"""

from __future__ import annotations

from fastapi import Request, Response

from chexnode.ledger.tokens import Token
from chexnode.vocabulary.scopes import Scope

SECONDS = 12 * 3600
"""How long a browser keeps it: a working day."""

_SAFE = frozenset({"GET", "HEAD"})  # RFC 9110 section 9.2.1; OPTIONS needs nobody's token


def may_be_kept(token: Token) -> bool:
    """Whether ``token`` can do no more than read."""
    return token.scopes == (Scope.READ,)


def secret_of(request: Request) -> str | None:
    """The secret that the browser keeps, if it does and if the request is one that only reads."""
    return request.cookies.get(_name(request)) if request.method in _SAFE else None


def keep(request: Request, response: Response, secret: str) -> None:
    """Have the browser keep ``secret`` and show it to no script."""
    response.set_cookie(
        _name(request), secret, max_age=SECONDS, path="/", secure=_is_secure(request), httponly=True, samesite="strict"
    )


def _name(request: Request) -> str:
    # The prefix binds it to this very host, and no page without TLS can have set it (RFC 6265bis section 4.1.3.2).
    return "__Host-chexnode" if _is_secure(request) else "chexnode"


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
