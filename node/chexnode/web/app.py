"""The web role's application: health, metrics and the JSON interface, on loopback."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from chexnode.errors import Transient, Usage
from chexnode.ledger.ledger import Ledger
from chexnode.settings import Settings
from chexnode.web import api, health, metrics


def create_app(settings: Settings, ledger: Ledger) -> FastAPI:
    """The application. Raises BadEnvironment if ``data_dir`` is not the one the ledger knows."""
    app = FastAPI(
        title="ChexNode",
        version=version("chexnode"),
        openapi_url="/api/openapi.json",
        docs_url=None,  # its scripts come from elsewhere on the Internet
        redoc_url=None,
    )
    # A page of a stranger's, in a browser on this machine, could otherwise reach us under a name of its own choice.
    app.add_middleware(
        TrustedHostMiddleware,
        allowed_hosts=["localhost", "127.0.0.1", "::1", "[::1]", settings.web.host],
        www_redirect=False,
    )
    app.include_router(health.router(settings, ledger))
    app.include_router(metrics.router(settings, ledger))
    app.include_router(api.router(ledger))
    app.add_exception_handler(Usage, _bad_request)
    app.add_exception_handler(Transient, _not_now)
    return app


def _bad_request(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 400)


def _not_now(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, headers={"Retry-After": "5"})
