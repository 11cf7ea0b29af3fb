"""The broker is a doorbell: which transport a URL means, the two queues, and how a ring is written.

Without Celery, so that the receiver can ring: kombu publishes what Celery's task message protocol 2 asks for
(https://docs.celeryq.dev/en/stable/internals/protocol.html).
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from kombu import Connection, Exchange, Producer, Queue
from kombu.transport import filesystem, virtual
from kombu.utils.json import dumps

EMBEDDED = "embedded"
INFER = "infer"
DELIVER = "deliver"
_EXCHANGE = Exchange("chexnode", type="direct", durable=True)
QUEUES = {name: Queue(f"chexnode.{name}", _EXCHANGE, routing_key=name, durable=True) for name in (INFER, DELIVER)}
TASKS = {INFER: "chexnode.infer", DELIVER: "chexnode.deliver"}

MOST_RINGS = 64
"""A queue that holds this many rings needs no more: a worker that wakes up looks for everything there is."""


class EmbeddedChannel(filesystem.Channel):  # type: ignore[misc]
    """kombu's filesystem channel, whose messages appear whole, and which a full disk leaves as it was.

    The original opens a message under its final name and then writes it: a reader that comes in between gets an empty
    message, and that ends a Celery worker. So does a table of bindings that a full disk or a kill left empty.
    """

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        folder = Path(self.data_folder_in)
        token = uuid.uuid4()
        part = folder / f".{token}.part"
        try:
            part.write_text(dumps(payload))
            os.replace(part, folder / f"{time.time_ns() // 1_000_000}_{token}.{queue}.msg")
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def _queue_bind(self, exchange: str, *args: Any) -> None:
        table = Path(self.control_folder) / f"{exchange}.exchange"
        with suppress(FileNotFoundError):
            if not table.stat().st_size:
                table.unlink()
        super()._queue_bind(exchange, *args)


class EmbeddedTransport(filesystem.Transport):  # type: ignore[misc]
    """Named by its import path in :func:`connection_options`.

    Each connection remembers its own bindings: the original remembers them for the whole process, whatever folder they
    were made in, and then sends messages nowhere.
    """

    Channel = EmbeddedChannel

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.state = virtual.BrokerState()


def connection_options(url: str, data_dir: Path) -> dict[str, Any]:
    """What ``kombu.Connection`` and Celery need for ``[broker] url``; makes the embedded broker's folders."""
    if url != EMBEDDED:
        return {"url": url, "transport": None, "options": {}}
    messages, control = data_dir / "broker" / "messages", data_dir / "broker" / "control"
    messages.mkdir(parents=True, exist_ok=True)
    control.mkdir(parents=True, exist_ok=True)
    return {
        "url": "filesystem://localhost/",
        "transport": f"{__name__}:EmbeddedTransport",
        "options": {
            "data_folder_in": str(messages),
            "data_folder_out": str(messages),
            "control_folder": str(control),
            "polling_interval": 0.02,
        },
    }


def connect(url: str, data_dir: Path, timeout: float = 3.0) -> Connection:
    """A lazy connection to the broker."""
    made = connection_options(url, data_dir)
    options = dict(made["options"])
    if made["url"].startswith("redis"):
        options |= {"socket_connect_timeout": timeout, "socket_timeout": timeout}
    return Connection(
        made["url"],
        transport=made["transport"],
        transport_options=options,
        connect_timeout=timeout,
    )


def publish(connection: Connection, queue: str, argument: str | None = None) -> bool:
    """Ring ``queue`` once; False if it is ringing loudly enough already. Raises what the transport raises."""
    bound = QUEUES[queue](connection.default_channel)
    bound.exchange(connection.default_channel).declare()
    waiting = bound.queue_declare().message_count
    bound.queue_bind()
    if waiting >= MOST_RINGS:
        return False
    task_id = str(uuid.uuid4())
    args = [] if argument is None else [argument]
    Producer(connection.default_channel).publish(
        [args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
        serializer="json",
        exchange=_EXCHANGE,
        routing_key=queue,
        correlation_id=task_id,
        delivery_mode="transient",
        headers={
            "lang": "py",
            "task": TASKS[queue],
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "argsrepr": repr(args),
            "kwargsrepr": "{}",
            "origin": "chexnode",
        },
    )
    return True
