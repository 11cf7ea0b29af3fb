"""Who looks at the console, what they may do there, and the proof that a form comes from a page of ours."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from chexnode.audit.refusals import Cause
from chexnode.audit.trail import Trail
from chexnode.ledger.users import User
from chexnode.vocabulary.roles import Role
from chexnode.web import cookie
from chexnode.web.access import access
from chexnode.web.actions import Who
from chexnode.web.auth import Doorkeeper

_PROCESS_KEY = secrets.token_bytes(32)
_MOST_FORM = 65_536
_SAME = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who may look."""

    name: str
    """Empty where nobody has to say who they are."""
    role: Role
    csrf: str
    """What every form of theirs must bring."""

    def may(self, role: str) -> bool:
        """Whether they may do what ``role`` may."""
        return self.role.includes(Role(role))

    def who(self, request: Request) -> Who:
        """The visitor as the history and the audit trail name them, with the address of ``request``."""
        return Who(self.name, request.client.host if request.client else "")

    @property
    def sees_patients(self) -> bool:
        """Whether the identity of patients is for them."""
        return self.role.includes(Role.OPERATOR)

    def detail(self, text: str | None) -> str:
        """Free text about an image, which may quote what the image says; empty where that is not for them."""
        return (text or "") if self.sees_patients else ""


class Turned(Exception):
    """A request that is turned away, with the status and the key of the sentence that says why."""

    def __init__(self, status: int, key: str, location: str | None = None, **values: object) -> None:
        super().__init__(key)
        self.status, self.key, self.location, self.values = status, key, location, values


def visiting(trail: Trail, role: Role = Role.VIEWER, *, is_active: bool = True) -> Callable[[Request], Visitor]:
    """A dependency: who asks, if they have ``role``. Raises Turned to the sign-in page, or with 403."""

    def visitor(request: Request) -> Visitor:
        found = find(request, is_active=is_active)
        if found is None:
            raise _to_sign_in(request)
        access().user = found.name
        if not found.role.includes(role):
            address = request.client.host if request.client else ""
            trail.refused(address, found.name, f"the role {found.role} is not {role}", Cause.SCOPE)
            raise Turned(403, "turned.role", role=role, own=found.role)
        return found

    return visitor


def find(request: Request, *, is_active: bool = True) -> Visitor | None:
    """Who asks; None where they must sign in first."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    if doorkeeper.is_open():
        return Visitor("", Role.ADMIN, _csrf("open"))
    user: User | None = doorkeeper.person(request, is_active=is_active)
    if user is None:
        return None
    return Visitor(user.name, user.role, _csrf(cookie.session_of(request) or "", of_session=True))


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that a page of ours has sent. Raises Turned for a body that is no such form."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Turned(415, "turned.form")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_FORM:
            raise Turned(413, "turned.form")
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if any("\0" in value for value in fields.values()):
        raise Turned(400, "turned.form")
    await run_in_threadpool(check_origin, request, fields)
    return fields


def check_origin(request: Request, fields: Mapping[str, str]) -> None:
    """Raise Turned unless the request comes from a page of ours: browsers say so, and the page's secret proves it."""
    is_own = request.headers.get("sec-fetch-site", "same-origin") in _SAME
    visitor = find(request)
    wanted = visitor.csrf if visitor is not None else _csrf("sign-in")
    given = fields.get("csrf") or request.headers.get("x-csrf-token", "")
    if not is_own or not hmac.compare_digest(given.encode(), wanted.encode()):
        raise Turned(403, "turned.csrf")


def sign_in_csrf() -> str:
    """What the form to sign in must bring."""
    return _csrf("sign-in")


def _csrf(secret: str, *, of_session: bool = False) -> str:
    # A session's is the same in every process; where there is none, it is this process's own.
    key = b"csrf" if of_session else _PROCESS_KEY
    return hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()


def inside(request: Request, to: str) -> str:
    """The page that was asked for, if it is one of the console's; nobody is sent elsewhere."""
    base = str(request.scope.get("root_path", ""))
    root = f"{base}/console"
    return base + to if re.fullmatch(r"/console(/[\w./?=&%+-]*)?(\?[\w./?=&%+-]*)?", to) else root


def _to_sign_in(request: Request) -> Turned:
    base = request.scope.get("root_path", "")
    if request.method != "GET" or "text/html" not in request.headers.get("accept", "text/html"):
        return Turned(401, "turned.signed_out")
    wanted = request.url.path.removeprefix(base) + (f"?{request.url.query}" if request.url.query else "")
    return Turned(303, "turned.signed_out", f"{base}/console/sign-in?to={quote(wanted)}")
