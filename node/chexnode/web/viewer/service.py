"""The routes under ``/viewer``: OHIF's files, the page that all of its own addresses are, and the way in.

The files are open to everybody, as OHIF is; patient data comes from ``/dicom-web``, which asks who calls. The page asks
too, so that a browser without a token is shown where to give one rather than an empty list.
"""

from __future__ import annotations

from html import escape
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from chexnode.settings.tree import Settings
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web import cookie
from chexnode.web.auth import CHALLENGE, Doorkeeper
from chexnode.web.viewer import install
from chexnode.web.viewer.files import File, answer, listed

ROOT = "/viewer"
_PAGE = "index.html"
_PAGES = Path(__file__).with_name("pages")
_MOST_FORM = 4096

#: What decodes images and reads Segmentations writes functions as it goes (emscripten, ndarray): hence unsafe-eval.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_VIEWER = {
    "Content-Security-Policy": _POLICY,
    # Memory shared with workers is the privilege of a page that nobody else can look into.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
_FORM_POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


class Viewer:
    """What is installed, looked at anew for each request: it may come and go while the node runs."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.viewer_home
        self._folder: Path | None = None
        self._files: dict[str, File] = {}

    def files(self) -> dict[str, File] | None:
        """Its files by name; None while it is not installed."""
        folder = install.installed(self._home)
        if folder is None:
            return None
        if folder != self._folder:
            self._files, self._folder = listed(folder), folder
        return self._files


def router(settings: Settings) -> APIRouter:
    """The routes; they answer with a page that tells what to do where the viewer is not installed."""
    viewer = Viewer(settings)
    own = listed(_PAGES)
    routes = APIRouter(prefix=ROOT, include_in_schema=False)

    @routes.api_route("", methods=["GET", "HEAD"])
    def root(request: Request) -> Response:
        """The page's URLs are relative to the folder it seems to be in. So is this one."""
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{ROOT.strip('/')}/{query}", 307)

    @routes.api_route("/{path:path}", methods=["GET", "HEAD"])
    def get(request: Request, path: str) -> Response:
        """A file, or else the page: which view of the viewer a path means is for its script to say."""
        files = viewer.files()
        try:
            if path in own and path.rpartition(".")[2] in ("css", "js"):
                return answer(request, own[path], _version(), _headers_of(path))
            if files is None:
                return _form(path, "missing.html", 404)
            if path in files and path != _PAGE:
                return answer(request, files[path], install.FOLDER, _headers_of(path))
            if path != _PAGE and ("." in path.rpartition("/")[2] or ".." in path):
                raise HTTPException(404, "the viewer has no such file")
            if not _doorkeeper(request).allows(request, TokenScope.READ):
                return _form(path, "sign-in.html", 401)
            return _page(request, path, files[_PAGE])
        except FileNotFoundError:  # an update took it away at this moment
            return _form(path, "missing.html", 404)

    @routes.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        """End the browser's session."""
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise HTTPException(403, "a session is ended on this node's own page")
        await run_in_threadpool(_doorkeeper(request).sign_out, request)
        response = RedirectResponse("./", 303, {"Cache-Control": "no-store"})
        cookie.forget(request, response)
        return response

    @routes.post("/{path:path}")
    async def sign_in(request: Request, path: str) -> Response:
        """Take a token, have the browser keep it, and show the page that was asked for."""
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise HTTPException(403, "a token is given on this node's own page")
        secret = await _token_of(request)
        try:
            session = await run_in_threadpool(_doorkeeper(request).sign_in, request, secret)
        except HTTPException as refusal:
            return _form(path, "sign-in.html", refusal.status_code, str(refusal.detail))
        query = f"?{request.url.query}" if request.url.query else ""
        response = RedirectResponse(f"./{path.rpartition('/')[2]}{query}", 303, {"Cache-Control": "no-store"})
        if session is not None:
            cookie.keep(request, response, session)
        return response

    return routes


async def _token_of(request: Request) -> str:
    """The form's one field. Raises 413 and 415."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "a form is expected")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_FORM:
            raise HTTPException(413, "no token is that long")
    return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()


def _doorkeeper(request: Request) -> Doorkeeper:
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    return doorkeeper


def _version() -> str:
    return version("chexnode")


def _headers_of(name: str) -> dict[str, str]:
    """A script's own policy is for where it runs as a worker."""
    return _VIEWER if name.endswith((".js", ".mjs")) else {}


def _page(request: Request, path: str, file: File) -> Response:
    if "/" not in path:
        return answer(request, file, install.FOLDER, _VIEWER)
    html = file.path.read_bytes().replace(b'="./', f'="{_up(path)}'.encode())
    return Response(html, 200, _VIEWER | {"Cache-Control": "no-cache"}, file.media_type)


def _form(path: str, name: str, status: int, wrong: str = "") -> Response:
    """One of our own pages."""
    text = (_PAGES / name).read_text("utf-8").format(up=_up(path), wrong=escape(wrong))
    headers = {"Content-Security-Policy": _FORM_POLICY, "Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = CHALLENGE
    return HTMLResponse(text, status, headers)


def _up(path: str) -> str:
    """From a page at ``path`` to where the files are, as a relative URL."""
    return "../" * path.count("/") or "./"
