"""What a PACS says it holds, and having it sent: Study Root Query/Retrieve (PS3.4 annex C)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Event
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLosslessRPCL

from chexmodels.dicom.transfer_syntaxes import DECODED, NATIVE
from chexnode.dimse import datasets
from chexnode.dimse.requestor import Association, Context, NotSent
from chexnode.node import Node
from chexnode.receive.session import StorageSession
from chexnode.receive.storage import StorageService
from chexnode.settings.destination import DestinationSettings
from chexnode.tls import client_context
from chexnode.triage import reading
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import Caller

log = logging.getLogger(__name__)

_FIND, _MOVE, _GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
"""Study Root Query/Retrieve Information Model (PS3.4 C.6.2)."""
_IMPLICIT = "1.2.840.10008.1.2"
_UIDS_AT_ONCE = 100
"""SOP Instance UIDs in one C-MOVE or C-GET identifier: some archives bound the length of a query."""

_RADIOGRAPHS = (
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, For Presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, For Processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
)
"""Storage SOP classes that are proposed where the archive does not say of which its images are."""

_MOST_CLASSES = 8
"""Of one association: each is proposed once in every transfer syntax, and there is room for 128 (PS3.8 9.3.2.2)."""

#: One context each, so that the archive may send an image as it has stored it.
_TRANSFER_SYNTAXES = (
    str(ExplicitVRLittleEndian),
    *sorted(map(str, (NATIVE | DECODED) - {ExplicitVRLittleEndian, HTJ2KLosslessRPCL})),
)


@dataclass(frozen=True, slots=True)
class ArchivedInstance:
    """One instance that the archive holds."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    modality: str
    body_part_examined: str
    """Empty where the archive does not say."""
    sop_class_uid: str = ""
    """Empty where the archive does not say."""
    is_by_algorithm: bool = False
    """Whether its series is a result of an algorithm, ours or another's."""


def asking(settings: DestinationSettings) -> tuple[Context, ...]:
    """The presentation contexts of asking it, and of having it send."""
    return ((_FIND, _IMPLICIT), (_GET if settings.retrieve == "get" else _MOVE, _IMPLICIT))


