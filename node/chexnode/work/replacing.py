"""One set of results in place of another: why the old one ends, and the notes that withdraw it where it was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from chexmodels.dicom.key_objects import KeyObject
from chexnode.encode.attributes import IDENTITY, TYPE_2
from chexnode.encode.objects import Encoded, to_bytes
from chexnode.encode.rejection import encode_rejection
from chexnode.encode.verify import verify_rejection
from chexnode.settings.destination import DestinationSettings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.records import ResultSet, SetMember
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import KoForm, ResultKind, Variant

_OF_PATIENT_AND_STUDY = tuple(k for k in IDENTITY if k not in ("SeriesInstanceUID", "SOPInstanceUID"))


def header_of(old: ResultSet, spool: Spool) -> Dataset | None:
    """The header of one of the set's objects: whose results they are. None where retention has deleted them all.

    Raises :class:`~chexnode.spool.spool.DiskRefused`.
    """
    for member in old.members:
        if member.path is not None:
            try:
                return dcmread(BytesIO(spool.read(member.path)), stop_before_pixels=True)
            except FileNotFoundError:
                continue
    return None


def reason_for(old: Dataset | None, new: Dataset) -> Supersession:
    """Why results with the header ``old`` end when such with the identity of ``new`` are made."""
    if old is None:
        return Supersession.REPLACED
    same = all(old.get(keyword, "") == new.get(keyword, "") for keyword in _OF_PATIENT_AND_STUDY)
    return Supersession.REPLACED if same else Supersession.CORRECTED


def key_object(member: SetMember) -> KeyObject:
    """``member`` as a document names it."""
    return KeyObject(member.sop_class_uid, member.uid, member.series_instance_uid, member.study_instance_uid)


def predecessors(sets: Sequence[ResultSet]) -> tuple[KeyObject, ...]:
    """The reports among ``sets``."""
    return tuple(key_object(m) for old in sets for m in old.members if m.kind is ResultKind.SR)


def withdrawals(
    sets: Mapping[str, tuple[ResultSet, Dataset | None, Supersession]],
    destinations: Sequence[DestinationSettings],
    created_at: datetime,
) -> tuple[list[Encoded], list[tuple[str, str]]]:
    """The notes that withdraw ``sets`` from those of ``destinations`` that may have them, and (UID, destination) pairs.

    ``sets``: by job, with the header of one of their objects; one without a header names no patient.
    """
    notes: dict[str, Encoded] = {}
    to = []
    for old, header, why in sets.values():
        for destination in destinations:
            there = [m for m in old.members if destination.name in m.destinations and m.series_instance_uid]
            if destination.withdraw == "none" or not there:
                continue
            identity = header if header is not None else _unknown()
            ds = encode_rejection(identity, [key_object(m) for m in there], why, created_at, version("chexnode"))
            data = to_bytes(ds)
            verify_rejection(data)
            # Without a series DICOMweb does not serve it; its study is that of what it withdraws.
            note = replace(
                Encoded.of(Variant(KoForm(why)), ds, data),
                series_instance_uid="",
                study_instance_uid=str(ds.StudyInstanceUID),
            )
            notes.setdefault(note.uid, note)
            to.append((note.uid, destination.name))
    return list(notes.values()), to


def _unknown() -> Dataset:
    ds = Dataset()
    for keyword in TYPE_2:
        setattr(ds, keyword, "")
    return ds
