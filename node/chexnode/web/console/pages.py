"""From a template and what it shows to the answer."""

from __future__ import annotations

import json
import re
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from chexnode.vocabulary.plain import plain
from chexnode.web.console.texts import Texts, preferred
from chexnode.web.console.visitor import Turned, Visitor, find

ROOT = "/console"
_HERE = Path(__file__).parent

#: No inline script or style, nothing from another host.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Vary": "Accept-Language, Cookie"}
_THEMES = ("light", "dark")


class Pages:
    """Renders. Thread safe."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= {"plain": plain, "plain_lines": plain_lines, "person": person, "setting": setting}
        self._environment.globals["version"] = version("chexnode")

    def page(
        self, request: Request, visitor: Visitor | None, name: str, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """The page ``name``."""
        html = self.html(request, visitor, f"{name}.html", **values)
        return HTMLResponse(html, status, HEADERS)

    def html(self, request: Request, visitor: Visitor | None, template: str, **values: Any) -> str:
        """A template's text."""
        words = words_of(request)
        theme = request.cookies.get("chexnode-theme", "")
        shared = {
            "t": words,
            "base": request.scope.get("root_path", "") + ROOT,
            "outside": request.scope.get("root_path", ""),
            "visitor": visitor,
            "theme": theme if theme in _THEMES else "",
            "now": datetime.now().astimezone(),
            "here": request.url.path,
        }
        return self._environment.get_template(template).render(shared | values)

    def turned(self, request: Request, error: Exception) -> Response:
        """The answer to a request that is turned away."""
        assert isinstance(error, Turned)
        if error.location is not None:
            return RedirectResponse(error.location, error.status, HEADERS)
        headers = HEADERS | ({"Retry-After": str(error.values["seconds"])} if "seconds" in error.values else {})
        sentence = words_of(request)(error.key, **error.values)
        if "text/html" not in request.headers.get("accept", ""):
            return Response(sentence, error.status, headers, "text/plain; charset=utf-8")
        visitor = find(request)
        html = self.html(request, visitor, "turned.html", sentence=sentence, status=error.status)
        return HTMLResponse(html, error.status, headers)


def words_of(request: Request) -> Texts:
    """The words of the language that the browser prefers."""
    return preferred(request.headers.get("accept-language", ""))


def plain_lines(text: str) -> str:
    """``text`` with its control, invisible and direction characters written as escapes; lines stay lines."""
    return "\n".join(map(plain, text.splitlines()))


def setting(value: object) -> str:
    """A setting's value, as JSON."""
    return plain(json.dumps(value, ensure_ascii=False, default=str))


def person(name: str | None) -> str:
    """A person name (PS3.5 section 6.2.1) as people write it: family name, then given names."""
    groups = [group for group in (name or "").split("=") if group.strip("^ ")]
    if not groups:
        return ""
    parts = [part.strip() for part in groups[0].split("^")]
    given = " ".join(part for part in parts[1:3] if part)
    return plain(re.sub(r"\s+", " ", ", ".join(part for part in (parts[0], given) if part)))
