"""People who sign in to the console, and the browsers that they are signed in with.

People choose passwords that can be guessed, so those are kept as argon2id hashes (RFC 9106); a session's secret is 256
random bits, of which a SHA-256 is enough.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from chexnode.ledger.database import Database, add_rows
from chexnode.ledger.moves import happened, record
from chexnode.ledger.schema import sessions, users
from chexnode.ledger.tokens import close_door
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.events import Event
from chexnode.vocabulary.roles import Role

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024

SESSION = timedelta(hours=12)
"""A session ends this long after its beginning: a working day."""
IDLE = timedelta(hours=1)
"""A session ends when nothing was asked in it for this long."""
_SEEN_EVERY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class User:
    """One person."""

    name: str
    role: Role
    created_at: datetime


class Users:
    """Add, change, remove, and recognise by password or session."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, name: str, role: Role, password: str) -> User:
        """Add somebody. Raises Usage if the name is taken or the password too short."""
        _check(password)
        now = self._db.clock()
        row = {"name": name, "role": role, "password_hash": _hasher().hash(password), "created_at": now}
        try:
            with self._db.write() as conn:
                add_rows(conn, users, [row])
                close_door(conn)
                record(conn, [happened("user", name, Event.ADDED, now, detail=role)])
        except IntegrityError as error:
            raise Usage(f"there is a user {name!r} already") from error
        return User(name, role, now)

    def enter(self, name: str, subject: str, role: Role) -> User:
        """The person whom an identity provider calls ``subject``, with the role that they have by now.

        They keep the name that they came with first. Raises Usage where somebody else has it.
        """
        now = self._db.clock()
        with self._db.write() as conn:
            row = conn.execute(select(users).where(users.c.subject == subject)).one_or_none()
            if row is not None:
                if row.role != role:
                    conn.execute(update(users).where(users.c.name == row.name).values(role=role))
                    record(conn, [happened("user", row.name, Event.CHANGED, now, detail="role, by OpenID Connect")])
                return User(row.name, role, row.created_at)
            if conn.execute(select(users.c.name).where(users.c.name == name)).first() is not None:
                raise Usage(f"there is another user {name!r} already")
            fresh = {"name": name, "role": role, "password_hash": "", "subject": subject, "created_at": now}
            add_rows(conn, users, [fresh])
            close_door(conn)
            record(conn, [happened("user", name, Event.ADDED, now, detail=f"{role}, by OpenID Connect")])
        return User(name, role, now)

    def change(self, name: str, role: Role | None = None, password: str | None = None) -> None:
        """Give somebody another role or password, and end their sessions. Raises Usage if there is no such user."""
        facts: dict[str, str] = {}
        if role is not None:
            facts["role"] = role
        if password is not None:
            _check(password)
            facts["password_hash"] = _hasher().hash(password)
        with self._db.write() as conn:
            local = select(users.c.subject).where(users.c.name == name)
            if password is not None and conn.execute(local).scalar_one_or_none() is not None:
                raise Usage(f"{name!r} signs in with the identity provider and has no password here")
            if not facts or conn.execute(update(users).where(users.c.name == name).values(**facts)).rowcount != 1:
                raise Usage(f"there is no user {name!r}" if facts else "neither a role nor a password is given")
            conn.execute(delete(sessions).where(sessions.c.user_name == name))
            record(conn, [happened("user", name, Event.CHANGED, self._db.clock(), detail=" ".join(sorted(facts)))])

    def remove(self, name: str) -> None:
        """Remove somebody and end their sessions. Raises Usage if there is no such user."""
        with self._db.write() as conn:
            conn.execute(delete(sessions).where(sessions.c.user_name == name))
            if conn.execute(delete(users).where(users.c.name == name)).rowcount != 1:
                raise Usage(f"there is no user {name!r}")
            record(conn, [happened("user", name, Event.REVOKED, self._db.clock())])

    def list(self) -> list[User]:
        """All of them, by name."""
        query = select(users.c.name, users.c.role, users.c.created_at).order_by(users.c.name)
        with self._db.read() as conn:
            return [User(row.name, Role(row.role), row.created_at) for row in conn.execute(query)]

    def exist(self) -> bool:
        """Whether there is any user."""
        with self._db.read() as conn:
            return conn.execute(select(users.c.name).limit(1)).first() is not None

    def have_passwords(self) -> bool:
        """Whether any user signs in with a password."""
        with self._db.read() as conn:
            return conn.execute(select(users.c.name).where(users.c.subject.is_(None)).limit(1)).first() is not None

    def recognise(self, name: str, password: str) -> User | None:
        """The user with this password; None, after the same time, if there is none."""
        with self._db.read() as conn:
            row = conn.execute(select(users).where(users.c.name == name)).one_or_none()
        try:
            _hasher().verify(row.password_hash if row is not None else _nobodys_hash(), password[:LONGEST_PASSWORD])
        except (VerificationError, InvalidHashError):
            return None
        return None if row is None else User(row.name, Role(row.role), row.created_at)

    def open_session(self, user: User) -> str:
        """Begin a session; return its secret, which only the browser keeps. Those that have ended are forgotten."""
        secret, now = secrets.token_urlsafe(32), self._db.clock()
        row = {
            "sha256": _digest(secret),
            "user_name": user.name,
            "created_at": now,
            "seen_at": now,
            "expires_at": now + SESSION,
        }
        with self._db.write() as conn:
            conn.execute(delete(sessions).where((sessions.c.expires_at < now) | (sessions.c.seen_at < now - IDLE)))
            add_rows(conn, sessions, [row])
        return secret

    def of_session(self, secret: str, *, is_active: bool = True) -> User | None:
        """Whose session this is; None where it has ended.

        ``is_active``: somebody did something, and did not only leave a page open that asks by itself.
        """
        now, digest = self._db.clock(), _digest(secret)
        query = (
            select(users, sessions.c.seen_at)
            .join_from(sessions, users)
            .where(sessions.c.sha256 == digest, sessions.c.expires_at > now, sessions.c.seen_at > now - IDLE)
        )
        with self._db.read() as conn:
            row = conn.execute(query).one_or_none()
        if row is None:
            return None
        if is_active and row.seen_at < now - _SEEN_EVERY:
            with self._db.write() as conn:
                conn.execute(update(sessions).where(sessions.c.sha256 == digest).values(seen_at=now))
        return User(row.name, Role(row.role), row.created_at)

    def close_session(self, secret: str) -> None:
        """End a session, if it is one."""
        with self._db.write() as conn:
            conn.execute(delete(sessions).where(sessions.c.sha256 == _digest(secret)))


def _check(password: str) -> None:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise Usage(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher()  # RFC 9106's second choice: argon2id, 64 MiB


@cache
def _nobodys_hash() -> str:
    """Something to verify against where there is no such user: the time taken says nothing about who exists."""
    return _hasher().hash(secrets.token_urlsafe(16))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
