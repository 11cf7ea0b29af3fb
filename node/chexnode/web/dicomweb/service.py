"""The service put together: its routes under ``/dicom-web``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute

from chexnode.node import Node
from chexnode.receive.storage import StorageService
from chexnode.vocabulary.scopes import TokenScope
from chexnode.web.auth import require
from chexnode.web.dicomweb import bulk_data, capabilities, frames, metadata, rendered, retrieve, search, store
from chexnode.web.dicomweb.decoder import Decoder
from chexnode.web.dicomweb.objects import ObjectStore
from chexnode.web.dicomweb.routes import ROOT


def router(node: Node, storage: StorageService | None) -> APIRouter:
    """The routes; without ``storage`` nothing can be stored."""
    decoder = Decoder(node.settings.limits)
    objects = ObjectStore(node)
    reading = [
        search.routes(node.ledger.objects),
        retrieve.routes(objects, decoder),
        metadata.routes(objects),
        frames.routes(objects, decoder),
        bulk_data.routes(objects, decoder),
        rendered.routes(objects, decoder),
    ]
    storing = [store.routes(storage)] if storage is not None else []

    @asynccontextmanager
    async def opened(_: object) -> AsyncIterator[None]:
        with decoder:
            yield

    service = APIRouter(tags=["dicomweb"], lifespan=opened)
    for scope, routers in ((TokenScope.READ, reading), (TokenScope.STORE, storing)):
        for routes in routers:
            service.include_router(routes, prefix=ROOT, dependencies=[Depends(require(scope))])
    offered = [route for routes in (*reading, *storing) for route in routes.routes if isinstance(route, APIRoute)]
    service.include_router(capabilities.routes(offered), prefix=ROOT)
    return service
