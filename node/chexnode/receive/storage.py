"""The storage service: what happens between a C-STORE or STOW-RS request and its response.

    room on disk -> size limit -> header, with limits -> UIDs and announced class -> gate -> spool (fsync, rename)
    -> one ledger transaction (grouped with others') -> 0x0000

Pixels are never decoded; the data set passes through to the disk as it comes. Log lines name no data element values.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import TracebackType
from typing import Self

import pydicom.config

from chexmodels.dicom.elements import Buffer
from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import inflate
from chexmodels.dicom.transfer_syntaxes import DEFLATED
from chexnode.node import Node
from chexnode.receive.committer import Committer, NotRecorded
from chexnode.receive.filemeta import Announced, file_prefix, read_prefix
from chexnode.receive.header import NotUnderstood, ReceivedHeader, is_safe_uid, read_header
from chexnode.receive.outcome import Answer, Failure, NotStored
from chexnode.spool.spool import DiskRefused, Incoming, Spool, StoredFile
from chexnode.triage.gate import triage_header
from chexnode.triage.lexicon import lexicon
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Arrival, Caller, Outcome, Receipt, Subject, Verdict
from chexnode.vocabulary.states import InstanceState
from chexnode.vocabulary.tracebacks import fault

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """What the audit trail tells of a stored instance."""

    subject: Subject
    sop_class_uid: str
    had_before: bool
    """Whether the node had it, or has made it."""
    series_instance_uid: str = ""


class StorageService:
    """Begins a :class:`Reception` for each data set that is to be stored. Thread safe.

    As a context manager: started on entering, stopped on exit.
    """

    def __init__(self, node: Node) -> None:
        self.settings = node.settings
        self.spool = node.spool
        self.committer = Committer(
            node.spool,
            lambda arrivals, before_commit: node.ledger.instances.record(arrivals, node.spec, before_commit),
            node.bell,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to commit."""
        # pydicom's warnings about values quote them, and a log may hold no patient data.
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        lexicon(self.settings.gate.lexicon)  # a third of a second, which would be that of the first images
        self.committer.start()

    def stop(self) -> None:
        """Commit what is there and end. Nothing may be begun afterwards."""
        self.committer.stop()

    def has_room(self) -> bool:
        """Whether an image may be taken now."""
        return self.spool.has_room(self.settings.disk)

    def begin(
        self, announced: Announced, caller: Caller, on_stored: Callable[[StoredInstance], None] | None = None
    ) -> Reception:
        """Start to receive a data set; ``on_stored`` is called once it is durable and recorded."""
        return Reception(self, announced, caller, on_stored)

    def arrival_of(self, path: str) -> Arrival | None:
        """A spooled source as it arrived, judged by today's gate; None where it is no whole received object.

        Who sent it is known by AE title only. Raises :class:`~chexnode.spool.spool.DiskRefused`.
        """
        try:
            content = memoryview(self.spool.read(path))
            announced, calling_ae_title, start = read_prefix(content)
        except (FileNotFoundError, ValueError):
            return None
        data = content[start:]
        digest = hashlib.sha256(data).hexdigest()
        if not PurePath(path).name.startswith(digest):
            return None
        kept = Reception(self, announced, Caller(calling_ae_title, ""), is_kept=True)
        return kept.arrival(lambda: data, StoredFile(path, digest, len(content)))


