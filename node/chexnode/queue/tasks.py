"""The two tasks. Each says only "look": what there is to do stands in the ledger."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from celery import Celery
from celery.worker import state

from chexnode.queue.broker import DELIVER, INFER, TASKS

log = logging.getLogger(__name__)


def register(app: Celery, infer: Callable[[], None], deliver: Callable[[str], None]) -> None:
    """Give ``app`` its tasks."""

    def look_for_jobs() -> None:
        infer()

    def look_for_deliveries(destination: str) -> None:
        deliver(destination)

    app.task(name=TASKS[INFER], shared=False)(look_for_jobs)
    app.task(name=TASKS[DELIVER], shared=False)(look_for_deliveries)


def consume(
    app: Celery, queues: Sequence[str], threads: int, stopping: threading.Event, on_signal: Callable[[], None]
) -> None:
    """Consume ``queues`` until SIGTERM or SIGINT; ``stopping`` is set when that comes, so that tasks can end.

    ``on_signal`` is called at each of them.

    Celery's own handlers are left out: they write past the log, drop what is held at the first Ctrl-C, and start the
    process anew at SIGHUP.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        on_signal()
        stopping.set()
        state.should_stop = 0

    class Worker(app.Worker):  # type: ignore[misc]
        def install_platform_tweaks(self, worker: object) -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)

    worker = Worker(
        pool="threads",
        concurrency=threads,
        queues=[f"chexnode.{name}" for name in queues],
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    try:
        worker.start()
    finally:
        stopping.set()
