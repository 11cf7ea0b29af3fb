"""Sending results: ChexNode's C-STORE SCU and DCMTK's storescu to the same destinations, in turn.

    python tests/bench/deliver.py [--rounds 5]

12 MB Secondary Captures and 100 kB segmentations, alone and ten on one association, to Orthanc and to DCMTK's
storescp. Prints the median time of interleaved rounds, the processor time of the sender, and ours over DCMTK's.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, SegmentationStorage
from rich.console import Console
from rich.table import Table

from chexnode.deliver.destination import DeliveryAnswer, Outgoing
from chexnode.deliver.dicom import DicomDestination
from chexnode.settings.destination import DestinationSettings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.records import DeliveryClaim
from chexnode.vocabulary.variants import ResultKind
from support import servers

SIZES = {ResultKind.SC: (SecondaryCaptureImageStorage, 2048 * 2048 * 3), ResultKind.SEG: (SegmentationStorage, 100_000)}


def write(spool: Spool, kind: ResultKind, number: int) -> Outgoing:
    """Store one object and claim it."""
    sop_class, size = SIZES[kind]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"2.25.{abs(hash(kind)) % 10**9}{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "2.25.1", f"2.25.1.{SIZES[kind][1]}", "BENCH"
    ds.PixelData = np.random.default_rng(number).integers(0, 256, size, np.uint8).tobytes()
    ds["PixelData"].VR = "OB"
    encoded = BytesIO()
    ds.save_as(encoded, enforce_file_format=True)
    file, now = spool.write_result(encoded.getvalue()), datetime.now(UTC)
    claim = DeliveryClaim(
        number, 1, "bench", "bench", kind, ds.SOPInstanceUID, sop_class, ds.file_meta.TransferSyntaxUID, file.path,
        file.digest, file.size, 0, now,
    )  # fmt: skip
    return Outgoing(claim, spool)


def ours(port: int, items: Sequence[Outgoing]) -> None:
    """Send with the node's own SCU, checksums included."""
    settings = DestinationSettings(name="bench", ae_title="BENCH", host=servers.LOOPBACK, port=port)
    destination = DicomDestination(settings, "CHEXNODE", threading.Event())
    assert [sent.answer for sent in destination.send(items)] == [DeliveryAnswer.ACCEPTED] * len(items)
    destination.close()


def dcmtk(port: int, items: Sequence[Outgoing]) -> None:
    """Send with storescu, without its 40 ms waits."""
    subprocess.run(
        [servers.find_tool("storescu", "dcmtk"), "-R", "-pdu", "131072", "-aec", "BENCH", servers.LOOPBACK, str(port)]
        + [str(item.path) for item in items],
        check=True,
        capture_output=True,
        env=os.environ | {"TCP_NODELAY": "1"},
    )


def cpu() -> float:
    """Processor seconds of this process and of those it has waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def measure(action: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor milliseconds of ``action``."""
    wall, used = time.perf_counter(), cpu()
    action()
    return (time.perf_counter() - wall) * 1e3, (cpu() - used) * 1e3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    table = Table("destination", "objects", "ours ms", "ours CPU ms", "DCMTK ms", "DCMTK CPU ms", "ours / DCMTK")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = Spool(folder / "data")
        spool.prepare()
        objects = {kind: [write(spool, kind, number) for number in range(10)] for kind in SIZES}
        with servers.Orthanc(folder / "orthanc") as orthanc, servers.StoreSCP(folder / "scp", "--ignore") as scp:
            for server in (orthanc, scp):
                for kind, items in objects.items():
                    for count in (1, 10):
                        some, runs = items[:count], []
                        for _ in range(rounds):
                            pair = (lambda: ours(server.port, some), lambda: dcmtk(server.port, some))  # noqa: B023
                            runs.append([figure for action in pair for figure in measure(action)])
                        median = [statistics.median(column) for column in zip(*runs, strict=True)]
                        figures = [f"{value:.1f}" for value in median] + [f"{median[0] / median[2]:.2f}"]
                        table.add_row(server.name, f"{count} x {kind.value}", *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
