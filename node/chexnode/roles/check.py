"""The doctor: everything the node needs, looked at one by one, each within a time limit."""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian

from chexmodels import bundle
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.keys import masked
from chexnode.settings.model import ModelSettings
from chexnode.settings.tree import Settings
from chexnode.spool import identity
from chexnode.vocabulary.errors import BadEnvironment, NodeError
from chexnode.vocabulary.reports import Check

log = logging.getLogger(__name__)

LARGEST_CLOCK_DIFFERENCE = timedelta(seconds=5)
"""Leases go by the database's clock; logs and the times in results by each host's own."""

LAST_CALL = timedelta(days=14)
"""A certificate that ends sooner is a failed check: nobody stores on the day after."""


def run(settings: Settings, path: Path | None) -> list[Check]:
    """Make every check at once and return them in a fixed order; a failed one never keeps another from its answer."""
    looks: list[tuple[str, float, Callable[[], str]]] = [
        ("settings", 1, lambda: str(path or "defaults: there is no settings file")),
        ("disk", 10, lambda: disk(settings)),
        ("database", 30, lambda: database(settings)),
        ("data_dir", 30, lambda: data_dir(settings)),
        ("broker", 15, lambda: broker(settings)),
        ("model", 30, lambda: model(settings)),
        ("device", 120, lambda: device(settings)),
        ("sandbox", 90, lambda: sandbox(settings)),
    ]
    for tried in settings.shadow:
        looks.append((f"model {tried.name}", 30, lambda tried=tried: model(settings, tried)))  # type: ignore[misc]
    if settings.gate.lexicon is not None:
        looks.append(("words", 5, lambda: words(settings)))
    if settings.tls.certificate is not None:
        looks.append(("certificate", 10, lambda: certificate(settings)))
    if settings.audit.url:
        looks.append(("audit", 30, lambda: audit(settings)))
    if settings.peer:
        looks.append(("peers", 20, lambda: peers(settings)))
    for one in settings.destination:
        looks.append((f"destination {one.name}", one.timeout_seconds + 10, lambda one=one: destination(settings, one)))  # type: ignore[misc]
    pending = [_Look(name, seconds, look) for name, seconds, look in looks]
    return [look.answer() for look in pending]


def disk(settings: Settings) -> str:
    """Whether the receiver would accept images."""
    from chexnode.spool.spool import Spool

    place = settings.node.data_dir
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())  # looking makes nothing
    if not Spool(there).has_room(settings.disk):
        raise BadEnvironment(
            f"{place} is fuller than disk.watermark {settings.disk.watermark:g} or has less than disk.reserve_gb "
            f"{settings.disk.reserve_gb:g} left: images are refused"
        )
    return f"{place} has room" if place == there else f"{there} has room; {place} is made when the node starts"


def words(settings: Settings) -> str:
    """Whether the site's own words can be read."""
    from chexnode.roles.words import read_words

    read_words(settings)
    return f"{settings.gate.lexicon} is read"


def peers(settings: Settings) -> str:
    """Whether the name of every host that may call is known: an unknown one keeps its peer out."""
    from chexnode.settings.base import read_range

    unknown = []
    for peer in settings.peer:
        for host in peer.host:
            if read_range(host) is None and "/" not in host:
                try:
                    socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                except OSError:
                    unknown.append(f"{host} ({peer.ae_title})")
    if unknown:
        raise BadEnvironment(f"no address of {', '.join(unknown)}: whoever calls from there is rejected")
    return f"{len(settings.peer)} may call"


def certificate(settings: Settings) -> str:
    """Whether our certificate fits its key and lasts."""
    from chexnode.roles.certificates import not_after
    from chexnode.tls import server_context

    assert settings.tls.certificate is not None
    server_context(settings.tls)
    end = not_after(settings.tls.certificate)
    left = end - datetime.now(UTC)
    if left < LAST_CALL:
        verb = "expires" if left > timedelta() else "expired"
        raise BadEnvironment(f"{settings.tls.certificate} {verb} on {end:%Y-%m-%d}")
    return f"{settings.tls.certificate} is valid until {end:%Y-%m-%d}"


def audit(settings: Settings) -> str:
    """Whether the collector takes audit messages, and how many wait for it."""
    from chexnode.audit.spool import AuditSpool
    from chexnode.audit.syslog import Address, CollectorDown, collector
    from chexnode.tls import client_context

    address = Address.parse(settings.audit.url)
    way = collector(address, client_context(settings.tls) if address.scheme == "tls" else None)
    spool = AuditSpool(settings.node.data_dir)
    count = len(spool.waiting())
    waits = f"{count} message{' waits' if count == 1 else 's wait'}"
    try:
        way.send([])
    except CollectorDown as down:
        raise BadEnvironment(f"{down}; {waits}") from down
    finally:
        way.close()
    lost, _ = spool.losses
    answers = "is known, and by UDP never answers" if address.scheme == "udp" else "answers"
    return f"{address} {answers}, {waits}" + (f"; {lost} were lost since the first start" if lost else "")


def database(settings: Settings) -> str:
    """Schema and clock."""
    from chexnode.ledger.ledger import Ledger

    ledger = Ledger(settings.database.url)
    try:
        ours = datetime.now(UTC)
        difference = abs(ledger.database.server_time() - ours)
    finally:
        ledger.close()
    if difference > LARGEST_CLOCK_DIFFERENCE:
        raise BadEnvironment(f"its clock and ours differ by {difference.total_seconds():.0f} s: use NTP")
    return f"{masked(settings.database.url)}, schema is current, clocks agree"


