"""What a PACS says it holds: Study Root Query/Retrieve (PS3.4 annex C) over one association."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from threading import Event
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from chexnode.audit.trail import OFF, Trail
from chexnode.deliver.destination import DestinationDown
from chexnode.deliver.dicom import Association
from chexnode.settings import DestinationSettings

_FIND, _MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
"""Study Root Query/Retrieve Information Model (PS3.4 C.6.2)."""
_IMPLICIT = "1.2.840.10008.1.2"
_UIDS_AT_ONCE = 100
"""SOP Instance UIDs in one C-MOVE identifier: some archives bound the length of a query."""


@dataclass(frozen=True, slots=True)
class Held:
    """One instance that the archive holds."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    modality: str
    body_part_examined: str
    """Empty where the archive does not say."""


class Archive:
    """A PACS to ask. Use as a context manager; entering raises DestinationDown."""

    def __init__(
        self, settings: DestinationSettings, ae_title: str, tls: ssl.SSLContext | None, trail: Trail = OFF
    ) -> None:
        self._settings, self._ae_title, self._tls, self._trail = settings, ae_title, tls, trail

    def __enter__(self) -> Self:
        contexts = [
            (_FIND, _IMPLICIT),
            (_MOVE, _IMPLICIT),
        ]
        self._assoc = Association(self._settings, self._ae_title, contexts, Event(), self._tls)
        if contexts[0] not in self._assoc.accepted:
            self._assoc.release()
            raise DestinationDown("it does not accept Study Root queries (C-FIND)")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._assoc.release()

    def studies(self, since: date, modalities: Sequence[str]) -> list[str]:
        """Study Instance UIDs of studies from ``since`` on that hold one of ``modalities``. Raises DestinationDown."""
        found: dict[str, None] = {}
        for modality in modalities:  # one at a time: Modalities in Study takes no list (PS3.4 C.2.2.2.1)
            wanted = _identifier("STUDY", StudyDate=f"{since:%Y%m%d}-", ModalitiesInStudy=modality, StudyInstanceUID="")
            for match in self._find(wanted):
                # An archive that cannot match on it returns all studies and what is in each.
                inside = match.get("ModalitiesInStudy") or modality
                if modality in ([inside] if isinstance(inside, str) else inside):
                    found[str(match.StudyInstanceUID)] = None
        return list(found)

    def instances(self, study_instance_uid: str) -> Iterator[Held]:
        """Yield everything it holds of a study. Raises DestinationDown."""
        keys = dict.fromkeys(("SeriesInstanceUID", "Modality", "BodyPartExamined"), "")
        series = list(self._find(_identifier("SERIES", StudyInstanceUID=study_instance_uid, **keys)))
        for one in series:
            uid = str(one.SeriesInstanceUID)
            wanted = _identifier("IMAGE", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=uid, SOPInstanceUID="")
            for match in self._find(wanted):
                yield Held(
                    study_instance_uid,
                    uid,
                    str(match.SOPInstanceUID),
                    str(one.get("Modality") or ""),
                    str(one.get("BodyPartExamined") or ""),
                )

    def _find(self, identifier: Dataset) -> Iterator[Dataset]:
        if self._trail.on:
            self._trail.queried(self._settings, _FIND, _IMPLICIT, _encoded(identifier))
        return self._assoc.find(_FIND, identifier)

    def send(self, instances: Sequence[Held], to: str) -> int:
        """Have it store ``instances`` of one series to AE title ``to``; return how many it says it has.

        Raises DestinationDown.
        """
        if (_MOVE, _IMPLICIT) not in self._assoc.accepted:
            raise DestinationDown("it does not accept Study Root retrieval (C-MOVE)")
        sent = 0
        for start in range(0, len(instances), _UIDS_AT_ONCE):
            some = instances[start : start + _UIDS_AT_ONCE]
            wanted = _identifier(
                "IMAGE",
                StudyInstanceUID=some[0].study_instance_uid,
                SeriesInstanceUID=some[0].series_instance_uid,
                SOPInstanceUID=[one.sop_instance_uid for one in some],
            )
            sent += self._assoc.move(_MOVE, wanted, to)
        return sent


def _encoded(identifier: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, identifier)
    return buffer.getvalue()


def _identifier(level: str, **keys: str | list[str]) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds
