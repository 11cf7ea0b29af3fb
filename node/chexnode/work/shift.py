"""One worker process at work: its analysing and its delivering side, woken by rings and by a tick of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

from chexnode.deliver.commitments import report_due
from chexnode.deliver.courier import Courier
from chexnode.keep.housekeeping import TICK_SECONDS
from chexnode.node import Duty, Node
from chexnode.vocabulary.errors import BadEnvironment, NodeError
from chexnode.vocabulary.purposes import Urgency
from chexnode.work.pipeline import open_pipeline
from chexnode.work.worker import Worker, most_urgency

log = logging.getLogger(__name__)


class Shift:
    """Open the model and the sandbox where this worker infers; close everything on exit.

    The tick looks for due work whether or not anybody rang: the broker may be down for as long as it likes.
    """

    def __init__(self, node: Node) -> None:
        settings = node.settings
        self._node, self._stopping = node, node.stopping
        self._worker: Worker | None = None
        self._shadows: list[Worker] = []
        self._courier: Courier | None = None
        self._opened = ExitStack()
        self._ticker: threading.Thread | None = None
        if "infer" in settings.worker.queues:
            pipeline = self._opened.enter_context(open_pipeline(settings, node.spec))
            self._worker = Worker(node, pipeline)
            self._open_shadows()
        if "deliver" in settings.worker.queues:
            self._courier = Courier(node)
        self.threads = 1 + sum(d.max_associations for d in settings.destination)
        """Celery threads: one that infers and one for each association."""
        self._own = ThreadPoolExecutor(self.threads + 1, "tick")  # one more for reports of commitment
        self._reporting = threading.Lock()

    def _open_shadows(self) -> None:
        """A worker for each model on trial, and none for one that cannot be loaded: its jobs wait."""
        for shadow in self._node.shadows:
            try:
                opened = open_pipeline(self._node.settings, shadow.spec, shadow.settings)
                pipeline = self._opened.enter_context(opened)
            except BadEnvironment as error:
                log.error("the model %s is not tried: %s", shadow.settings.name, error)
            else:
                self._shadows.append(Worker(self._node, pipeline, shadow.spec, self._is_awaited))

    def _is_awaited(self) -> bool:
        """Whether there are images for the model that delivers, and no other is to be at work."""
        return self._node.ledger.jobs.due(self._node.spec, Urgency.ROUTINE) > 0

    def _has_work(self) -> bool:
        jobs, most = self._node.ledger.jobs, most_urgency(self._node)
        return any(jobs.due(spec, most) for spec in self._node.offered.values())

    def infer(self) -> None:
        """Look for jobs, those of models on trial last. Raises nothing: whoever rang has nothing to do with what
        fails."""
        if self._worker is not None:
            self._logged(self._worker.look)
            for shadow in self._shadows:
                self._logged(shadow.look)

    def deliver(self, destination: str) -> None:
        """Look for deliveries to ``destination``. Raises nothing."""
        if self._courier is not None:
            self._logged(partial(self._courier.deliver, destination))

    def _report_commitments(self) -> None:
        """One at a time: peers that do not answer must not take the threads that deliver."""
        if self._reporting.acquire(blocking=False):
            try:
                report_due(self._node)
            finally:
                self._reporting.release()

    def tick_with(self, keep_house: Callable[[], None]) -> None:
        """Start ticking: keep house and look for what nobody rang for."""
        self._ticker = threading.Thread(target=self._tick, args=(keep_house,), name="tick", daemon=True)
        self._ticker.start()

    def _tick(self, keep_house: Callable[[], None]) -> None:
        while True:
            self._logged(keep_house)  # whatever it ends with, what is due is looked for
            try:
                if self._worker is not None:
                    self._node.report_alive(Duty.INFER)
                    self._node.report_worker(self._worker.device)
                if self._courier is not None:
                    self._node.report_alive(Duty.DELIVER)
                if self._worker is not None and self._has_work():
                    self._own.submit(self.infer)
                if self._courier is not None:
                    if any(peer.port is not None for peer in self._node.settings.peer):
                        self._own.submit(self._logged, self._report_commitments)
                    for destination in self._node.ledger.deliveries.due():
                        self._own.submit(self.deliver, destination)
            except NodeError as error:
                log.warning("tick: %s", error)
            except Exception:
                if not self._stopping.is_set():  # the pool is closed then
                    log.exception("tick")
            if self._stopping.wait(TICK_SECONDS):
                return

    def _logged(self, action: Callable[[], object]) -> None:
        try:
            action()
        except NodeError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("housekeeping or a look for work failed")

    def give_back(self) -> None:
        """Put jobs that are held back into the queue: the process ends before they do."""
        for worker in self._workers():
            worker.give_back()

    def _workers(self) -> list[Worker]:
        return self._shadows if self._worker is None else [self._worker, *self._shadows]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._ticker is not None:
            self._ticker.join()
        self._own.shutdown()
        for worker in self._workers():
            worker.close()
        self._opened.close()
