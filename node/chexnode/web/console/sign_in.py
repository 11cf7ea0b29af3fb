"""Signing in and out."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from chexnode.audit.refusals import Cause
from chexnode.ledger.users import SESSION
from chexnode.node import Node
from chexnode.web import cookie
from chexnode.web.console.pages import HEADERS, ROOT, Pages, words_of
from chexnode.web.console.visitor import Turned, find, form_of, inside, sign_in_csrf

TRIES = 5
WINDOW_SECONDS = 300.0
_MOST = 10_000


class Tries:
    """Failed attempts to sign in, by name and by address: five within five minutes are enough. Thread safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, *keys: str) -> float:
        """Seconds until the next attempt is let through; 0: now."""
        now = self._clock()
        with self._lock:
            recent = [[at for at in self._failed.get(key, ()) if at > now - WINDOW_SECONDS] for key in keys]
        return max((some[-TRIES] + WINDOW_SECONDS - now for some in recent if len(some) >= TRIES), default=0.0)

    def fail(self, *keys: str) -> None:
        """One has failed."""
        now = self._clock()
        with self._lock:
            for key in keys:
                self._failed[key] = [*self._failed.pop(key, [])[-TRIES:], now]
            while len(self._failed) > _MOST:
                self._failed.popitem(last=False)

    def succeed(self, *keys: str) -> None:
        """One has not."""
        with self._lock:
            for key in keys:
                self._failed.pop(key, None)


def router(node: Node, pages: Pages) -> APIRouter:
    """The form, what it sends, and the way out."""
    routes = APIRouter()
    users, trail, tries = node.ledger.users, node.trail, Tries()

    def form(request: Request, to: str, status: int = 200, wrong: str = "") -> Response:
        values = {
            "csrf": sign_in_csrf(),
            "to": to,
            "wrong": wrong,
            "has_users": users.have_passwords(),
            "provider": node.settings.oidc.title,
        }
        return pages.page(request, None, "sign-in", status, **values)

    @routes.get("/sign-in")
    def sign_in_page(request: Request, to: str = "") -> Response:
        if find(request) is not None:
            return RedirectResponse(inside(request, to), 303, HEADERS)
        return form(request, to)

    @routes.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        fields = await form_of(request)
        return await run_in_threadpool(enter, request, fields)

    def enter(request: Request, fields: dict[str, str]) -> Response:
        name, password, to = fields.get("name", "")[:64], fields.get("password", ""), fields.get("to", "")
        address = request.client.host if request.client else ""
        keys = (f"name {name}", f"address {address}")
        if wait := tries.wait(*keys):
            raise Turned(429, "turned.tries", seconds=math.ceil(wait))
        tries.fail(*keys)  # counted before the slow hash: who asks a hundred times at once has tried a hundred times
        user = users.recognise(name, password)
        if user is None:
            trail.refused(address, name, "the name or the password is wrong", Cause.TOKEN)
            return form(request, to, 401, words_of(request)("sign_in.wrong"))
        tries.succeed(*keys)
        trail.signed_in(user.name, address)
        response = RedirectResponse(inside(request, to), 303, HEADERS)
        cookie.keep_session(request, response, users.open_session(user), int(SESSION.total_seconds()))
        return response

    @routes.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        await form_of(request)
        if secret := cookie.session_of(request):
            await run_in_threadpool(users.close_session, secret)
        response = RedirectResponse(f"{request.scope.get('root_path', '')}{ROOT}/sign-in", 303, HEADERS)
        cookie.forget_session(request, response)
        return response

    return routes
