"""A PACS as a destination: C-STORE (PS3.4 annex B) and the request for storage commitment (annex J)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.file_meta import span
from chexnode.deliver.destination import DeliveryAnswer, Interrupted, Outgoing, Sent, load
from chexnode.deliver.implicit import to_implicit
from chexnode.deliver.status import interpret
from chexnode.dimse.pdus import MAX_CONTEXTS, TRANSFER_SYNTAXES_REFUSED
from chexnode.dimse.requestor import Association, Context
from chexnode.dimse.uids import IMPLICIT_VR, PUSH_MODEL, VERIFICATION
from chexnode.settings.destination import DestinationSettings
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest

_VERIFICATION: Context = (VERIFICATION, IMPLICIT_VR)
_ANSWER_SECONDS = 1.0


class DicomDestination:
    """One PACS, through one association at a time; it stays open between batches until :meth:`close`."""

    def __init__(
        self, settings: DestinationSettings, ae_title: str, stop: Event, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._ae_title = ae_title
        self._tls = tls
        self._stop = stop
        self._assoc: Association | None = None
        self._proposed: set[Context] = set()

    @property
    def name(self) -> str:
        return self._settings.name

    def send(self, items: Sequence[Outgoing]) -> Iterator[Sent]:
        """Send ``items`` in order and yield one answer each; fewer when asked to stop. Raises DestinationDown."""
        contexts = [with_default((item.claim.sop_class_uid, item.claim.transfer_syntax_uid)) for item in items]
        assoc = self._associate({context for offered in contexts for context in offered}) if items else None
        for item, offered in zip(items, contexts, strict=True):
            if self._stop.is_set():
                return
            assert assoc is not None
            content = load(item)
            if isinstance(content, Sent):
                yield content
            elif (data := _data_set(content)) is None:
                yield Sent(item, DeliveryAnswer.DEAD, "the stored file is not a DICOM file")
            elif not (usable := [context for context in offered if context in assoc.accepted]):
                yield Sent(item, DeliveryAnswer.DEAD, _refusal(offered[0], assoc))
            else:
                try:
                    sent = data if usable[0] == offered[0] else to_implicit(data)
                    status, comment = assoc.store(usable[0], item.claim.sop_instance_uid, sent)
                except DestinationDown as error:
                    self._assoc = None
                    raise Interrupted(f"{error.why}, during a store", item) from error
                answer, detail = interpret(status)
                if usable[0] != offered[0]:
                    detail = "; ".join(filter(None, (detail, "sent as Implicit VR Little Endian, values unchanged")))
                yield Sent(item, answer, detail, status, comment if status else "")

    def request_commitment(self, request: CommitmentRequest, on_report: Callable[[Dataset], int]) -> None:
        """Ask for storage commitment, and wait a moment for an answer on the same association.

        ``on_report``: see :class:`Association`. Raises DestinationDown where the request is not accepted.
        """
        self.close()
        context = (PUSH_MODEL, IMPLICIT_VR)
        answered = Event()

        def answer(information: Dataset) -> int:
            status = on_report(information)
            answered.set()
            return status

        assoc = Association(self._settings, self._ae_title, [context], self._stop, self._tls, on_report=answer)
        if context not in assoc.accepted:
            raise DestinationDown("the destination does not offer storage commitment")
        try:
            status, comment = assoc.request_commitment(request)
            if status != 0x0000:
                raise DestinationDown(f"the request for storage commitment failed with status 0x{status:04X}", comment)
            if not answered.is_set():
                assoc.await_report(_ANSWER_SECONDS)
        finally:
            assoc.release()

    def close(self) -> None:
        """Release the association, if there is one."""
        assoc, self._assoc = self._assoc, None
        if assoc is not None:
            assoc.release()

    def _associate(self, contexts: set[Context]) -> Association:
        """Have an association on which all ``contexts`` have been proposed. Raises DestinationDown."""
        if self._assoc is None or not contexts <= self._proposed:
            self.close()
            together = self._proposed | contexts
            self._proposed = together if len(together) <= MAX_CONTEXTS else set(contexts)
            self._assoc = Association(self._settings, self._ae_title, sorted(self._proposed), self._stop, self._tls)
        return self._assoc


@dataclass(frozen=True, slots=True)
class Probe:
    """What a destination answers to an association request and a C-ECHO."""

    echo: bool
    """C-ECHO succeeded."""
    refused: tuple[Context, ...]
    """The contexts that it accepts neither as they are nor in the default transfer syntax."""


def probe(
    settings: DestinationSettings, ae_title: str, contexts: Sequence[Context], tls: ssl.SSLContext | None = None
) -> Probe:
    """Propose Verification and ``contexts`` on one association and C-ECHO; nothing is stored.

    Raises DestinationDown.
    """
    proposed = {offered: None for context in contexts for offered in with_default(context)}
    assoc = Association(settings, ae_title, [_VERIFICATION, *proposed], Event(), tls)
    echo = _VERIFICATION in assoc.accepted and assoc.echo()[0] == 0x0000
    assoc.release()
    return Probe(echo, tuple(cx for cx in contexts if not assoc.accepted.intersection(with_default(cx))))


def with_default(context: Context) -> tuple[Context, ...]:
    """``context``, and the one that PS3.5 section 10.1 has us offer with every uncompressed object."""
    sop_class_uid, transfer_syntax_uid = context
    if transfer_syntax_uid != ExplicitVRLittleEndian:
        return (context,)
    return context, (sop_class_uid, IMPLICIT_VR)


def _data_set(file: bytes) -> memoryview | None:
    """What follows group 0002 of a Part 10 ``file``; None where there is none."""
    try:
        ends = span(file, is_all=True)
    except DecodeError:
        return None
    return None if ends is None else memoryview(file)[ends[1] :]


def _refusal(context: Context, assoc: Association) -> str:
    sop_class, transfer_syntax = UID(context[0]).name, UID(context[1]).name
    # DCMTK, and so Orthanc, blame the SOP class even where they accept it in another transfer syntax.
    accepted_otherwise = any(sop_class_uid == context[0] for sop_class_uid, _ in assoc.accepted)
    if accepted_otherwise or assoc.refused.get(context) == TRANSFER_SYNTAXES_REFUSED:
        return f"transfer syntax not accepted by destination: {transfer_syntax} for {sop_class}"
    return f"SOP class not accepted by destination: {sop_class}"
