"""How fast images are taken in: ChexNode, Orthanc and DCMTK's storescp in turn, same files, same senders.

    python tests/bench/ingest.py [--repeat 3] [--json FILE] [--quick]

DCMTK's storescu sends native DX images of 10 MB and small ones of 130 kB, with one sender and with four at once, every
image with a UID of its own, from memory (/dev/shm) so that the senders do not use the disk that is measured. The
servers take turns within each round; printed are the medians and ChexNode's ratio to each. ChexNode acknowledges after
fsync of file, folder and row; Orthanc and storescp run as they come (with TCP_NODELAY=1, without which each answer of
theirs waits 44 ms).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.receivers import ReceiverProcess
from support.senders import EXPLICIT_VR
from support.servers import Orthanc, Server, StoreSCP, find_tool

DX = "1.2.840.10008.5.1.4.1.1.1.1"
UID_LENGTH = 44


@dataclass(frozen=True)
class Load:
    """What is sent in one run."""

    name: str
    rows: int
    columns: int
    senders: int
    images: int
    """Per sender."""


LOADS = (
    Load("10 MB, 1 sender", 2500, 2048, 1, 20),
    Load("10 MB, 4 senders", 2500, 2048, 4, 10),
    Load("130 kB, 1 sender", 256, 256, 1, 300),
    Load("130 kB, 4 senders", 256, 256, 4, 150),
)


def uid() -> str:
    """A fresh UID of fixed length, so that it can be written over another in place."""
    return generate_uid(prefix="1.2.826.0.1.3680043.8.498.")[:UID_LENGTH].rstrip(".").ljust(UID_LENGTH, "1")


def make_image(rows: int, columns: int, sop_instance_uid: str) -> bytes:
    """A DX image of noise in Explicit VR Little Endian as a Part 10 file."""
    from io import BytesIO

    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT_VR
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = DX
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(), uid()
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260101", "101500", "A1", "1"
    ds.Modality, ds.Manufacturer, ds.PresentationIntentType = "DX", "Bench", "FOR PRESENTATION"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Bench^Ingest", "B1", "19700101", "O"
    ds.BodyPartExamined, ds.ViewPosition, ds.SeriesNumber, ds.InstanceNumber = "CHEST", "PA", 1, 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.ImagerPixelSpacing, ds.WindowCenter, ds.WindowWidth = [0.15, 0.15], 2048, 4096
    noise = np.random.default_rng(rows).integers(0, 4096, (rows, columns), dtype=np.uint16)
    ds.PixelData = noise.tobytes()
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def write_files(load: Load, folder: Path) -> list[Path]:
    """One folder of fresh images per sender."""
    template_uid = uid()
    template = make_image(load.rows, load.columns, template_uid)
    folders = []
    for sender in range(load.senders):
        folders.append(folder / str(sender))
        folders[-1].mkdir(parents=True)
        for index in range(load.images):
            image = template.replace(template_uid.encode(), uid().encode())
            (folders[-1] / f"{index:04}.dcm").write_bytes(image)
    return folders


def send(folders: list[Path], port: int, called: str) -> float:
    """Run one storescu per folder at once; return the seconds until the last has ended."""
    storescu = find_tool("storescu", "dcmtk")
    environment = {**os.environ, "TCP_NODELAY": "1"}
    begin = time.perf_counter()
    running = [
        subprocess.Popen(
            [storescu, "-aet", "BENCH", "-aec", called, "-R", "+sd", "127.0.0.1", str(port), str(folder)],
            env=environment,
        )
        for folder in folders
    ]
    codes = [process.wait() for process in running]
    seconds = time.perf_counter() - begin
    assert not any(codes), f"storescu ended with {codes}"
    return seconds


def peak_memory(server: Server) -> float:
    """MB that the server's processes have used at most (VmHWM)."""
    assert server.process is not None
    main = psutil.Process(server.process.pid)
    kilobytes = 0
    for process in [main, *main.children(recursive=True)]:
        with suppress(FileNotFoundError, IndexError):  # a child that has ended
            status = Path(f"/proc/{process.pid}/status").read_text()
            kilobytes += int(status.split("VmHWM:")[1].split()[0])
    return kilobytes / 1000


def measure(name: str, load: Load, memory: Path, disk: Path) -> tuple[float, float]:
    """Images per second and MB of a fresh ``name`` under ``load``.

    What it stored stays until all is measured: ext4 is slow to make files for seconds after many were deleted.
    """
    folders = write_files(load, memory)
    try:
        server: Server
        if name == "chexnode":
            server, called = ReceiverProcess(disk), "CHEXNODE"
        elif name == "orthanc":
            server, called = Orthanc(disk), "ORTHANC"
        else:
            server, called = StoreSCP(disk), "STORESCP"
        with server:
            os.sync()  # what an earlier run left in the page cache is not this one's work
            seconds = send(folders, server.port, called)
            return load.senders * load.images / seconds, peak_memory(server)
    finally:
        shutil.rmtree(memory)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median is printed")
    parser.add_argument("--quick", action="store_true", help="a quarter of the images")
    parser.add_argument("--only", default="", help="loads whose name contains this")
    parser.add_argument("--servers", default="chexnode,orthanc,storescp")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    names = options.servers.split(",")
    rates: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, dict[str, float]] = {}
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    # Not below the working folder, where tests may just have deleted thousands of files; see measure().
    on_disk = "/var/tmp" if Path("/var/tmp").is_dir() else Path.cwd()
    with tempfile.TemporaryDirectory(dir=in_memory) as fast, tempfile.TemporaryDirectory(dir=on_disk) as slow:
        for round_number in range(options.repeat):
            for load in [load for load in LOADS if options.only in load.name]:
                scaled = Load(
                    load.name, load.rows, load.columns, load.senders, load.images // (4 if options.quick else 1)
                )
                for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
                    rate, used = measure(name, scaled, Path(fast) / "files", Path(tempfile.mkdtemp(dir=slow)))
                    rates.setdefault(load.name, {}).setdefault(name, []).append(rate)
                    memory.setdefault(load.name, {})[name] = max(used, memory.get(load.name, {}).get(name, 0))
                    print(f"round {round_number + 1}: {load.name}: {name} {rate:.0f}/s, {used:.0f} MB", file=sys.stderr)
    report(rates, memory, names)
    if options.json:
        options.json.write_text(json.dumps({"images_per_second": rates, "peak_mb": memory}, indent=1))


def report(rates: dict[str, dict[str, list[float]]], memory: dict[str, dict[str, float]], names: list[str]) -> None:
    """Print medians, ratios and ChexNode's memory."""
    others = [name for name in names if name != "chexnode"]
    print("images per second, medians of interleaved runs")
    head = "".join(f"{name:>12}" for name in names) + "".join(f"{'/ ' + name:>12}" for name in others)
    print(f"{'':20}{head}{'peak MB':>12}")
    for load, by_name in rates.items():
        medians = {name: statistics.median(values) for name, values in by_name.items()}
        line = "".join(f"{medians[name]:12.1f}" for name in names)
        if "chexnode" in medians:
            line += "".join(f"{medians['chexnode'] / medians[name]:12.2f}" for name in others)
            line += f"{memory[load]['chexnode']:12.0f}"
        print(f"{load:20}{line}")


if __name__ == "__main__":
    main()
