"""deploy/orthanc: a real Orthanc with that configuration routes radiographs, and nothing else, to the node."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from support import servers

EXAMPLE = Path(__file__).parents[2] / "deploy" / "orthanc"


def image(modality: str, manufacturer: str = "Test") -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid(), generate_uid()
    ds.PatientID, ds.Modality, ds.Manufacturer = "P", modality, manufacturer
    file = DicomBytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_new_radiographs_go_to_the_node_and_results_do_not(tmp_path: Path) -> None:
    example = json.loads(re.sub(r"^\s*//.*$", "", (EXAMPLE / "orthanc.json").read_text(), flags=re.M))
    assert example.pop("DicomModalities") == {"chexnode": ["CHEXNODE", "receiver", 11112]}
    assert example.pop("LuaScripts") == ["autoroute.lua"]
    ours = {"DicomPort", "RemoteAccessAllowed", "AuthenticationEnabled"}  # the helper's stay closed to loopback
    options = {key: value for key, value in example.items() if key not in ours}
    options["LuaScripts"] = [str(EXAMPLE / "autoroute.lua")]
    with servers.StoreSCP(tmp_path / "node", ae_title="CHEXNODE") as node:
        modalities = {"chexnode": ("CHEXNODE", node.port)}
        with servers.Orthanc(tmp_path / "pacs", modalities=modalities, options=options) as orthanc:
            for file in (image("SEG"), image("CT"), image("DX", "ChexNode"), image("CR"), image("DX"), image("RG")):
                orthanc.post(file)
            servers.wait_for(lambda: len(node.files()) == 3, "three images at the node")
            assert {job["State"] for job in orthanc.get("/jobs?expand")} <= {"Success", "Running"}
            assert len(orthanc.get("/jobs")) == 3
