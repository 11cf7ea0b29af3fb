"""The routes under ``/console``, put together, and the way there from ``/``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from chexnode.node import Node
from chexnode.vocabulary.errors import BadEnvironment
from chexnode.web.actions import Acts
from chexnode.web.console import (
    about,
    audit,
    deliveries,
    documents,
    image,
    images,
    overview,
    quality,
    sign_in,
    trial,
)
from chexnode.web.console.pages import ROOT, Pages
from chexnode.web.console.snapshot import Snapshots
from chexnode.web.dry_run import DryRuns
from chexnode.web.viewer.files import answer, listed

_STATIC = Path(__file__).with_name("static")


def router(node: Node, acts: Acts, dry_runs: DryRuns) -> tuple[APIRouter, Callable[[Request, Exception], Response]]:
    """The routes, and what answers a request that :class:`~chexnode.web.console.visitor.Turned` turns away."""
    pages, snapshots = Pages(), Snapshots(node)
    routes = APIRouter(include_in_schema=False)
    files = listed(_STATIC)

    @routes.get("/")
    def root(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}{ROOT}", 303)

    @routes.get(f"{ROOT}/static/{{name}}")
    def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return answer(request, files[name], version("chexnode"), {})

    for part in (
        overview.router(node, pages, snapshots),
        images.router(node, pages),
        image.router(node, pages, snapshots, acts),
        deliveries.router(node, pages, snapshots, acts),
        trial.router(node, pages, dry_runs),
        about.router(node, pages),
        quality.router(node, pages),
        documents.router(node, pages),
        audit.router(node, pages),
        sign_in.router(node, pages),
    ):
        routes.include_router(part, prefix=ROOT)
    if node.settings.oidc.issuer:
        if find_spec("authlib") is None:
            raise BadEnvironment("oidc.issuer needs Authlib: pip install 'chexnode[oidc]'")
        from chexnode.web.console import oidc

        routes.include_router(oidc.router(node), prefix=ROOT)
    return routes, pages.turned
