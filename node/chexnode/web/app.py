"""The web role's application: health, metrics, the JSON interface and the pages, and what stands before all of them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from chexnode.node import Node
from chexnode.receive.storage import StorageService
from chexnode.settings.base import is_loopback
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import Transient, Usage
from chexnode.web import actions, api, destinations, health, metrics, operations
from chexnode.web.access import Audited
from chexnode.web.auth import Doorkeeper
from chexnode.web.console import service as console
from chexnode.web.console.visitor import Turned
from chexnode.web.dicomweb import service
from chexnode.web.dicomweb.routes import ROOT
from chexnode.web.dry_run import DryRuns
from chexnode.web.middleware import BehindProxy, Head, KnownHosts, Limits, NoControls, PlainPaths, SecurityHeaders
from chexnode.web.viewer import service as viewer


def create_app(node: Node, storage: StorageService | None = None) -> FastAPI:
    """The application; without ``storage``, which is the caller's to start and stop, DICOMweb stores nothing.

    Raises BadEnvironment if ``data_dir`` is not the one the ledger knows, or the address needs a token and none exists.
    """
    settings, ledger, trail = node.settings, node.ledger, node.trail
    app = FastAPI(
        title="ChexNode",
        version=version("chexnode"),
        openapi_url="/api/openapi.json",
        docs_url=None,  # its scripts come from elsewhere on the Internet
        redoc_url=None,
    )
    app.state.doorkeeper = Doorkeeper(settings, ledger, trail)
    if trail.on:
        app.add_middleware(Audited, trail=trail)
    _protect(app, settings)
    app.include_router(health.router(node))
    app.include_router(metrics.router(node))
    acts, dry_runs = actions.Acts(node), DryRuns(node)
    app.include_router(api.router(ledger))
    app.include_router(operations.router(node, acts))
    app.include_router(actions.router(node, acts, dry_runs))
    app.include_router(destinations.router(node))
    app.include_router(service.router(node, storage))
    app.include_router(viewer.router(settings))
    pages, turned = console.router(node, acts, dry_runs)
    app.include_router(pages)
    app.add_exception_handler(Turned, turned)
    app.add_exception_handler(405, _method_not_allowed)
    app.add_exception_handler(Usage, _bad_request)
    app.add_exception_handler(Transient, _not_now)
    app.add_exception_handler(RequestValidationError, _unreadable)
    return app


def _protect(app: FastAPI, settings: Settings) -> None:
    """Add what looks at every request, before any route: the last one added looks first."""
    web = settings.web
    app.add_middleware(Head)
    app.add_middleware(PlainPaths, root=ROOT)
    app.add_middleware(NoControls)
    if is_loopback(web.host) or web.names:
        app.add_middleware(KnownHosts, names=["localhost", "127.0.0.1", "::1", "[::1]", web.host, *web.names])
    if web.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=web.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type", "Accept", "Range", "If-Match", "If-None-Match", "If-Range"],
            expose_headers=["Content-Location", "Content-Range", "ETag", "Retry-After", "Warning", "WWW-Authenticate"],
        )
    app.add_middleware(Limits, settings=web)
    app.add_middleware(SecurityHeaders, https=settings.tls.web)
    if web.proxies:
        app.add_middleware(BehindProxy, proxies=web.proxies)


async def _method_not_allowed(request: Request, error: Exception) -> Response:
    """405 with all methods that the resource takes (RFC 9110 section 15.5.6); OPTIONS is answered by them alone."""
    methods = {
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    allow = {"Allow": ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))}
    if request.method == "OPTIONS" and request.url.path.startswith(ROOT):
        return Response(None, 204, allow)
    return JSONResponse({"detail": "this resource does not take that method"}, 405, allow)


def _bad_request(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 400)


async def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if request.url.path.startswith(ROOT):  # PS3.18 section 8.5 knows no 422
        return JSONResponse({"detail": "a UID of the path is none"}, 400)
    return await request_validation_exception_handler(request, error)


def _not_now(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, headers={"Retry-After": "5"})
