"""API tokens: who may use the web role, and for what.

A token is 256 random bits and is shown once; the ledger keeps its SHA-256. A slow password hash would add nothing:
those slow down guessing at what people choose, and nobody guesses at 256 random bits. A revoked token's row is
deleted; the events keep that it was there.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, or_, select
from sqlalchemy.exc import IntegrityError

from chexnode.ledger.database import Database, add_missing, add_rows
from chexnode.ledger.moves import happened, record
from chexnode.ledger.schema import markers, token_sessions, tokens, users
from chexnode.vocabulary.errors import BadEnvironment, Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.scopes import TokenScope

_CLOSED = "callers must say who they are"

_ANYBODY = or_(*(select(one.c.name).exists() for one in (tokens, users)))
_IS_ANYBODY = select(_ANYBODY)
_ARE_NEEDED = select(or_(select(markers.c.name).where(markers.c.name == _CLOSED).exists(), _ANYBODY))

PREFIX = "chexnode_"
"""Begins every token, so that a search for leaked secrets can find them."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token, without its secret."""

    name: str
    scopes: tuple[TokenScope, ...]
    created_at: datetime
    expires_at: datetime | None
    """None: never."""

    def allows(self, scope: TokenScope) -> bool:
        """Whether it is good for ``scope``; admin is good for everything."""
        return scope in self.scopes or TokenScope.ADMIN in self.scopes


class Tokens:
    """Make, list, revoke, recognise."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, name: str, scopes: Collection[TokenScope], lifetime: timedelta | None = None) -> tuple[Token, str]:
        """Make a token; return it and its secret, which nobody can show again. Raises Usage if the name is taken."""
        if not scopes:
            raise Usage("a token needs at least one scope")
        secret = PREFIX + secrets.token_urlsafe(32)
        now = self._db.clock()
        token = Token(name, tuple(s for s in TokenScope if s in scopes), now, now + lifetime if lifetime else None)
        row = {
            "name": name,
            "sha256": _digest(secret),
            "scopes": [scope.value for scope in token.scopes],
            "created_at": now,
            "expires_at": token.expires_at,
        }
        try:
            with self._db.write() as conn:
                add_rows(conn, tokens, [row])
                close_door(conn)
                record(conn, [happened("token", name, Event.ADDED, now, detail=" ".join(token.scopes))])
        except IntegrityError as error:
            raise Usage(f"there is a token {name!r} already; revoke it first") from error
        return token, secret

    def list(self) -> list[Token]:
        """All tokens, by name; expired ones too."""
        with self._db.read() as conn:
            return [_token(row) for row in conn.execute(select(tokens).order_by(tokens.c.name))]

    def revoke(self, name: str) -> None:
        """End a token at once. Raises Usage if there is none of that name."""
        with self._db.write() as conn:
            conn.execute(delete(token_sessions).where(token_sessions.c.token_name == name))
            if conn.execute(delete(tokens).where(tokens.c.name == name)).rowcount != 1:
                raise Usage(f"there is no token {name!r}")
            record(conn, [happened("token", name, Event.REVOKED, self._db.clock())])

    def recognise(self, secret: str) -> Token | None:
        """The token with this secret; None if there is none, or if it has expired.

        What the database's index compares, in whatever time, is the digest of a guess: its caller chose neither that
        nor any part of it.
        """
        digest = _digest(secret)
        with self._db.read() as conn:
            row = conn.execute(select(tokens).where(tokens.c.sha256 == digest)).one_or_none()
        if row is None or not hmac.compare_digest(row.sha256, digest):
            return None
        token = _token(row)
        return None if token.expires_at is not None and token.expires_at <= self._db.clock() else token

    def open_session(self, token: Token, lifetime: timedelta) -> str:
        """Begin a session of a browser that was given ``token``; return its secret, which only the browser keeps."""
        secret, now = secrets.token_urlsafe(32), self._db.clock()
        ends = min(now + lifetime, token.expires_at or now + lifetime)
        with self._db.write() as conn:
            conn.execute(delete(token_sessions).where(token_sessions.c.expires_at < now))
            add_rows(conn, token_sessions, [{"sha256": _digest(secret), "token_name": token.name, "expires_at": ends}])
        return secret

    def of_session(self, secret: str) -> Token | None:
        """The token that a browser's session stands for; None where session or token have ended."""
        now = self._db.clock()
        query = (
            select(tokens)
            .join_from(token_sessions, tokens)
            .where(token_sessions.c.sha256 == _digest(secret), token_sessions.c.expires_at > now)
        )
        with self._db.read() as conn:
            row = conn.execute(query).one_or_none()
        return None if row is None else _token(row)

    def close_session(self, secret: str) -> None:
        """End a session, if it is one."""
        with self._db.write() as conn:
            conn.execute(delete(token_sessions).where(token_sessions.c.sha256 == _digest(secret)))

    def are_needed(self) -> bool:
        """Whether callers must say who they are: a token or a user was once made, and :meth:`open_door` not called."""
        with self._db.read() as conn:
            return bool(conn.execute(_ARE_NEEDED).scalar_one())

    def open_door(self) -> None:
        """Let whoever is on this machine do everything again. Raises Usage while there is a token or a user."""
        with self._db.write() as conn:
            if conn.execute(_IS_ANYBODY).scalar_one():
                raise Usage("there are tokens or users: revoke and remove them first")
            conn.execute(delete(markers).where(markers.c.name == _CLOSED))
            record(conn, [happened("token", "*", Event.REVOKED, self._db.clock(), detail="none is needed any more")])

    def check(self, host: str, *, is_open_to_others: bool) -> bool:
        """Whether a web role at ``host`` asks who calls. Raises BadEnvironment where it must and knows nobody."""
        needed = self.are_needed()
        if is_open_to_others and not needed:
            raise BadEnvironment(
                f"web.host {host} is open to others, and there is no token and no user: make one with "
                "`chexnode tokens add NAME --scope read` or `chexnode users add NAME --role admin`"
            )
        return needed


def close_door(conn: Connection) -> None:
    """From now on callers must say who they are, also when the last token is revoked and the last user removed."""
    add_missing(conn, markers, [{"name": _CLOSED, "value": "a token or a user was made"}])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _token(row: object) -> Token:
    return Token(row.name, tuple(TokenScope(s) for s in row.scopes), row.created_at, row.expires_at)  # type: ignore[attr-defined]
