"""The worker: claims jobs in batches, decodes ahead, infers, finishes, and throws away what it lost the lease of."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydicom.dataset import Dataset

from chexmodels.model import RawItem
from chexnode.deliver.routing import Route, routes, variants
from chexnode.encode.objects import Encoded
from chexnode.encode.source import sanitise
from chexnode.ledger.jobs import HEARTBEAT_SECONDS
from chexnode.ledger.moves import instance_id
from chexnode.node import Node
from chexnode.sandbox.pool import NoChild
from chexnode.settings.model import ModelSettings
from chexnode.settings.rule import RuleSettings
from chexnode.spool.spool import DiskRefused, SpoolAway
from chexnode.triage.rules import deciding_rule
from chexnode.vocabulary.backoff import Backoff
from chexnode.vocabulary.errors import Refused, StaleMove, Transient
from chexnode.vocabulary.purposes import Purpose, Urgency
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, Digests, JobClaim, JobSpec, ResultSet, Stages
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.tracebacks import traceback_of
from chexnode.work.answer import SUFFIX, NotAnAnswer, pack, unpack
from chexnode.work.pipeline import Pipeline
from chexnode.work.prepared import Prepared
from chexnode.work.replacing import header_of, predecessors, reason_for, withdrawals
from chexnode.work.store import discard, store

log = logging.getLogger(__name__)

T = TypeVar("T")

INSIST_SECONDS = 60.0
"""How long a finished analysis waits for a database that is away before the job is left to its lease."""


_UNREADABLE = Backoff(base=120.0, cap=3600.0)
"""Between two attempts at a source: an outage of the disk is over before they have all been made."""


class _Unreadable(Transient):
    """The disk does not give the source now. It may be this one file for ever, so attempts are counted."""


class _Stands(Exception):
    """Results of another version of the image stand; the text says which."""

    def __init__(self, reason: Reason, why: str, digests: Digests) -> None:
        super().__init__(why)
        self.reason, self.digests = reason, digests


@dataclass(frozen=True, slots=True)
class _Ready:
    """An image that is to get results."""

    prepared: Prepared
    digests: Digests
    valid: Sequence[ResultSet]
    """The sets that they take the place of."""
    answer: RawItem | None
    """What the model answered for an earlier version with the same content."""
    decode_seconds: float
    inference_seconds: float | None = None
    """Of its share of the batch; None before, and where ``answer`` is taken."""


def most_urgency(node: Node) -> Urgency:
    """Of the jobs that may be claimed now: what is analysed again waits for its hours."""
    is_time = node.settings.reanalysis.are_open(node.ledger.clock())
    return Urgency.BACKGROUND if is_time else Urgency.SHADOW


def is_tried(model: ModelSettings, calling_ae_title: str, rule: RuleSettings | None) -> bool:
    """Whether ``model`` is to see an image from there on which ``rule`` decides."""
    is_from = not model.peers or calling_ae_title in model.peers
    return is_from and (not model.rules or (rule is not None and rule.name in model.rules))


class Worker:
    """One process's analysing side. Once the node is stopping it finishes what it holds and returns."""

    def __init__(
        self,
        node: Node,
        pipeline: Pipeline,
        spec: JobSpec | None = None,
        gives_way: Callable[[], bool] = lambda: False,
    ) -> None:
        """``spec``: the analysis of ``pipeline``, where it is not that of ``node``; ``gives_way``: whether to stop."""
        self._node, self._pipeline = node, pipeline
        self._spec, self._gives_way = spec or node.spec, gives_way
        self._settings, self._ledger, self._spool, self._stopping = (
            node.settings,
            node.ledger,
            node.spool,
            node.stopping,
        )
        self._backoff = Backoff()
        self._decoding = ThreadPoolExecutor(node.settings.worker.decoders, "decode")
        # Two, so that one image's files are being fsynced while the next is being encoded.
        self._finishing = ThreadPoolExecutor(2, "finish")
        self._held: dict[str, JobClaim] = {}
        self._settling: set[str] = set()
        """Those of them whose last move is being written down."""
        self._state = threading.Lock()
        self._busy = self._again = False
        self._refusals = 0
        """In a row, by the machine: its disk takes no result or is not there, or no decoding child can be started."""
        self._rests_until = 0.0
        """Nothing is claimed before: the machine has refused (``time.monotonic``)."""
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    @property
    def device(self) -> str:
        """That the model runs on."""
        return str(self._pipeline.engine.device)

    def look(self) -> None:
        """Work until nothing is due. A second call while one is at work only makes that one look again."""
        with self._state:
            self._again = True
            if self._busy:
                return
            self._busy = True
        while True:
            with self._state:
                if not self._again or self._stopping.is_set():
                    self._busy = False
                    return
                self._again = False
            try:
                self._drain()
            except BaseException:
                with self._state:
                    self._busy = False
                raise

    def close(self) -> None:
        """Stop the threads; whatever is still held goes back to the queue."""
        self._stopping.set()
        self._decoding.shutdown(cancel_futures=True)
        self._finishing.shutdown()
        self._closed.set()
        self._heart.join(timeout=5)
        self.give_back()

    def give_back(self) -> None:
        """Put what is still held back into the queue, untouched."""
        with self._state:
            held, self._held = list(self._held.values()), {}
        if held:
            try:
                self._ledger.jobs.release(held)
            except Transient:
                log.warning("%d job(s) are left to their leases", len(held))

    def _drain(self) -> None:
        """Batch after batch; the next is being decoded while this one is inferred and the last one finished."""
        finishing: list[Future[None]] = []
        try:
            ahead = self._take()
            while ahead and not self._stopping.is_set():
                batch = [(claim, ready) for claim, future in ahead if (ready := self._guarded(claim, future.result))]
                ahead = self._take()
                found = self._infer(batch)
                wait_for(finishing)
                finishing = [self._finishing.submit(self._finish, *item) for item in found]
        finally:
            wait_for(finishing)
            # What is held here was decoded ahead when we were told to stop, or a bug cut the loop short; kept, it would
            # be renewed for ever.
            self.give_back()

    def _take(self) -> list[tuple[JobClaim, Future[_Ready]]]:
        if self._stopping.is_set() or time.monotonic() < self._rests_until:
            return []
        try:
            if self._gives_way():
                return []
            most, size = most_urgency(self._node), self._settings.worker.batch_size
            claims = self._ledger.jobs.claim(self._node.owner, size, self._spec, most)
        except Transient as error:
            log.warning("no jobs claimed: %s", error)
            return []
        with self._state:
            self._held |= {claim.id: claim for claim in claims}
        return [(claim, self._decoding.submit(self._prepare, claim)) for claim in claims]

    def _prepare(self, claim: JobClaim) -> _Ready:
        """Decode the image, and see what earlier versions of it leave to be done."""
        started = time.monotonic()
        prepared = self._decoded(claim)
        took = time.monotonic() - started
        # What the gate noted of the header is said in the results too.
        prepared = replace(prepared, notes=(*claim.notes, *prepared.notes))
        digests, sets = self._pipeline.digests(prepared), self._ledger.sets
        valid: Sequence[ResultSet] = ()
        if claim.purpose is not Purpose.SHADOW:
            valid = self._insist(partial(sets.valid, claim.sop_instance_uid))
        for old in valid:
            if old.digest != claim.digest and old.received_at > claim.received_at:
                raise _Stands(Reason.LATER_VERSION, "a later version of the image has results", digests)
            if old.digests == digests and old.spec == self._spec and claim.purpose is not Purpose.ROLLBACK:
                version = instance_id(claim.sop_instance_uid, old.digest)
                why = f"the same as an earlier version, {version}: its results stand"
                raise _Stands(Reason.SAME_IMAGE, why, digests)
        if claim.purpose is Purpose.BESIDE:
            valid = ()
        path = self._insist(partial(sets.answer, claim.sop_instance_uid, digests.content, claim.model_digest))
        return _Ready(prepared, digests, valid, None if path is None else self._answer(path), took)

    def _answer(self, path: str) -> RawItem | None:
        """What the model answered for this content before; None where that is not to be had, and it is asked again."""
        try:
            return unpack(self._spool.read(path))
        except (FileNotFoundError, DiskRefused, NotAnAnswer) as error:
            log.warning("a stored answer of the model cannot be read: %s", error)
            return None

    def _decoded(self, claim: JobClaim) -> Prepared:
        source = self._source(claim)
        try:
            return self._pipeline.prepare(source)
        except Refused as error:
            if error.reason is not Reason.SOURCE_MISSING:
                raise
            self._source(claim)  # it was there before: is it the disk that is gone?
            raise _Unreadable("the stored file was away for a moment") from error

    def _source(self, claim: JobClaim) -> Path:
        """Where the image is, proven to be what was received."""
        try:
            if claim.path is None or not self._spool.verify(claim.path, claim.digest):
                raise Refused(Reason.SOURCE_MISSING)
        except SpoolAway:
            raise
        except DiskRefused as error:
            raise _Unreadable(str(error)) from error
        return self._spool.path(claim.path)

    def _infer(self, batch: Sequence[tuple[JobClaim, _Ready]]) -> list[tuple[JobClaim, _Ready, RawItem]]:
        """One batch; if it fails as a whole, each image alone, so that one cannot fail the others."""
        answered = [(claim, ready, ready.answer) for claim, ready in batch if ready.answer is not None]
        asking = [(claim, ready) for claim, ready in batch if ready.answer is None]
        if not asking:
            return answered
        started = time.monotonic()
        try:
            raws = self._pipeline.infer([ready.prepared for _, ready in asking])
            took = (time.monotonic() - started) / len(asking)
            inferred = ((claim, replace(ready, inference_seconds=took)) for claim, ready in asking)
            return answered + [(claim, ready, raw) for (claim, ready), raw in zip(inferred, raws, strict=True)]
        except Exception:
            log.exception("inference of %d image(s) failed: trying them one by one", len(asking))
        for claim, ready in asking:
            started = time.monotonic()
            alone = self._guarded(claim, partial(self._pipeline.infer, [ready.prepared]))
            if alone is not None:
                timed = replace(ready, inference_seconds=time.monotonic() - started)
                answered.append((claim, timed, alone[0]))
        return answered

    def _finish(self, claim: JobClaim, ready: _Ready, raw: RawItem) -> None:
        self._guarded(claim, partial(self._commit, claim, ready, raw))

    def _commit(self, claim: JobClaim, ready: _Ready, raw: RawItem) -> None:
        """Encode, make the files durable, and only then commit the rows."""
        findings = self._pipeline.interpret(ready.prepared, raw)
        encoded: list[Encoded] = []
        chosen: tuple[Route, ...] = ()
        shadows: list[JobSpec] = []
        started, encode_seconds = time.monotonic(), None
        if claim.purpose is not Purpose.SHADOW:
            rule = deciding_rule(self._settings.rule, ready.prepared.header, claim.calling_ae_title)
            shadows = [
                one.spec
                for one in self._node.shadows
                if one.spec != self._spec and is_tried(one.settings, claim.calling_ae_title, rule)
            ]
            chosen = routes(self._settings.destination, claim.calling_ae_title, findings.abnormal, rule)
            encoded = self._pipeline.encode(
                ready.prepared, findings, claim.key, claim.created_at, variants(chosen), predecessors(ready.valid)
            )
            encode_seconds = time.monotonic() - started
        uid_of = {one.variant: one.uid for one in encoded}
        replaced = self._replaced(ready)
        # First, so that a destination is told what ends before it gets what takes its place.
        notes, to = withdrawals(replaced, self._settings.destination, claim.created_at)
        to += [(uid_of[r.variant], r.destination) for r in chosen if r.variant in uid_of]
        answer = self._spool.write_result(pack(raw), SUFFIX).path
        try:
            results = store(self._spool, [*encoded, *notes])
        except DiskRefused:
            self._spool.unlink(answer)
            raise
        score = findings.score if math.isfinite(findings.score) else None
        analysis = Analysis(
            score,
            findings.abnormal,
            len(findings.regions),
            findings.notes,
            ready.digests,
            answer,
            is_reused=ready.answer is not None,
            figures=self._pipeline.figures(ready.prepared, findings),
            stages=Stages(ready.decode_seconds, ready.inference_seconds, encode_seconds),
        )
        why = {job: why for job, (_, _, why) in replaced.items()}
        try:
            self._insist(partial(self._ledger.jobs.complete, claim, analysis, results, to, why, shadows), claim)
        except BaseException:
            # A commit whose answer was lost comes here too, as a StaleMove of the repetition: then rows name the
            # files, and they stay.
            discard(self._spool, self._ledger, [answer, *(row.path for row in results)])
            raise
        self._refusals = 0
        self._forget(claim)
        for destination in {destination for _, destination in to}:
            self._node.bell.ring("deliver", destination)
        if shadows:
            self._node.bell.ring("infer")

    def _replaced(self, ready: _Ready) -> dict[str, tuple[ResultSet, Dataset | None, Supersession]]:
        """The sets that end now, by job, each with whose it is and why it ends."""
        if not ready.valid:
            return {}
        new = sanitise(ready.prepared.header, ready.prepared.choice).ds
        headers = [(old, header_of(old, self._spool)) for old in ready.valid]
        return {old.job: (old, header, reason_for(header, new)) for old, header in headers}

    def _guarded(self, claim: JobClaim, action: Callable[[], T]) -> T | None:
        """Run one image's step; an error moves the job as its class says. None if it failed."""
        try:
            return action()
        except StaleMove:
            log.warning("job %s was taken over: its result is thrown away", claim.id)
            self._forget(claim)
        except _Stands as error:
            log.info("job %s skipped: %s", claim.id, error)
            self._settle(claim, partial(self._ledger.jobs.skip, claim, error.reason, str(error), error.digests))
        except Refused as error:
            log.info("job %s refused: %s", claim.id, error.reason)
            self._settle(claim, partial(self._ledger.jobs.refuse, claim, error.reason, error.detail))
        except (DiskRefused, NoChild) as error:
            self._rest(claim, error)
        except _Unreadable as error:
            self._put_back(claim, str(error), _UNREADABLE)
        except Transient as error:
            self._put_back(claim, str(error), self._backoff)
        except Exception as error:
            log.error("job %s failed: %s", claim.id, type(error).__name__)
            self._settle(claim, partial(self._ledger.jobs.fail, claim, traceback_of(error)))
        return None

    def _rest(self, claim: JobClaim, error: DiskRefused | NoChild) -> None:
        """A disk that takes no result or is not there, a machine that starts no process: not the image's doing, and no
        attempt is counted, however long it lasts. Nor is anything claimed for a while, only to be analysed in vain."""
        with self._state:
            if time.monotonic() >= self._rests_until:
                self._refusals += 1
                self._rests_until = time.monotonic() + self._backoff.delay(self._refusals)
        log.warning("job %s put back: %s", claim.id, error)
        self._settle(claim, partial(self._ledger.jobs.release, [claim], str(error)))

    def _put_back(self, claim: JobClaim, error: str, backoff: Backoff) -> None:
        attempts = claim.attempts + 1
        if attempts >= self._settings.worker.max_attempts:
            why = f"gave up after {attempts} attempts: {error}"
            self._settle(claim, partial(self._ledger.jobs.fail, claim, why))
            return
        due_at = self._ledger.clock() + timedelta(seconds=backoff.delay(attempts))
        log.warning("job %s put back, attempt %d: %s", claim.id, attempts, error)
        self._settle(claim, partial(self._ledger.jobs.requeue, claim, error, due_at))

    def _settle(self, claim: JobClaim, move: Callable[[], None]) -> None:
        try:
            self._insist(move, claim)
        except (StaleMove, Transient) as error:
            log.warning("job %s is left to its lease: %s", claim.id, error)
        self._forget(claim)

    def _insist(self, action: Callable[[], T], settles: JobClaim | None = None) -> T:
        """Repeat while the database is away, for a while. ``settles``: whose last move it is."""
        if settles is not None:
            with self._state:
                self._settling.add(settles.id)
        give_up = time.monotonic() + INSIST_SECONDS
        failures = 0
        while True:
            try:
                return action()
            except Transient:
                failures += 1
                if time.monotonic() > give_up:
                    raise
                time.sleep(min(self._backoff.delay(failures), 5.0))

    def _forget(self, claim: JobClaim) -> None:
        with self._state:
            self._held.pop(claim.id, None)
            self._settling.discard(claim.id)

    def _beat(self) -> None:
        """Extend the leases of what is held."""
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with self._state:
                held = list(self._held.values())
            try:
                lost = self._ledger.jobs.renew(held)
                with self._state:  # one that was settled meanwhile, or is being settled, has no lease to lose
                    lost = {job for job in lost if job in self._held and job not in self._settling}
                for job in lost:
                    log.warning("the lease of job %s is lost", job)
            except Transient as error:
                log.warning("heartbeat: %s", error)
            except Exception:  # without a next beat all that is held would be lost, now and later
                log.exception("heartbeat")
