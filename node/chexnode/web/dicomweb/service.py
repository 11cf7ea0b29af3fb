"""The service put together: its routes under ``/dicom-web``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute

from chexnode.ledger.ledger import Ledger
from chexnode.receive.storage import StorageService
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.scopes import Scope
from chexnode.web.auth import require
from chexnode.web.dicomweb import bulk, capabilities, frames, metadata, qido, rendered, retrieve, stow
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.places import ROOT
from chexnode.web.dicomweb.shelf import Shelf


def router(settings: Settings, ledger: Ledger, storage: StorageService | None) -> APIRouter:
    """The routes; without ``storage`` nothing can be stored."""
    decoder = Decoder(settings.limits)
    shelf = Shelf(ledger.objects, Spool(settings.node.data_dir), settings.limits)
    reading = [
        qido.routes(ledger.objects),
        retrieve.routes(shelf, decoder),
        metadata.routes(shelf),
        frames.routes(shelf, decoder),
        bulk.routes(shelf, decoder),
        rendered.routes(shelf, decoder),
    ]
    storing = [stow.routes(storage)] if storage is not None else []
    service = APIRouter(tags=["dicomweb"], lifespan=lambda _: _open(decoder))
    for scope, routers in ((Scope.READ, reading), (Scope.STORE, storing)):
        for routes in routers:
            service.include_router(routes, prefix=ROOT, dependencies=[Depends(require(scope))])
    offered = [route for routes in (*reading, *storing) for route in routes.routes if isinstance(route, APIRoute)]
    service.include_router(capabilities.routes(offered, ROOT))
    return service


@asynccontextmanager
async def _open(decoder: Decoder) -> AsyncIterator[None]:
    """Ready while the application runs."""
    with decoder:
        yield