class Reception:
    """One data set on its way in. A refused one is still read to its end, and dropped, so that it can be answered."""

    def __init__(
        self,
        service: StorageService,
        announced: Announced,
        caller: Caller,
        on_stored: Callable[[StoredInstance], None] | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        """``is_kept``: the object is in the spool already, and nothing is written."""
        self._service = service
        self._announced = announced
        self._caller = caller
        self._limit = service.settings.limits.max_object_mb * 1_000_000
        self._received = 0
        self._refusal: NotStored | None = None
        self._on_stored = on_stored
        self._incoming: Incoming | None = None
        self.stored: StoredInstance | None = None
        """Set by :meth:`finish` where the instance was acknowledged."""
        if is_kept:
            return
        try:
            self._check_announced()
            self._incoming = service.spool.incoming(file_prefix(announced, caller.ae_title))
        except NotStored as why:
            self._refusal = why
        except DiskRefused as error:
            self._refusal = _disk_failed(error)

    def _check_announced(self) -> None:
        if not is_safe_uid(self._announced.sop_instance_uid):
            raise NotStored(Failure.NOT_UNDERSTOOD, "Affected SOP Instance UID is not a UID")
        if not self._service.has_room():
            raise NotStored(Failure.DISK_LOW)

    def write(self, data: memoryview) -> None:
        """Take the next piece of the data set."""
        self._received += len(data)
        if self._incoming is None:
            return
        if self._received > self._limit:
            self.abandon()
            self._refusal = NotStored(Failure.TOO_LARGE)
            return
        try:
            self._incoming.write(data)
        except DiskRefused as error:
            self._incoming = None
            self._refusal = _disk_failed(error)

    @property
    def endless(self) -> bool:
        """Whether so much came after a refusal that reading on to answer it is not worth it."""
        return self._received > 16 * self._limit

    def abandon(self) -> None:
        """The data set will not be complete, or is dealt with: leave nothing behind."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def finish(self) -> Answer:
        """The data set is complete: judge it, make it durable, record it; return what to answer."""
        try:
            if self._incoming is None:
                assert self._refusal is not None
                raise self._refusal
            answer = self._store(self._incoming)
        except NotStored as refusal:
            answer = refusal.answer
            self._log(logging.WARNING, "refused", status=f"{answer.status:#06x}", why=answer.comment)
        finally:
            self.abandon()
        return answer

    def _store(self, incoming: Incoming) -> Answer:
        header = self._read(incoming.view)
        if header.scan.misplaced and self._announced.transfer_syntax_uid not in DEFLATED:
            incoming = self._without(incoming, header.scan.misplaced)
            header = replace(self._read(incoming.view), scan=header.scan)
        verdict = self._triage(header)
        try:
            stored = incoming.complete()
            receipt = self._service.committer.submit(self._arrival(header, stored, verdict), incoming.keep)
        except DiskRefused as error:
            raise _disk_failed(error) from error
        except NotRecorded as error:
            if error.removable:
                self._service.spool.unlink(stored.path)
            if error.transient:
                raise NotStored(Failure.BUSY) from error
            raise NotStored(Failure.FAULT) from error
        self._settle(receipt, stored)
        self.stored = StoredInstance(
            _subject(header),
            header.sop_class_uid,
            had_before=receipt.outcome in (Outcome.DUPLICATE, Outcome.OWN_RESULT),
            series_instance_uid=header.series_instance_uid,
        )
        self._log(
            logging.INFO,
            "stored",
            outcome=receipt.outcome.value,
            state=verdict.state.value,
            reason=verdict.reason.value if verdict.reason else None,
            job=receipt.job,
            digest=stored.digest,
            size=stored.size,
        )
        if self._on_stored is not None:
            self._on_stored(self.stored)
        return Answer()

    def _without(self, incoming: Incoming, misplaced: Sequence[tuple[int, int]]) -> Incoming:
        """What came, without those elements: other readers would take group 0002 for the file's own."""
        data, position = incoming.view(), 0
        cleaned = self._service.spool.incoming(file_prefix(self._announced, self._caller.ae_title))
        try:
            for start, end in (*misplaced, (len(data), len(data))):
                cleaned.write(data[position:start])
                position = end
        except DiskRefused as error:
            raise _disk_failed(error) from error
        data.release()
        self.abandon()
        self._incoming = cleaned
        return cleaned

    def arrival(self, view: Callable[[], memoryview], stored: StoredFile) -> Arrival | None:
        """A data set that is stored already, as it would be recorded; None where it would be refused."""
        try:
            header = self._read(view)
        except NotStored:
            return None
        return self._arrival(header, stored, self._triage(header))

    def _read(self, view: Callable[[], memoryview]) -> ReceivedHeader:
        """Parse and compare with what was announced. Raises :class:`NotStored`."""
        syntax = self._announced.transfer_syntax_uid
        limits = self._service.settings.limits
        try:
            if syntax in DEFLATED:
                with _inflated(view(), self._service.spool, limits.inflate_mb * 1_000_000) as plain:
                    header = read_header(plain.view(), syntax, limits)
            else:
                header = read_header(view(), syntax, limits)
        except NotUnderstood as error:
            raise NotStored(Failure.NOT_UNDERSTOOD, str(error)) from error
        except DiskRefused as error:
            raise _disk_failed(error) from error
        if not header.sop_class_uid or not header.sop_instance_uid:
            why = header.scan.broken or "no SOP Class or Instance UID in the data set"
            raise NotStored(Failure.NOT_UNDERSTOOD, why)
        if header.sop_class_uid != self._announced.sop_class_uid:
            raise NotStored(Failure.MISMATCH, "SOP Class UID differs from the one announced")
        if header.sop_instance_uid != self._announced.sop_instance_uid:
            raise NotStored(Failure.MISMATCH, "SOP Instance UID differs from the one announced")
        if self._announced.study_instance_uid not in ("", header.study_instance_uid):
            raise NotStored(Failure.MISMATCH, "Study Instance UID differs from the one announced")
        for uid in (header.study_instance_uid, header.series_instance_uid):
            if uid and not is_safe_uid(uid):
                raise NotStored(Failure.NOT_UNDERSTOOD, "Study or Series Instance UID is not a UID")
        return header

    def _triage(self, header: ReceivedHeader) -> Verdict:
        if header.scan.over_limit:
            return Verdict(InstanceState.QUARANTINED, Reason.TOO_DEEP, header.scan.broken)
        if header.scan.broken:
            return Verdict(InstanceState.QUARANTINED, Reason.MALFORMED, header.scan.broken)
        settings = self._service.settings
        try:
            return triage_header(
                header.ds,
                settings.gate,
                has_pixel_data=header.scan.pixels is not None,
                max_pixels=settings.limits.max_pixels,
                sop_class_uid=header.sop_class_uid,
                transfer_syntax_uid=self._announced.transfer_syntax_uid,
                flaws=header.scan.flaws,
                rules=settings.rule,
                calling_ae_title=self._caller.ae_title,
            )
        except Exception as error:  # a bug in the gate must not lose an image
            self._log(logging.ERROR, "gate failed", error=fault(error))
            return Verdict(InstanceState.QUARANTINED, Reason.MALFORMED, "the header cannot be judged")

    def _arrival(self, header: ReceivedHeader, stored: StoredFile, verdict: Verdict) -> Arrival:
        return Arrival(
            sop_instance_uid=header.sop_instance_uid,
            digest=stored.digest,
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=self._announced.transfer_syntax_uid,
            study_instance_uid=header.study_instance_uid,
            series_instance_uid=header.series_instance_uid,
            path=stored.path,
            size=stored.size,
            calling_ae_title=self._caller.ae_title,
            address=self._caller.address,
            verdict=verdict,
            manufacturer=header.manufacturer,
            study=header.study,
            series=header.series,
            instance=header.instance,
        )

    def _settle(self, receipt: Receipt, stored: StoredFile) -> None:
        """Remove the file if the ledger does not name it; put it where a lost one is missing."""
        spool = self._service.spool
        if receipt.path == stored.path:
            return
        if receipt.outcome is Outcome.DUPLICATE and receipt.path is not None and not spool.exists(receipt.path):
            try:
                spool.restore(stored.path, receipt.path)
            except DiskRefused as error:
                raise _disk_failed(error) from error
            self._log(logging.WARNING, "restored a lost source", digest=stored.digest)
            return
        spool.unlink(stored.path)

    def _log(self, level: int, message: str, **fields: object) -> None:
        who = {"calling_ae_title": self._caller.ae_title, "address": self._caller.address}
        log.log(level, message, extra=who | fields)


class _inflated:  # noqa: N801  (used as a statement)
    """The inflated form of a deflated data set, in a file that is gone afterwards, so that memory stays bounded."""

    def __init__(self, data: Buffer, spool: Spool, limit: int) -> None:
        self._data = data
        self._limit = limit
        self._plain = spool.incoming()

    def __enter__(self) -> Incoming:
        try:
            for piece in inflate(self._data, self._limit):
                self._plain.write(piece)
        except DecodeError as error:
            self._plain.discard()
            raise NotUnderstood(error.detail) from error
        return self._plain

    def __exit__(self, *exc: object) -> None:
        self._plain.discard()


def _subject(header: ReceivedHeader) -> Subject:
    facts = (str(header.study.get(name) or "") for name in ("patient_id", "patient_name", "accession_number"))
    return Subject(header.study_instance_uid, *facts)


def _disk_failed(error: DiskRefused) -> NotStored:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):  # no fault of the disk's
        return NotStored(Failure.BUSY, "too many open files, try again later")
    log.error("disk refused", extra={"error": str(error)})
    return NotStored(Failure.DISK_FAILED)
