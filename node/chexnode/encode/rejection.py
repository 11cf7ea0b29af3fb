"""The note by which results are withdrawn: a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010) as IHE's Imaging
Object Change Management has it (RAD TF-2 4.66, Rejection Note Stored; titles of RAD TF-3 and PS3.16 CID 7010).

It is an object of the study and the patient that the withdrawn results are of, not of those that take their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256

from highdicom import ContributingEquipment
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from chexmodels.dicom.key_objects import KeyObject
from chexnode.encode.attributes import OPTIONAL, TYPE_2
from chexnode.encode.provenance import MANUFACTURER, derived_uid, long_string, set_times
from chexnode.vocabulary.series import SeriesName
from chexnode.vocabulary.supersession import Supersession

SERIES = SeriesName(9401, "AI Withdrawal - NOT FOR DIAGNOSTIC USE")

#: Document Title (CID 7010) by reason.
TITLES: Mapping[Supersession, Code] = {
    Supersession.CORRECTED: codes.DCM.IncorrectModalityWorklistEntry,
    Supersession.ERASED: codes.DCM.DataRetentionPolicyExpired,
    Supersession.REJECTED: codes.DCM.RejectedForQualityReasons,
    Supersession.REPLACED: codes.DCM.RejectedForQualityReasons,
}

_WITH_PIXELS = frozenset({SegmentationStorage, SecondaryCaptureImageStorage})


def encode_rejection(
    identity: Dataset, rejected: Sequence[KeyObject], why: Supersession, created_at: datetime, software_version: str
) -> Dataset:
    """Return the note that withdraws ``rejected``, at least one, all of one study.

    ``identity``: the patient and the study, by the header of one of them. The same objects and reason have the same
    UIDs, whoever is told. ``created_at`` is aware.
    """
    blank = Dataset()  # highdicom warns about and refuses real-life names
    for keyword in TYPE_2:
        setattr(blank, keyword, "")
    evidence = []
    for one in rejected:
        ds = Dataset()
        ds.update(blank)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = one.study_instance_uid, one.series_instance_uid
        ds.SOPClassUID, ds.SOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        if one.sop_class_uid in _WITH_PIXELS:
            ds.Rows = ds.Columns = 1  # by which highdicom tells an IMAGE from a COMPOSITE
        evidence.append(ds)
    names = "\0".join([why, *sorted(one.sop_instance_uid for one in rejected)])

    def uid(part: str) -> str:
        return derived_uid(sha256(f"rejection\0{names}\0{part}".encode()).digest())

    versions = [long_string(f"ChexNode {software_version}")]
    observer = DeviceObserverIdentifyingAttributes(
        uid=derived_uid(sha256(b"node").digest()), name=MANUFACTURER, manufacturer_name=MANUFACTURER
    )
    ds = KeyObjectSelectionDocument(
        evidence=evidence,
        content=KeyObjectSelection(
            document_title=TITLES[why],
            referenced_objects=evidence,
            observer_device_context=ObserverContext(codes.DCM.Device, observer),
        ),
        series_instance_uid=uid("series"),
        series_number=SERIES.number,
        sop_instance_uid=uid("instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        specific_character_set="ISO_IR 192",
        series_description=SERIES.description,
        software_versions=versions,
        contributing_equipment=[
            ContributingEquipment(
                manufacturer=MANUFACTURER,
                purpose_of_reference=codes.DCM.ProcessingEquipment,
                software_versions=versions,
                contribution_datetime=created_at.strftime("%Y%m%d%H%M%S.%f%z"),
            )
        ],
    )
    for keyword in (*TYPE_2, *OPTIONAL):
        if keyword in identity:
            ds.add(identity[keyword])
    set_times(ds, created_at)
    return ds
