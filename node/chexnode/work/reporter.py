"""Closing a study: one report, to each destination that wants it, of what in it was not analysed and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from importlib.metadata import version

from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import read_intact
from chexnode.encode.not_analysed import Cause, NodeFacts, NotAnalysed, encode_not_analysed
from chexnode.encode.objects import Encoded, to_bytes
from chexnode.encode.source import Source, sanitise
from chexnode.encode.verify import verify_report
from chexnode.node import Node
from chexnode.sandbox.limits import read_limits
from chexnode.settings.destination import DestinationSettings
from chexnode.spool.spool import DiskRefused
from chexnode.vocabulary.errors import StaleMove, Transient
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import ClosedStudy, Unanalysed
from chexnode.vocabulary.states import JobState
from chexnode.vocabulary.tracebacks import traceback_of
from chexnode.vocabulary.variants import NotAnalysedForm, Variant
from chexnode.work.store import discard, store

log = logging.getLogger(__name__)

LONG_SERIES = 20
"""Instances of one series with one reason that are no longer named one by one."""

UNREADABLE = timedelta(minutes=5)
"""What a study waits whose files the disk does not give. They are never given up: the disk may be mounted again."""

_ENDS: Mapping[str, Cause] = {JobState.FAILED: JobState.FAILED, JobState.CANCELLED: JobState.CANCELLED}


class _NoSource(Exception):
    """Nothing names the study and its patient so that a report could; the text says why."""


class _Unreadable(Exception):
    """The disk does not give a file now in which the study and its patient may be named; the text says why."""


class Reporter:
    """Reports are stored, committed and delivered like any result, and made once: their UIDs follow from what they say.

    Nothing rings for their delivery: the tick that follows looks for what is due.
    """

    def __init__(self, node: Node) -> None:
        self._settings, self._ledger, self._spool = node.settings, node.ledger, node.spool
        self._limits = read_limits(node.settings.limits)
        self._later: dict[str, datetime] = {}
        """Study Instance UID -> not before, of studies whose files could not be read."""

    def report(self) -> None:
        """Report the studies that are due. Raises Transient when the database is away."""
        now = self._ledger.clock()
        self._later = {uid: due_at for uid, due_at in self._later.items() if due_at > now}
        for study in self._ledger.reports.due(leaving=self._later):
            try:
                self._report(study)
            except StaleMove:
                log.info("a study changed while it was being reported: it will be looked at again")
            except DiskRefused as error:  # retention, which comes after us, may make room
                log.warning("no study is reported for now: %s", error)
                return
            except Transient:
                raise
            except _Unreadable as error:
                log.warning("a study cannot be reported for now: %s", error)
                self._later[study.study_instance_uid] = now + UNREADABLE
            except _NoSource as error:
                log.warning("a study cannot be reported: %s", error)
                self._fail(study, str(error))
            except Exception as error:
                log.error("the report of a study failed: %s", type(error).__name__)
                self._fail(study, traceback_of(error))

    def _report(self, study: ClosedStudy) -> None:
        wanting = [
            d
            for d in self._settings.destination
            if d.not_analysed and (not d.peers or study.calling_ae_titles.intersection(d.peers))
        ]
        if not (study.images and wanting):
            self._ledger.reports.commit(study, [], [])
            return
        source = self._source(study)
        encoded: dict[str, Encoded] = {}
        to = []
        for destination in wanting:
            one = self._encode(study, source, destination)
            encoded.setdefault(one.uid, one)
            to.append((one.uid, destination.name))
        rows = store(self._spool, list(encoded.values()))
        try:
            self._ledger.reports.commit(study, rows, to)
        finally:  # also where the very report was known
            discard(self._spool, self._ledger, [row.path for row in rows])
        log.info("reported %d image(s) of a study that were not analysed", len(study.images))

    def _encode(self, study: ClosedStudy, source: Source, destination: DestinationSettings) -> Encoded:
        images = condensed(study.images)
        facts = NodeFacts(
            software_version=version("chexnode"),
            created_at=study.closed_at.astimezone(),
            series=self._settings.series.names,
            label=destination.label,
        )
        ds = encode_not_analysed(source, images, study.digest, facts, destination.sr_class)
        data = to_bytes(ds)
        verify_report(data, source)
        variant = Variant(NotAnalysedForm(destination.sr_class), destination.label)
        return Encoded.of(variant, ds, data)

    def _source(self, study: ClosedStudy) -> Source:
        """The sanitised header of an image of the study. Raises :class:`_Unreadable` or :class:`_NoSource`."""
        why, unreadable = "none of its files can be read", ""
        for path in study.paths:
            try:
                source = sanitise(read_intact(self._spool.read(path), self._limits))
            except DiskRefused as error:
                unreadable = str(error)
                continue
            except (FileNotFoundError, DecodeError) as error:
                log.warning("a file of a study to be reported cannot be read: %s", type(error).__name__)
                continue
            if source.ds.StudyInstanceUID == study.study_instance_uid:
                return source
            why = "its files give it no valid UID"
        if unreadable:
            raise _Unreadable(unreadable)
        raise _NoSource(why)

    def _fail(self, study: ClosedStudy, error: str) -> None:
        with suppress(StaleMove):  # reopened meanwhile: it will be looked at again
            self._ledger.reports.fail(study, error)


def condensed(images: Sequence[Unanalysed]) -> list[NotAnalysed]:
    """Name each image, but of a long series that has one reason only the first, and say how many more there are.

    Somebody's CT in the study is hundreds of instances, and one sentence.
    """
    together: dict[tuple[str, str], list[Unanalysed]] = {}
    for image in images:
        together.setdefault((image.series_instance_uid, image.code), []).append(image)
    told = []
    for group in together.values():
        named = group if len(group) < LONG_SERIES else group[:1]
        more = f"and {len(group) - 1} more of its series" if named is not group else ""
        told += [
            NotAnalysed(
                image.sop_class_uid,
                image.sop_instance_uid,
                image.series_instance_uid,
                _cause(image.code),
                "; ".join(filter(None, (image.detail, more))),
            )
            for image in named
        ]
    return told


def _cause(code: str) -> Cause:
    return _ENDS.get(code) or Reason(code)
