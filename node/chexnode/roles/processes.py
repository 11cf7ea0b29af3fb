"""The three roles, each one process: open what it needs, run until told to stop, close in order."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from chexnode.node import BEAT_SECONDS, Duty, Node
from chexnode.roles.ending import Ending
from chexnode.settings.tree import Settings
from chexnode.spool.identity import keep_private
from chexnode.vocabulary.errors import BadEnvironment, Transient

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def run_receiver(settings: Settings, supervised: bool = False) -> None:
    """Accept images until SIGTERM or SIGINT."""
    from chexnode.receive.receiver import Receiver

    with _ending("receiver") as ending, _place(settings, supervised), Node.open(settings, "receiver") as node:
        receiver = Receiver(node)
        receiver.start()
        us = settings.node
        for port, how in ((receiver.port, "without TLS"), (receiver.tls_port, "with TLS")):
            if port is not None:
                log.info("receiving as %s on %s:%d %s", us.ae_title, us.host, port, how)
        ending.works_until(node.stopping)
        while not node.stopping.is_set():
            try:
                node.report_alive(Duty.RECEIVE)
            except Transient as error:
                log.warning("%s", error)
            node.stopping.wait(BEAT_SECONDS)
        receiver.stop()


def run_web(settings: Settings, supervised: bool = False) -> None:
    """Serve HTTP until SIGTERM or SIGINT."""
    from chexnode.alarms.hooks import Hooks
    from chexnode.alarms.watch import Watch
    from chexnode.receive.storage import StorageService
    from chexnode.web.app import create_app
    from chexnode.web.server import Server

    with _ending("web") as ending, _place(settings, supervised), Node.open(settings, "web") as node:
        storage = StorageService(node)
        server = Server(create_app(node, storage), settings, ending.begin)
        # When the server has ended it raises the signal that ended it again: we close in order by then.
        ending.works_until(node.stopping)
        with storage, Watch(node), Hooks(node):
            log.info("web: %s://%s:%d", "https" if settings.tls.web else "http", settings.web.host, server.port)
            server.serve_until_stopped()


def run_worker(settings: Settings, supervised: bool = False) -> None:
    """Analyse and deliver until SIGTERM or SIGINT."""
    from chexnode.keep.housekeeping import Housekeeper
    from chexnode.queue.app import make_app
    from chexnode.queue.tasks import consume, register
    from chexnode.work.rejecting import read_notes
    from chexnode.work.reporter import Reporter
    from chexnode.work.shift import Shift

    with (
        _ending("worker") as ending,
        _place(settings, supervised),
        Node.open(settings, "worker") as node,
        Shift(node) as shift,
    ):
        shift.tick_with(Housekeeper(node, Reporter(node).report, partial(read_notes, node)).tick)
        app = make_app(settings.broker.url, settings.node.data_dir)
        register(app, shift.infer, shift.deliver)
        log.info("working on %s as %s", ", ".join(settings.worker.queues), node.owner)
        ending.works_until(node.stopping, shift.give_back)
        consume(app, settings.worker.queues, shift.threads, node.stopping, ending.begin)


@contextmanager
def _ending(role: str) -> Iterator[Ending]:
    ending = Ending(role)
    yield ending
    ending.finish()


@contextmanager
def _place(settings: Settings, supervised: bool) -> Iterator[None]:
    """Hold the place on ``data_dir``: under ``up`` its lock covers us, otherwise share one that keeps ``up`` away."""
    if supervised:
        die_with_parent()
        yield
        return
    with lock(settings.node.data_dir, exclusive=False):
        yield


@contextmanager
def lock(data_dir: Path, exclusive: bool) -> Iterator[None]:
    """Lock ``data_dir``: ``up`` alone, or any number of single roles. Raises BadEnvironment if another is there."""
    try:
        keep_private(data_dir)
        file = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BadEnvironment(f"cannot use data_dir {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        other = "another ChexNode process works" if exclusive else "`chexnode up` runs"
        raise BadEnvironment(f"{other} on {data_dir}") from None
    try:
        yield
    finally:
        os.close(file)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the supervisor dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == 1:
        raise BadEnvironment("the supervisor is gone")
