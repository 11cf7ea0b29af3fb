"""The service put together: its routes under ``/dicom-web``, and what it says of itself."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from chexnode.audit.trail import Trail
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.states import Scope
from chexnode.receive.storage import StorageService
from chexnode.settings import Settings
from chexnode.spool import Spool
from chexnode.web.auth import require
from chexnode.web.dicomweb import frames, metadata, qido, rendered, retrieve, stow
from chexnode.web.dicomweb.places import ROOT
from chexnode.web.dicomweb.shelf import Shelf


def router(settings: Settings, ledger: Ledger, storage: StorageService | None, trail: Trail) -> APIRouter:
    """The routes; without ``storage`` nothing can be stored."""
    shelf = Shelf(ledger.objects, Spool(settings.node.data_dir), settings.limits)
    service = APIRouter(prefix=ROOT, tags=["dicomweb"])
    reading = [Depends(require(Scope.READ))]
    for routes in (
        qido.routes(ledger.objects),
        retrieve.routes(shelf),
        metadata.routes(shelf),
        frames.routes(shelf),
        rendered.routes(shelf),
    ):
        service.include_router(routes, dependencies=reading)
    if storage is not None:
        service.include_router(stow.routes(storage, trail), dependencies=[Depends(require(Scope.STORE))])
    return service
