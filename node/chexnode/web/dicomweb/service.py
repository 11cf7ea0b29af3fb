"""The service put together: its routes under ``/dicom-web``."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute

from chexnode.audit.trail import Trail
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.states import Scope
from chexnode.receive.storage import StorageService
from chexnode.settings import Settings
from chexnode.spool import Spool
from chexnode.web.auth import require
from chexnode.web.dicomweb import capabilities, frames, metadata, qido, rendered, retrieve, stow
from chexnode.web.dicomweb.places import ROOT
from chexnode.web.dicomweb.shelf import Shelf


def router(settings: Settings, ledger: Ledger, storage: StorageService | None, trail: Trail) -> APIRouter:
    """The routes; without ``storage`` nothing can be stored."""
    shelf = Shelf(ledger.objects, Spool(settings.node.data_dir), settings.limits)
    reading = [
        qido.routes(ledger.objects),
        retrieve.routes(shelf),
        metadata.routes(shelf),
        frames.routes(shelf),
        rendered.routes(shelf),
    ]
    storing = [stow.routes(storage, trail)] if storage is not None else []
    service = APIRouter(tags=["dicomweb"])
    for scope, routers in ((Scope.READ, reading), (Scope.STORE, storing)):
        for routes in routers:
            service.include_router(routes, prefix=ROOT, dependencies=[Depends(require(scope))])
    offered = [route for routes in (*reading, *storing) for route in routes.routes if isinstance(route, APIRoute)]
    service.include_router(capabilities.routes(offered, ROOT))
    return service
