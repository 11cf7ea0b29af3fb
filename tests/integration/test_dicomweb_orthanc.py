"""Orthanc as a DICOMweb client: it sends to us by STOW-RS, searches here, and retrieves from us."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, generate_uid

from support.dicomweb import DICOM, part10_of, path_of, serving
from support.radiographs import radiograph
from support.receivers import a_settings
from support.senders import take_apart
from support.servers import Orthanc


def image() -> Dataset:
    uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return radiograph(**uids)


def test_orthanc_stores_searches_and_retrieves(tmp_path: Path) -> None:
    native, compressed, ours = image(), image(), image()
    compressed.compress(JPEG2000Lossless, generate_instance_uid=False)
    with serving(a_settings(tmp_path / "node")) as service:
        web = {"DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"chexnode": [f"{service.url}/"]}}}
        with Orthanc(tmp_path, dicom_web=True, options=web) as orthanc:
            resources = [orthanc.post(part10_of(ds)) for ds in (native, compressed)]
            sent = orthanc.http.post(
                "/dicom-web/servers/chexnode/stow", json={"Resources": resources, "Synchronous": True}
            )
            assert sent.status_code == 200, sent.text
            for ds in (native, compressed):
                back = service.get(path_of(ds), f"{DICOM}; transfer-syntax=*")
                assert back.status_code == 200
                assert take_apart(back.content).data == take_apart(part10_of(ds)).data

            assert service.store(part10_of(ours)).status_code == 200
            arguments = {"PatientID": "PID-1", "StudyInstanceUID": ours.StudyInstanceUID}
            found = orthanc.http.post(
                "/dicom-web/servers/chexnode/qido", json={"Uri": "/studies", "Arguments": arguments}
            )
            assert len(found.json()) == 1
            assert ours.StudyInstanceUID in found.text

            wanted = {"Resources": [{"Study": ours.StudyInstanceUID}], "Synchronous": True}
            got = orthanc.http.post("/dicom-web/servers/chexnode/retrieve", json=wanted)
            assert got.status_code == 200, got.text
            (identifier,) = orthanc.lookup(ours.SOPInstanceUID)
            assert orthanc.dataset(identifier).PixelData == ours.PixelData
