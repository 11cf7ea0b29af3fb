"""A node that only delivers, objects for it to send, and destinations that answer as a test wants."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset

from chexnode.deliver.courier import Courier
from chexnode.ledger.ledger import Ledger
from chexnode.node import Node as OpenedNode
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.node import NodeSettings
from chexnode.settings.tls import TlsSettings
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.records import Analysis, Arrival, DeliveryView, JobSpec, NewResult, Verdict
from chexnode.vocabulary.states import InstanceState
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import KoForm, ScForm, SegForm, Variant
from support import servers
from support.ledgers import CountingBell, make_schema

PRIVATE_SOP_CLASS = "1.2.826.0.1.3680043.9.9999.1"
SPEC = JobSpec("test 1", "m" * 64, "s" * 64)
UP = Verdict(InstanceState.ANALYSABLE)


@dataclass
class Clock:
    """The node's clock: it stands still but for what a test skips."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def skip(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Node:
    """A ledger, a spool and a courier with one destination called ``pacs``."""

    def __init__(self, folder: Path, url: str, /, authorities: TlsSettings | None = None, **destination: Any) -> None:
        make_schema(url)
        self.clock = Clock()
        self.ledger = Ledger(url, self.clock)
        self.spool = Spool(folder / "data")
        self.spool.prepare()
        self.stopping = threading.Event()
        chosen = {"kind": "dicom", "timeout_seconds": 20} | destination
        if chosen["kind"] == "dicom":
            chosen = {"ae_title": "STORESCP", "host": servers.LOOPBACK} | chosen
        self.destination = DestinationSettings.model_validate({"name": "pacs"} | chosen)
        self.settings = Settings(
            node=NodeSettings(data_dir=self.spool.data_dir),
            tls=authorities or TlsSettings(),
            destination=(self.destination,),
        )
        self.jobs = 0

    def add(self, *objects: Dataset) -> list[int]:
        """Commit one job with ``objects`` as its results, due at ``pacs``; return the ids of the deliveries."""
        self.jobs += 1
        arrival = Arrival(
            sop_instance_uid=f"1.2.3.{self.jobs}",
            digest=f"{self.jobs:064x}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            study_instance_uid="1.2.3",
            series_instance_uid="1.2.3.0",
            path="none",
            size=1,
            calling_ae_title="TEST",
            address=servers.LOOPBACK,
            verdict=UP,
        )
        self.ledger.instances.record([arrival], SPEC)
        (claim,) = self.ledger.jobs.claim("test", 1, SPEC)
        results = [self.write(ds) for ds in objects]
        self.ledger.jobs.complete(claim, Analysis(0.5, True, 1), results, [(r.uid, "pacs") for r in results])
        return [d.id for d in reversed(self.ledger.views.deliveries(job=claim.id))]

    def write(self, ds: Dataset) -> NewResult:
        path = self.file(ds)
        ds.save_as(path, enforce_file_format=True)
        content = path.read_bytes()
        forms = {SegmentationStorage: SegForm(), KeyObjectSelectionDocumentStorage: KoForm(Supersession.REPLACED)}
        digest = hashlib.sha256(content).hexdigest()
        attributes = {"transfer_syntax_uid": str(ds.file_meta.TransferSyntaxUID)}
        return NewResult(
            ds.SOPInstanceUID,
            Variant(forms.get(ds.SOPClassUID, ScForm())),
            ds.SOPClassUID,
            digest,
            _stored(ds),
            len(content),
            instance=attributes,
        )

    def file(self, ds: Dataset) -> Path:
        """Where the result ``ds`` is stored."""
        return self.spool.path(_stored(ds))

    def opened(self, **parts: Any) -> OpenedNode:
        """The node as it is now; ``parts`` replace some of its parts."""
        made: dict[str, Any] = {"settings": self.settings, "stopping": self.stopping, "spec": SPEC}
        return OpenedNode(ledger=self.ledger, spool=self.spool, bell=CountingBell(), **(made | parts))

    def courier(self) -> Courier:
        return Courier(self.opened())

    def deliver(self) -> int:
        return self.courier().deliver("pacs")

    def view(self) -> dict[int, DeliveryView]:
        return {d.id: d for d in self.ledger.views.deliveries(limit=None)}

    def states(self) -> list[str]:
        return [d.state.value for _, d in sorted(self.view().items())]

    def job_states(self) -> set[str]:
        return {job.state.value for job in self.ledger.views.jobs(limit=None)}


def _stored(ds: Dataset) -> str:
    return f"spool/results/{ds.SOPInstanceUID}.dcm"


_numbers = iter(range(1, 1_000_000))


def result(
    sop_class: str = SecondaryCaptureImageStorage, syntax: str = ExplicitVRLittleEndian, size: int = 1000
) -> Dataset:
    """A small object of its own study; an odd private block and a nested sequence show any re-encoding."""
    number = next(_numbers)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{10**30 + number}"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = f"1.2.3.4.{number}"
    ds.PatientID = "P1"
    ds.PatientName = "Müller^Anna"
    ds.SpecificCharacterSet = "ISO_IR 100"
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3.1"
    ds.ReferencedImageSequence = [item]
    ds["ReferencedImageSequence"].is_undefined_length = bool(number % 2)
    ds.private_block(0x0011, "CHEXNODE TEST", create=True).add_new(0x01, "LO", "kept as it is")
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, size % 65536, 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    pixels = (bytes(range(251)) * (size // 251 + 1))[:size]
    ds.PixelData = encapsulate([pixels]) if syntax == JPEGBaseline8Bit else pixels
    ds["PixelData"].VR = "OB"
    return ds


def data_set_bytes(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


@contextmanager
def scripted(answer: Callable[[evt.Event], int | Dataset]) -> Iterator[tuple[int, list[str]]]:
    """An SCP that answers each store as told; yields its port and the names of what happened."""
    seen: list[str] = []

    def store(event: evt.Event) -> int | Dataset:
        seen.append(str(event.request.AffectedSOPInstanceUID))
        return answer(event)

    ae = AE("STORESCP")
    for sop_class in (SecondaryCaptureImageStorage, SegmentationStorage):
        ae.add_supported_context(sop_class, ExplicitVRLittleEndian)
    port = servers.free_port()
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_ACCEPTED, lambda _: seen.append("association"))]
    server = ae.start_server((servers.LOOPBACK, port), block=False, evt_handlers=handlers)
    try:
        yield port, seen
    finally:
        server.shutdown()


@contextmanager
def slow_line(to: int, bytes_a_second: float) -> Iterator[int]:
    """A TCP relay to port ``to`` that passes on no more than that, one way; yields its port."""

    def relay(source: socket.socket, sink: socket.socket, rate: float | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if rate:
                    time.sleep(len(data) / rate)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as near, socket.create_connection((servers.LOOPBACK, to)) as far:
            back = threading.Thread(target=relay, args=(far, near, None))
            back.start()
            relay(near, far, bytes_a_second)
            back.join()

    with socket.create_server((servers.LOOPBACK, 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@contextmanager
def canned(answer: bytes) -> Iterator[int]:
    """A listener that reads a little from each caller, says ``answer`` and hangs up; yields its port."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                with listener.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    with socket.create_server((servers.LOOPBACK, 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
