"""A node that has something to show: images that were analysed, one that was not, results that were given up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from support import senders
from support.bundles import second_version
from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.servers import LOOPBACK, OnlySecondaryCapture, StoreSCP

HOSTILE = "<script>alert(1)</script>^\u202eEve"
NAMES = ("Weber^Anna", "Okafor^Chidi", "Nguyen^Lan", "García^Lucía", "Sato^Ken", "Dubois^Marie")


@dataclass
class Place:
    """A running node and two destinations: one that takes all, one that takes Secondary Captures alone."""

    node: Node
    files: list[Path]

    @property
    def url(self) -> str:
        """Where its web role is."""
        return f"http://{LOOPBACK}:{self.node.web_port}"

    def send(self, file: Path) -> None:
        """Send one file by C-STORE."""
        assert senders.store_file(self.node.port, senders.read_part10(file)).status == 0


@contextmanager
def place(
    folder: Path, count: int = 4, names: Sequence[str] = (*NAMES[:4], HOSTILE, NAMES[4]), *, trial: float | None = None
) -> Iterator[Place]:
    """Have it run with ``count`` phantoms and a lateral view in it, all settled; one more file is left to be sent.

    ``trial``: the threshold of a second version of the model, on trial beside the first.
    """
    models = {}
    if trial is not None:
        old, new = "phantom64", str(second_version(folder / "trial", trial))
        models["model"] = [
            {"name": "main", "bundle": old, "device": "cpu", "mode": "deliver"},
            {"name": "candidate", "bundle": new, "device": "cpu", "mode": "shadow"},
        ]
    with StoreSCP(folder, ae_title="PACS") as pacs, OnlySecondaryCapture(folder, ae_title="WORKSTATION") as station:
        destinations = [
            loopback_destination("pacs", "PACS", pacs.port),
            loopback_destination("workstation", "WORKSTATION", station.port),
        ]
        node = Node(folder / "node", destination=destinations, **models)
        files = phantom_files(folder / "phantoms", count + 2)
        for number, file in enumerate(files):
            ds = dcmread(file)
            ds.PatientName, ds.PatientID = names[number % len(names)], f"P-{1000 + number}"
            ds.AccessionNumber, ds.StationName = f"A-{2000 + number}", ("DRX 7", "AXIOM 3")[number % 2]
            ds.SpecificCharacterSet = "ISO_IR 192"
            if number == count:
                ds.ViewPosition = "LL"
            ds.save_as(file)
        with node.up:
            made = Place(node, files)
            for file in files[:-1]:
                made.send(file)
            node.wait_until_settled(count + 1)
            yield made
