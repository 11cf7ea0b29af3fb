"""The web role over a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from chexnode.ledger.ledger import Ledger
from chexnode.settings.tree import Settings
from chexnode.web.app import create_app
from support.ledgers import node_on
from support.servers import LOOPBACK, free_port, wait_for


@contextmanager
def listening(app: Any) -> Iterator[httpx.Client]:
    """Serve any ASGI application; yields a client."""
    port = free_port()
    config = uvicorn.Config(app, LOOPBACK, port, log_config=None, access_log=False, lifespan="off", proxy_headers=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive(), "the web role to start")
        # Without TLS; reading the authorities that a client would trust takes as long as a test.
        with httpx.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=30, verify=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def serving(settings: Settings, ledger: Ledger, **parts: Any) -> Iterator[httpx.Client]:
    """Serve the web role of a node with these ``parts``; yields a client."""
    with listening(create_app(node_on(ledger, settings, **parts))) as client:
        yield client