def data_dir(settings: Settings) -> str:
    """Writable, and the folder that the database knows."""
    from chexnode.ledger.ledger import Ledger

    ledger = Ledger(settings.database.url)
    try:
        name = identity.prove(settings.node.data_dir, ledger.files)
        with tempfile.TemporaryFile(dir=settings.node.data_dir) as file:
            file.write(b"writable?")
    finally:
        ledger.close()
    return f"{settings.node.data_dir} is writable and shared as {name}"


def broker(settings: Settings) -> str:
    """Whether it answers; work goes on without it, at the housekeeping pace."""
    from chexnode.queue.broker import EMBEDDED, connect

    if settings.broker.url == EMBEDDED and not settings.node.data_dir.is_dir():
        return "embedded, made when the node starts"
    with connect(settings.broker.url, settings.node.data_dir) as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=3)
            connection.default_channel  # noqa: B018  (opening it is the question)
        except Exception as error:  # whatever the transport raises
            raise BadEnvironment(f"{masked(settings.broker.url)} does not answer: {type(error).__name__}") from error
    return f"{masked(settings.broker.url)} answers"


def model(settings: Settings, tried: ModelSettings | None = None) -> str:
    """The card and weights of the bundle that delivers, or of one on trial."""
    wanted = tried or settings.model
    try:
        folder = bundle.find(wanted.bundle)
        card = bundle.read_card(folder)
        bundle.verified_weights(folder)
    except bundle.BundleError as error:
        raise BadEnvironment(str(error)) from error
    point = card.operating_points.get(wanted.operating_point)
    if point is None:
        raise BadEnvironment(f"{card.title} has no operating point {wanted.operating_point!r}")
    line = f"{card.title}, digest {card.digest}, weights verified"
    if point.sensitivity:
        return line
    return f"{line}; {wanted.operating_point} marks nothing, or nobody has measured what it marks"


def device(settings: Settings) -> str:
    """Where the model would run on this machine."""
    if find_spec("torch") is None:
        return "worker extra not installed: no worker can run here"
    import torch

    from chexnode.work.engine import pick_device

    name = pick_device(settings.model.device, settings.model.engine)
    what = torch.cuda.get_device_name(name) if name.startswith("cuda") else f"{torch.get_num_threads()} threads"
    return f"{name} ({what})"


def sandbox(settings: Settings) -> str:
    """What confines the processes that decode, tried in one of them."""
    from chexnode.sandbox.pool import Pool

    with Pool("chexnode.sandbox.probe", settings.limits, 1, {}) as pool:
        held = pool.confinement()
    facts = f"network: {held['network']}; files: {held['files']}; system calls: {held['calls']}"
    if held["network"] != "none" or (held["files"] == "limits only" and held["calls"] == "any"):
        raise BadEnvironment(f"decoding is confined too little by this kernel: {facts}")
    return f"decoding children: {facts}"


def destination(settings: Settings, one: DestinationSettings) -> str:
    """Whether it answers and takes what we would send."""
    from chexnode.archive.query_retrieve import asking
    from chexnode.deliver import folder, stow
    from chexnode.deliver.dicom import probe
    from chexnode.deliver.routing import REJECTION_NOTE, contexts
    from chexnode.dicomweb.client import probe_search
    from chexnode.tls import client_context

    if one.kind == "folder":
        assert one.path is not None
        folder.probe(one.path)
        return f"{one.path} is writable"
    if one.kind == "stow":
        look = probe_search if one.is_only_asked else stow.probe
        look(one, client_context(settings.tls) if one.speaks_tls else None)
        secret = one.user or one.token or one.token_file
        open_secret = ", but our credentials go there without TLS" if secret and not one.speaks_tls else ""
        return f"{one.url} answers {'QIDO-RS' if one.is_only_asked else 'STOW-RS'}{open_secret}"
    proposed = asking(one) if one.is_only_asked else contexts(one)
    found = probe(one, settings.node.ae_title, proposed, client_context(settings.tls) if one.tls else None)
    where = f"{one.ae_title} at {one.host}:{one.port}"
    if set(found.refused) - {REJECTION_NOTE}:
        raise BadEnvironment(f"{where} does not accept {_named(found.refused)}")
    if not found.echo:
        raise BadEnvironment(f"{where} accepts our objects but does not answer C-ECHO")
    accepted = [context for context in proposed if context not in found.refused]
    # Results arrive all the same; it is only never told that one of them has been replaced.
    without = f", but not {_named(found.refused)}: set its withdraw to another way, or to none" if found.refused else ""
    return f"{where} answers C-ECHO and accepts {_named(accepted)}{without}"


def _named(contexts: Sequence[tuple[str, str]]) -> str:
    """SOP classes, each with its transfer syntax where that is not the usual one."""
    names = []
    for sop_class_uid, transfer_syntax_uid in contexts:
        name = UID(sop_class_uid).name.removesuffix(" Storage")
        usual = transfer_syntax_uid == ExplicitVRLittleEndian
        names.append(name if usual else f"{name} as {UID(transfer_syntax_uid).name}")
    return ", ".join(names)


class _Look:
    """One check under way in a thread of its own."""

    def __init__(self, name: str, seconds: float, look: Callable[[], str]) -> None:
        self._name, self._seconds, self._look = name, seconds, look
        self._check: Check | None = None
        # A daemon: one that hangs must not keep the command from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._check = Check(self._name, True, self._look())
        except NodeError as error:
            self._check = Check(self._name, False, str(error))
        except OSError as error:
            self._check = Check(self._name, False, f"{error.strerror}: {error.filename}")
        except Exception:
            log.exception("the check of %s failed", self._name)
            why = "the check itself failed, because of an answer that was not expected: the log says more"
            self._check = Check(self._name, False, why)

    def answer(self) -> Check:
        """The result, waited for within the limit."""
        self._thread.join(self._seconds)
        return self._check or Check(self._name, False, f"no answer within {self._seconds:g} s")
