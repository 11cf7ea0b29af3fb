"""The note that withdraws results: valid for dciodvfy, with titles that a PACS knows, and read back as it was meant."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage, SegmentationStorage, generate_uid

from chexmodels.dicom.key_objects import KeyObject, read_key_objects
from chexnode.encode.objects import to_bytes
from chexnode.encode.rejection import TITLES, encode_rejection
from chexnode.encode.verify import verify_rejection
from chexnode.vocabulary.supersession import Supersession
from support import validators
from support.radiographs import radiograph

#: "Rejection Note Type" as dcm4chee-arc has them from the start (its wiki, Reject Instances of Study), and IHE RAD TF-2
#: 4.66.4.1: Quality, Patient Safety, Incorrect Worklist Entry, Data Retention Policy Expired.
KNOWN_TO_DCM4CHEE = frozenset({"113001", "113037", "113038", "113039"})

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def results(study: str) -> list[KeyObject]:
    """An SR, a picture and a segmentation, each in a series of its own."""
    classes = (ComprehensiveSRStorage, SecondaryCaptureImageStorage, SegmentationStorage)
    return [KeyObject(str(uid), generate_uid(), generate_uid(), study) for uid in classes]


def source() -> Dataset:
    ds = radiograph()
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "4711", "Muster^Max", "19500102", "M"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20300102", "030405", "1", "ACC-1"
    ds.ReferringPhysicianName = "Doc^Dora"
    return ds


@pytest.mark.parametrize("why", list(Supersession))
def test_a_note_of_every_reason_is_valid_and_names_what_it_withdraws(why: Supersession) -> None:
    ds = source()
    named = results(str(ds.StudyInstanceUID))
    data = to_bytes(encode_rejection(ds, named, why, NOW, "1"))
    verify_rejection(data)
    assert validators.unexplained(data, to_bytes(ds)) == []
    note = read_key_objects(dcmread(BytesIO(data)))
    assert note.is_rejection
    assert note.title == (TITLES[why].value, "DCM")
    assert note.title[0] in KNOWN_TO_DCM4CHEE
    assert {one.sop_instance_uid for one in note.objects} == {one.sop_instance_uid for one in named}
