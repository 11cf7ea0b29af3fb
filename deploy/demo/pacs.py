"""The PACS of the demo: Orthanc where it is installed, else a small one of our own.

Both take files, send them on to the node by C-STORE as an auto-routing rule would, and show what came back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

LOOPBACK = "127.0.0.1"

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens our own loopback addresses, whatever proxy the machine is set to use."""


class Pacs(Protocol):
    """What the demo needs of a PACS."""

    name: str
    ae_title: str
    port: int

    def start(self) -> None:
        """Listen for C-STORE."""

    def stop(self) -> None:
        """End, and leave nothing running."""

    def add(self, path: Path) -> str:
        """Take a DICOM file; return its SOP Instance UID. Raises RuntimeError if it cannot."""

    def route(self, sop_instance_uid: str) -> None:
        """Store one instance to the node. Raises RuntimeError if the node does not take it."""

    def read(self, sop_instance_uid: str) -> Dataset | None:
        """One instance, or None if it is not there."""

    def results(self) -> set[str]:
        """SOP Instance UIDs of everything that was stored by somebody else."""


class Orthanc:
    """Orthanc in a folder of its own; free ports, nothing installed is touched."""

    name = "Orthanc"
    ae_title = "ORTHANC"

    def __init__(self, folder: Path, binary: str, port: int, http_port: int, node: tuple[str, int]) -> None:
        self.port = port
        self._url = f"http://{LOOPBACK}:{http_port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._added: set[str] = set()
        self._known: dict[str, str] = {}
        self._configuration = folder / "orthanc.json"
        folder.mkdir()
        configuration = {
            "Name": "Demo PACS",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpPort": http_port,
            "DicomPort": port,
            "DicomAet": self.ae_title,
            "DicomCheckCalledAet": False,
            "DicomModalities": {"chexnode": [node[0], LOOPBACK, node[1]]},
            "Plugins": [],
            "OverwriteInstances": True,
        }
        self._configuration.write_text(json.dumps(configuration, indent=1), "utf-8")
        self._command = [binary, str(self._configuration)]

    def start(self) -> None:
        with (self._folder / "orthanc.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                # DCMTK's switch: without it each answer waits 44 ms for a delayed acknowledgement.
                env={**os.environ, "TCP_NODELAY": "1"},
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self._ask("/system")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = (self._folder / "orthanc.log").read_text("utf-8", "replace")[-1500:]
                    raise RuntimeError(f"Orthanc did not start:\n{tail}") from None
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # its files go with the folder; an orderly end takes seconds
            self._process.wait()

    def add(self, path: Path) -> str:
        try:
            identifier = json.loads(self._ask("/instances", path.read_bytes()))["ID"]
        except urllib.error.HTTPError as error:
            raise RuntimeError("Orthanc does not take this file") from error
        uid = json.loads(self._ask(f"/instances/{identifier}"))["MainDicomTags"]["SOPInstanceUID"]
        self._known[uid] = identifier
        self._added.add(uid)
        return str(uid)

    def route(self, sop_instance_uid: str) -> None:
        request = json.dumps({"Resources": [self._known[sop_instance_uid]], "Synchronous": True})
        try:
            self._ask("/modalities/chexnode/store", request.encode())
        except urllib.error.HTTPError as error:
            raise RuntimeError("the node did not take it from Orthanc") from error

    def read(self, sop_instance_uid: str) -> Dataset | None:
        if sop_instance_uid not in self._known:
            return None
        return dcmread(BytesIO(self._ask(f"/instances/{self._known[sop_instance_uid]}/file")))

    def results(self) -> set[str]:
        for instance in json.loads(self._ask("/instances?expand")):
            self._known[instance["MainDicomTags"]["SOPInstanceUID"]] = instance["ID"]
        return self._known.keys() - self._added

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        with DIRECT.open(self._url + path, data=body, timeout=60) as answer:
            return bytes(answer.read())


class SmallPacs:
    """A pynetdicom storage SCP that files what it gets, and an SCU that stores it on. It lives in this process."""

    name = "a small one of ours"
    ae_title = "SMALLPACS"

    def __init__(self, folder: Path, port: int, node: tuple[str, int]) -> None:
        self.port = port
        self._folder = folder
        self._node = node
        self._server: Any = None
        self._added: set[str] = set()
        folder.mkdir()

    def start(self) -> None:
        ae = AE(self.ae_title)
        ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, AllTransferSyntaxes)
        handlers = [(evt.EVT_C_STORE, self._file)]
        self._server = ae.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()

    def _file(self, event: Any) -> int:
        uid = event.request.AffectedSOPInstanceUID
        if not uid.is_valid:  # it becomes a file name
            return 0xA900
        part = self._folder / f"{uid}.part"
        part.write_bytes(event.encoded_dataset())
        part.rename(self._path(uid))
        return 0x0000

    def _path(self, sop_instance_uid: str) -> Path:
        return self._folder / f"{sop_instance_uid}.dcm"

    def add(self, path: Path) -> str:
        try:
            uid = dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
        except Exception as error:  # whatever pydicom raises at a broken file
            raise RuntimeError("the file cannot be read") from error
        if not uid.is_valid:  # it becomes a file name
            raise RuntimeError("its SOP Instance UID is not valid")
        shutil.copyfile(path, self._path(uid))
        self._added.add(uid)
        return uid

    def route(self, sop_instance_uid: str) -> None:
        path = self._path(sop_instance_uid)
        meta = read_file_meta_info(path)
        ae = AE(self.ae_title)
        ae.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
        assoc = ae.associate(LOOPBACK, self._node[1], ae_title=self._node[0])
        if not assoc.is_established:
            raise RuntimeError("the node refused the association")
        try:
            status = assoc.send_c_store(path).get("Status")
        except Exception as error:  # whatever pynetdicom raises at a broken file
            raise RuntimeError("the file cannot be sent") from error
        finally:
            assoc.release()
        if status != 0x0000:
            raise RuntimeError(f"the node answered {'nothing' if status is None else f'0x{status:04X}'}")

    def read(self, sop_instance_uid: str) -> Dataset | None:
        path = self._path(sop_instance_uid)
        return dcmread(path) if path.exists() else None

    def results(self) -> set[str]:
        return {path.stem for path in self._folder.glob("*.dcm")} - self._added


def choose(folder: Path, ports: tuple[int, int], node: tuple[str, int], small: bool = False) -> Pacs:
    """The PACS for this machine. ``ports``: DICOM and HTTP. ``node``: its AE title and DICOM port."""
    binary = shutil.which("Orthanc", path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")
    if binary is None or small:
        return SmallPacs(folder, ports[0], node)
    return Orthanc(folder, binary, *ports, node)