class Archive:
    """A PACS to ask. Use as a context manager; entering raises DestinationDown."""

    def __init__(self, node: Node, settings: DestinationSettings, storage: StorageService | None = None) -> None:
        """``storage``: takes what :meth:`fetch` gets by C-GET; not needed for C-MOVE."""
        self.settings, self._storage = settings, storage
        self._ae_title, self._trail = node.settings.node.ae_title, node.trail
        self._tls = client_context(node.settings.tls) if settings.tls else None

    def __enter__(self) -> Self:
        # C-GET has associations of its own.
        contexts = [context for context in asking(self.settings) if context[0] != _GET]
        self._assoc = Association(self.settings, self._ae_title, contexts, Event(), self._tls)
        if contexts[0] not in self._assoc.accepted:
            self._assoc.release()
            raise DestinationDown("it does not accept Study Root queries (C-FIND)")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._assoc.release()

    def studies(self, wanted_studies: Filter, modalities: Sequence[str]) -> list[str]:
        """Study Instance UIDs of the wanted studies, by Study Date, that hold one of ``modalities``.

        Raises DestinationDown.
        """
        since, until = wanted_studies.since, wanted_studies.until
        last = f"{until - timedelta(microseconds=1):%Y%m%d}" if until is not None else ""
        keys = {"StudyDate": f"{since:%Y%m%d}-{last}" if since is not None or last else ""}
        keys |= {"AccessionNumber": wanted_studies.accession} if wanted_studies.accession else {}
        keys |= {"PatientID": wanted_studies.patient} if wanted_studies.patient else {}
        keys |= {"StudyInstanceUID": wanted_studies.study or ""}
        found: dict[str, None] = {}
        for modality in modalities:  # one at a time: Modalities in Study takes no list (PS3.4 C.2.2.2.1)
            wanted = _identifier("STUDY", ModalitiesInStudy=modality, **keys)
            for match in self._find(wanted):
                # An archive that cannot match on it returns all studies and what is in each.
                inside = match.get("ModalitiesInStudy") or modality
                if modality in ([inside] if isinstance(inside, str) else inside):
                    found[str(match.StudyInstanceUID)] = None
        return list(found)

    def instances(self, study_instance_uid: str) -> Iterator[ArchivedInstance]:
        """Yield everything it holds of a study. Raises DestinationDown."""
        named = ("SeriesInstanceUID", "Modality", "BodyPartExamined", "SeriesDescription", "Manufacturer")
        keys = dict.fromkeys(named, "")
        series = list(self._find(_identifier("SERIES", StudyInstanceUID=study_instance_uid, **keys)))
        for one in series:
            uid = str(one.SeriesInstanceUID)
            is_by_algorithm = reading.is_by_algorithm(
                str(one.get("Manufacturer") or ""), str(one.get("SeriesDescription") or "")
            )
            above = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": uid}
            for match in self._find(_identifier("IMAGE", **above, SOPInstanceUID="", SOPClassUID="")):
                yield ArchivedInstance(
                    study_instance_uid,
                    uid,
                    str(match.SOPInstanceUID),
                    str(one.get("Modality") or ""),
                    str(one.get("BodyPartExamined") or ""),
                    str(match.get("SOPClassUID") or ""),
                    is_by_algorithm,
                )

    def _find(self, identifier: Dataset) -> Iterator[Dataset]:
        if self._trail.on:
            self._trail.queried(self.settings, _FIND, _IMPLICIT, datasets.encode(identifier, _IMPLICIT))
        return self._assoc.find(_FIND, identifier)

    def fetch(self, instances: Iterable[ArchivedInstance]) -> int:
        """Have it send ``instances`` to us, series by series; return how many it says it has sent.

        Raises DestinationDown.
        """
        by_series = defaultdict[str, list[ArchivedInstance]](list)
        for one in instances:
            by_series[one.series_instance_uid].append(one)
        fetch = self._get if self.settings.retrieve == "get" else self._move
        return sum(
            fetch(some[start : start + _UIDS_AT_ONCE])
            for some in by_series.values()
            for start in range(0, len(some), _UIDS_AT_ONCE)
        )

    def _move(self, some: Sequence[ArchivedInstance]) -> int:
        if (_MOVE, _IMPLICIT) not in self._assoc.accepted:
            raise DestinationDown("it does not accept Study Root retrieval (C-MOVE)")
        return self._assoc.move(_MOVE, _named(some), self._ae_title)

    def _get(self, some: Sequence[ArchivedInstance]) -> int:
        """All at once, or one by one if it gives up at the first that we refuse, as Orthanc does."""
        kept = set[str]()
        try:
            return self._get_at_once(some, kept)
        except NotSent as failure:
            log.warning("not all has come by C-GET: %s", failure.why, extra={"asked": len(some), "came": len(kept)})
            left = [one for one in some if one.sop_instance_uid not in kept]
            return len(kept) + (sum(self._get([one]) for one in left) if len(some) > 1 else 0)

    def _get_at_once(self, some: Sequence[ArchivedInstance], kept: set[str]) -> int:
        """On an association of its own, which proposes the SOP classes that come; add what is stored to ``kept``."""
        known = sorted({one.sop_class_uid for one in some if one.sop_class_uid})[:_MOST_CLASSES]
        classes = known if all(one.sop_class_uid for one in some) else _RADIOGRAPHS
        contexts = [(_GET, _IMPLICIT), *((sop_class, syntax) for sop_class in classes for syntax in _TRANSFER_SYNTAXES)]
        assert self._storage is not None
        record = partial(self._trail.fetched, self.settings)
        session = StorageSession(self._storage, caller_of(self.settings), record, kept.add)
        ours = (self.settings, self._ae_title, contexts, Event(), self._tls)
        assoc = Association(*ours, as_scp=classes, storage=session)
        try:
            if contexts[0] not in assoc.accepted:
                raise DestinationDown("it does not accept Study Root retrieval (C-GET)")
            return assoc.get(_GET, _named(some))
        finally:
            session.close()
            assoc.release()


def caller_of(source: DestinationSettings) -> Caller:
    """As whom ``source`` counts in rules and tables: its AE title, or its name."""
    return Caller(source.ae_title or source.name[:16], source.address)


def _named(some: Sequence[ArchivedInstance]) -> Dataset:
    """The identifier of instances of one series."""
    return _identifier(
        "IMAGE",
        StudyInstanceUID=some[0].study_instance_uid,
        SeriesInstanceUID=some[0].series_instance_uid,
        SOPInstanceUID=[one.sop_instance_uid for one in some],
    )


def _identifier(level: str, **keys: str | list[str]) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds
