"""DICOM objects in the body of an HTTP message, of a Store request or of the answer to a retrieval, piece by piece.

Blocking, so never called in the event loop. Nothing that comes is kept in memory beyond a part's file meta information.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from chexmodels.dicom import file_meta
from chexmodels.dicom.elements import Fault, walk
from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import inflate
from chexmodels.dicom.transfer_syntaxes import DEFLATED, encoding_of
from chexnode.audit.transfers import Transfers
from chexnode.dicomweb.json_model import Json
from chexnode.dicomweb.media_types import DICOM, BadMediaType, parse_media_type
from chexnode.dicomweb.multipart import MultipartError, MultipartReader, PartBegins, PartData
from chexnode.receive.filemeta import Announced
from chexnode.receive.header import is_safe_uid
from chexnode.receive.outcome import Answer, Failure
from chexnode.receive.storage import Reception, StorageService, StoredInstance
from chexnode.receive.stow_parts import NoInstance, StowParts, Writer
from chexnode.spool.spool import DiskRefused
from chexnode.vocabulary.records import Caller

log = logging.getLogger(__name__)

MOST_PARTS = 50_000
_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_IDENTIFYING = 65_536
"""Bytes at the beginning of a data set in which its SOP Class and Instance UID are looked for."""
_INFLATED = 2_000_000
"""Bytes that they may have where they are deflated."""
_MOST_ELEMENTS, _MOST_NESTING = 10_000, 64
_DOES_NOT_MATCH = 0xB007


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """What became of one object of a body."""

    answer: Answer
    sop_class_uid: str = ""
    """Empty, as the next, where the part does not say what it is."""
    sop_instance_uid: str = ""
    stored: StoredInstance | None = None
    is_of_another_type: bool = False
    """Whether the part was no DICOM file by its own Content-Type."""
    is_unreadable: bool = False
    """Whether it is no DICOM object at all."""
    warning: int = 0
    """Warning Reason (PS3.18 table I.2-2) of a stored one; 0 for none."""

    @property
    def is_stored(self) -> bool:
        """Whether the object is durable and recorded."""
        return self.answer.failure is None


class _File:
    """One DICOM file. End it with :meth:`end` or :meth:`abandon`."""

    def __init__(self, service: StorageService, caller: Caller, study_instance_uid: str) -> None:
        self._service, self._caller, self._study = service, caller, study_instance_uid
        self._head = bytearray()
        self._announced: Announced | None = None
        self._reception: Reception | None = None
        self._fault: str | None = None
        self._contradicts = False

    def write(self, data: bytes) -> None:
        """Take the next piece of the file."""
        if self._reception is not None:
            self._reception.write(memoryview(data))
        elif self._fault is None:
            self._head += data
            self._look(is_all=False)

    def end(self) -> PartOutcome:
        """The file is complete: store it, durably."""
        if self._reception is None and self._fault is None:
            self._look(is_all=True)
        if self._reception is None or self._announced is None:
            answer = Answer(Failure.NOT_UNDERSTOOD, self._fault or "not a DICOM file")
            return PartOutcome(answer, is_unreadable=True)
        answer = self._reception.finish()
        announced = self._announced
        return PartOutcome(
            answer,
            announced.sop_class_uid,
            announced.sop_instance_uid,
            self._reception.stored,
            warning=_DOES_NOT_MATCH if self._contradicts else 0,
        )

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self._reception is not None:
            self._reception.abandon()

    def _look(self, *, is_all: bool) -> None:
        """Begin to receive the data set once all of the file meta information has come."""
        try:
            found = file_meta.span(self._head, is_all=is_all)
            if found is None:
                return
            start, end = found
            if len(self._head) - end < _IDENTIFYING and not is_all:
                return
            meta = file_meta.parse(bytes(self._head[start:end]))
            said = tuple(str(meta.get(f"MediaStorageSOP{of}UID", "")) for of in ("Class", "Instance"))
            syntax = str(meta.TransferSyntaxUID)
            sop_class, instance = identity(bytes(self._head[end : end + _IDENTIFYING]), syntax)
            announced = Announced(sop_class or said[0], instance or said[1], syntax, self._study)
            # What a file says of itself may be wrong or missing; what it holds is what it is (PS3.10 section 7.1).
            self._contradicts = said != (announced.sop_class_uid, announced.sop_instance_uid)
        except (DecodeError, ValueError) as error:
            self._fault = error.detail if isinstance(error, DecodeError) else "not a DICOM file"
            self._head.clear()
            return
        if not all(is_safe_uid(u) for u in (announced.sop_class_uid, announced.transfer_syntax_uid)):
            self._fault = "the file meta information names no SOP class or transfer syntax"
            self._head.clear()
            return
        self._announced = announced
        self._reception = self._service.begin(announced, self._caller)
        self._reception.write(memoryview(bytes(self._head[end:])))
        self._head.clear()


def identity(data_set: bytes, transfer_syntax_uid: str) -> tuple[str, str]:
    """SOP Class and Instance UID at the beginning of an encoded data set; empty where they cannot be read there."""
    found: dict[int, str] = {}
    try:
        if transfer_syntax_uid in DEFLATED:
            data_set = next(inflate(data_set, _INFLATED))
        for one in walk(data_set, encoding_of(transfer_syntax_uid), _MOST_ELEMENTS, _MOST_NESTING):
            if one.tag > _SOP_INSTANCE_UID:
                break
            if one.tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID):
                found[one.tag] = data_set[one.start : one.start + one.length].decode("latin-1").strip("\0 ")
    except (Fault, DecodeError) as error:  # what was read until then counts
        log.debug("a data set's first elements cannot be read: %s", error)
    uids = (found.get(tag, "") for tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID))
    return tuple(uid if is_safe_uid(uid) else "" for uid in uids)  # type: ignore[return-value]


class HttpBody:
    """The body of one message. End it with :meth:`end` or :meth:`abandon`."""

    def __init__(
        self,
        service: StorageService,
        caller: Caller,
        study_instance_uid: str,
        boundary: str | None,
        *,
        is_in_parts: bool = False,
    ) -> None:
        """``boundary``: None where the body is one file. Raises MultipartError.

        ``is_in_parts``: whether metadata and bulk data come in separate parts.
        """
        self._separate: StowParts | None = None
        if is_in_parts:
            largest = service.settings.limits.max_object_mb * 1_000_000
            self._separate = StowParts(service.spool, largest)
        self._writer: Writer | None = None
        self._service, self._caller, self._study = service, caller, study_instance_uid
        self._reader = MultipartReader(boundary) if boundary is not None else None
        self._file: _File | None = None if self._reader else self._new()
        self._is_dicom = True
        self._parts = 0
        self._broken: MultipartError | None = None
        self.outcomes: list[PartOutcome] = []
        self.transfers = Transfers()

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        for _ in self.feeding(data):
            pass

    def feeding(self, data: bytes) -> Iterator[None]:
        """Take the next piece of the body in steps, one an instance, so that who sends many can take turns."""
        if self._reader is None:
            assert self._file is not None
            self._file.write(data)
        elif self._broken is None:
            try:
                for event in self._reader.feed(data):
                    if isinstance(event, PartBegins):
                        self._begin(event)
                    elif isinstance(event, PartData):
                        if self._writer is not None:
                            self._writer.write(event.data)
                    elif self._separate is None:
                        self._finish_part()
                        yield
            except MultipartError as error:
                self._break(error)
            except DiskRefused:
                self._break(MultipartError(Failure.DISK_FAILED))
                self.outcomes.append(PartOutcome(Answer(Failure.DISK_FAILED)))

    def end(self) -> None:
        """The body is over: store what is complete. Raises MultipartError where it was broken before anything was."""
        for _ in self.ending():
            pass

    def ending(self) -> Iterator[None]:
        """The body is over: store what is complete, one instance a step. Raises MultipartError where nothing is."""
        if self._reader is None:
            self._finish_part()
            return
        if self._broken is None:
            try:
                self._reader.close()
            except MultipartError as error:
                self._break(error)
        if self._broken is not None:
            if not self.outcomes:
                raise self._broken
            if self._separate is None:
                self.outcomes.append(PartOutcome(Answer(Failure.NOT_UNDERSTOOD, str(self._broken))))
        elif self._separate is not None:
            models = [*self._separate.models()]  # all can be read, or nothing is stored
            if len(models) > MOST_PARTS:
                raise MultipartError(f"more than {MOST_PARTS} instances")
            for number, model in enumerate(models):
                yield
                try:
                    self._store_model(self._separate, model)
                except DiskRefused:  # it has no parts any more for the others either
                    self.abandon()
                    refusal = Answer(Failure.DISK_FAILED)
                    self.outcomes += [_refused(one, refusal) for one in models[number:]]
                    return

    def _store_model(self, parts: StowParts, model: Json) -> None:
        """Store one instance that came in parts. Raises DiskRefused where they cannot be read."""
        self._file = self._new()
        try:
            for piece in parts.file(model):
                self._file.write(piece)
        except NoInstance as error:
            self._file = None
            self.outcomes.append(_refused(model, Answer(Failure.NOT_UNDERSTOOD, str(error))))
            return
        self._finish_part()

    def abandon(self) -> None:
        """The body will not be complete: leave nothing of what is not stored yet."""
        if self._file is not None:
            self._file.abandon()
            self._file = None
        if self._separate is not None:
            self._separate.close()

    def _new(self) -> _File:
        return _File(self._service, self._caller, self._study)

    def _begin(self, part: PartBegins) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise MultipartError(f"more than {MOST_PARTS} parts")
        if self._separate is not None:
            self._writer = self._separate.part(part)
            return
        self._is_dicom = _is_dicom(part)
        self._writer = self._file = self._new() if self._is_dicom else None

    def _finish_part(self) -> None:
        instance, self._file, self._writer = self._file, None, None
        if instance is None:
            self.outcomes.append(
                PartOutcome(Answer(Failure.NOT_UNDERSTOOD, f"a part is not {DICOM}"), is_of_another_type=True)
            )
            return
        try:
            outcome = instance.end()
        finally:
            instance.abandon()
        self.outcomes.append(outcome)
        if outcome.stored is not None:
            one = outcome.stored
            self.transfers.add(one.subject, one.sop_class_uid, one.had_before)

    def _break(self, error: MultipartError) -> None:
        self._broken = error
        self.abandon()


def _refused(model: Json, answer: Answer) -> PartOutcome:
    """Of an instance that no file was made of."""
    return PartOutcome(answer, _uid(model, "00080016"), _uid(model, "00080018"))


def _uid(model: Json, tag: str) -> str:
    """A UID out of a model that cannot be relied on."""
    one = model.get(tag)
    values = one.get("Value") if isinstance(one, dict) else None
    uid = values[0] if isinstance(values, list) and values else ""
    return uid if isinstance(uid, str) and is_safe_uid(uid) else ""


def _is_dicom(part: PartBegins) -> bool:
    try:
        return parse_media_type(part.headers.get("content-type", DICOM)).essence == DICOM
    except BadMediaType:
        return False
