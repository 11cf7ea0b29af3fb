"""Studies that come in and close, on a real ledger and spool, with folders as destinations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from chexnode.deliver.courier import Courier
from chexnode.keep.housekeeping import Housekeeper
from chexnode.ledger.ledger import Ledger
from chexnode.node import Node
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Arrival, Verdict
from chexnode.vocabulary.states import InstanceState
from chexnode.work.rejecting import read_notes
from chexnode.work.reporter import Reporter
from support.ledgers import SPEC, Clock, CountingBell, arrival, record
from support.radiographs import parsed, part10, radiograph

LATERAL = Verdict(InstanceState.NOT_ANALYSED, Reason.LATERAL_VIEW, "View Position is LL")
UP = Verdict(InstanceState.ANALYSABLE)


class Site:
    """A ledger, a spool, and folders as destinations."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock) -> None:
        self.folder, self.ledger, self.clock = folder, ledger, clock
        self.spool = Spool(folder / "data")
        self.spool.prepare()
        self.study = parsed(radiograph()).StudyInstanceUID
        self.settings = self.configured()
        self.images = 0

    def configured(self, *destinations: dict[str, Any]) -> Settings:
        made = destinations or ({"name": "pacs", "not_analysed": True},)
        for one in made:
            (self.folder / one["name"]).mkdir(exist_ok=True)
        tables = [{"kind": "folder", "path": self.folder / one["name"]} | one for one in made]
        self.settings = Settings.model_validate({"destination": tables})
        self.reporter = Reporter(self.node)
        return self.settings

    @property
    def node(self) -> Node:
        """The node as it is configured now."""
        return Node(self.settings, self.ledger, self.spool, CountingBell(), SPEC, owner="tests")

    def receive(self, verdict: Verdict = UP, ds: Dataset | None = None, **facts: Any) -> Arrival:
        """Store an image of the study as the receiver does."""
        self.images += 1
        ds = ds or radiograph(SOPInstanceUID=f"1.2.3.{self.images}")
        incoming = self.spool.incoming()
        incoming.write(part10(ds))
        stored = incoming.complete("sources")
        incoming.keep()
        one = arrival(
            ds.SOPInstanceUID,
            path=stored.path,
            verdict=verdict,
            **{
                "instance": {"rows": 96, "columns": 80},
                "study_instance_uid": self.study,
                "series_instance_uid": ds.SeriesInstanceUID,
                "sop_class_uid": ds.SOPClassUID,
            }
            | facts,
        )
        record(self.ledger, one)
        return one

    def close(self) -> None:
        """Let the study be quiet for long enough, and keep house once."""
        self.clock.forward(31)
        self.tick()

    def tick(self) -> None:
        Housekeeper(self.node, self.reporter.report, partial(read_notes, self.node)).tick()

    def deliver(self) -> None:
        courier = Courier(self.node)
        for destination in self.settings.destination:
            courier.deliver(destination.name)

    def delivered(self, name: str = "pacs") -> list[Dataset]:
        self.deliver()
        found = [dcmread(path) for path in (self.folder / name).iterdir()]
        return [ds for ds in found if "not analysed" in ds.SeriesDescription.lower()]

    def files(self) -> list[Path]:
        return [path for path in (self.folder / "data" / "spool" / "results").rglob("*") if path.is_file()]
