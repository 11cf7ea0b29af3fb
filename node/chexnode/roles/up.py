"""``chexnode up``: the whole node on one machine, as child processes that are restarted when they die."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from chexnode.ledger.database import Database
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.migrate import upgrade
from chexnode.node import job_spec
from chexnode.roles.ending import STOP_SECONDS
from chexnode.roles.processes import lock
from chexnode.settings.base import is_loopback
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import BadEnvironment

log = logging.getLogger(__name__)

ROLES = ("receive", "worker", "web")
_KILL_SECONDS = STOP_SECONDS + 3.0
"""When a role that has not ended by itself is killed."""
_STEADY_SECONDS = 30.0
_LONGEST_PAUSE = 10.0


@dataclass
class _Child:
    """One role's process and its record of dying."""

    command: list[str]
    role: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    not_before: float = field(default=0.0)


def run(settings: Settings, config: Path | None, log_level: str, json_logs: bool) -> None:
    """Migrate, release what a crash left behind, start the roles, and keep them running until SIGTERM or SIGINT."""
    stop = _Stop()
    with lock(settings.node.data_dir, exclusive=True):
        spec = job_spec(settings)  # a wrong model is told here, once, and not by three roles in turn
        _look_at_ports(settings)
        _prepare(settings)
        _introduce(settings, spec.model)
        before = [sys.executable, "-m", "chexnode.cli", "--log-level", log_level]
        before += ["--config", str(config)] if config is not None else []
        after = ["--supervised", *(["--json"] if json_logs else [])]
        children = [_Child([*before, role, *after], role) for role in ROLES]
        try:
            while not stop.asked:
                for child in children:
                    _keep_alive(child)
                time.sleep(0.2)
        finally:
            log.info("asked to end")
            _stop_all(children)
            log.info("ended")


class _Stop:
    """Set by the first SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def _look_at_ports(settings: Settings) -> None:
    """Raise BadEnvironment if somebody has a port of ours: said here, once, and not by a role again and again."""
    node, tls, web = settings.node, settings.tls, settings.web
    wanted = [("node.port", node.host, node.port)] if tls.plain else []
    wanted += [("tls.port", node.host, tls.port)] if tls.port is not None else []
    for key, host, port in [*wanted, ("web.port", web.host, web.port)]:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
        except OSError as error:
            why = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
            raise BadEnvironment(f"cannot listen on {host}:{port} ({key}): {why}") from error


def _prepare(settings: Settings) -> None:
    """The lock says that nobody else is alive on this node: every lease may go."""
    database = Database(settings.database.url)
    before, now = upgrade(database)
    database.close()
    if before != now:
        log.info("database schema raised from %s to %s", before or "nothing", now)
    ledger = Ledger(settings.database.url)
    # Reported here, once, and not by a role that starts again and again.
    ledger.tokens.check(settings.web.host, is_open_to_others=not is_loopback(settings.web.host))
    expired = ledger.jobs.expire(settings.worker.max_crashes, everything=True)
    ledger.leases.clear()
    ledger.deliveries.release_all()
    ledger.close()
    if expired:
        log.warning("%d job(s) were being analysed when the node last stopped: back in the queue", expired)


def _introduce(settings: Settings, model: str) -> None:
    """Say what somebody who starts the node wants to know."""
    node, web = settings.node, settings.web
    log.info("DICOM: %s on %s:%d; web: http://%s:%d", node.ae_title, node.host, node.port, web.host, web.port)
    log.info("model: %s; data: %s", model, node.data_dir)
    if settings.destination:
        log.info("results go to %s", ", ".join(d.name for d in settings.destination))
    else:
        log.warning("no [[destination]] in the settings: results are kept here and sent nowhere")


def _keep_alive(child: _Child) -> None:
    now = time.monotonic()
    if child.process is not None:
        code = child.process.poll()
        if code is None:
            return
        steady = now - child.started_at > _STEADY_SECONDS
        child.deaths = 1 if steady else child.deaths + 1
        pause = 0.0 if steady else min(_LONGEST_PAUSE, 0.5 * 2 ** (child.deaths - 1))
        log.error("%s ended with code %d: starting it again in %.1f s", child.role, code, pause)
        child.process, child.not_before = None, now + pause
    if now >= child.not_before:
        # A session of its own: Ctrl-C reaches us alone, and we stop the roles in order.
        child.process = subprocess.Popen(child.command, start_new_session=True)
        child.started_at = now


def _stop_all(children: list[_Child]) -> None:
    """Receiver first, so that nothing new comes in while the rest finishes."""
    for child in children:
        if child.process is not None:
            child.process.terminate()
    deadline = time.monotonic() + _KILL_SECONDS
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(max(0.05, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("%s did not stop in time and is killed; its work is taken up at the next start", child.role)
            child.process.kill()
            child.process.wait()
