"""One exchange: radiographs go from the PACS to the node, and what the node makes of them comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_node import LocalNode
from pacs import Pacs
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

KINDS = {SegmentationStorage: "SEG", Comprehensive3DSRStorage: "SR", SecondaryCaptureImageStorage: "SC"}
OVER = {"DONE", "REFUSED", "FAILED", "CANCELLED", "NOT_ANALYSED", "QUARANTINED"}
"""States in which the node has nothing more to do for an image."""
STUCK_SECONDS = 120
"""Nothing has come back for this long: it will not."""


@dataclass
class Sent:
    """One radiograph on its way."""

    path: Path
    is_phantom: bool
    uid: str = ""
    stored_at: float = 0.0
    """When the PACS began its C-STORE, by the monotonic clock."""
    problem: str = ""
    """Why it was not stored."""
    job: dict[str, Any] = field(default_factory=dict)
    """What the node says about it: the keys of ``chexnode jobs --json``."""
    results: list[Dataset] = field(default_factory=list)
    """What came back."""
    last_at: float = 0.0
    """When the last of it was seen; before ``stored_at`` if the same instance had been sent under another name."""

    @property
    def state(self) -> str | None:
        """The node's word for where it is."""
        return self.job.get("state")

    @property
    def kinds(self) -> list[str]:
        """SEG, SR and SC, as they came back."""
        order = list(KINDS.values())
        return sorted((KINDS[ds.SOPClassUID] for ds in self.results), key=order.index)

    @property
    def lacks(self) -> list[str]:
        """Objects that should be in the PACS and are not."""
        if self.problem or self.state != "DONE":
            return []
        wanted = ["SEG"] * bool(self.job.get("regions")) + ["SR", "SC"]
        return [kind for kind in wanted if kind not in self.kinds]

    @property
    def is_over(self) -> bool:
        """Nothing more will happen to it."""
        return bool(self.problem) or (self.state in OVER and not self.lacks)

    @property
    def is_well(self) -> bool:
        """It came back, or, if it is no phantom, the node said why not."""
        answers = {"DONE"} if self.is_phantom else {"DONE", "REFUSED", "NOT_ANALYSED", "QUARANTINED"}
        return self.is_over and not self.problem and self.state in answers


class Exchange:
    """Sends ``sent`` and keeps them up to date; ``tell`` is called with (stored, finished) as they go."""

    def __init__(self, pacs: Pacs, node: LocalNode, sent: Sequence[Sent], tell: Callable[[int, int], None]) -> None:
        self._pacs, self._node, self._sent, self._tell = pacs, node, sent, tell
        self._seen = set(pacs.results())

    def run(self) -> None:
        """Send everything and wait for what comes back. Raises RuntimeError if the node ends meanwhile."""
        for number, one in enumerate(self._sent, 1):
            try:
                one.uid = self._pacs.add(one.path)
                one.stored_at = time.monotonic()
                self._pacs.route(one.uid)
            except RuntimeError as error:  # it is told in the table; the others go on
                one.problem = str(error)
            self._look(number)
        changed_at = time.monotonic()
        while not all(one.is_over for one in self._sent) and time.monotonic() < changed_at + STUCK_SECONDS:
            if not self._node.is_running():
                raise RuntimeError("the node ended while it was at work")
            time.sleep(0.05)
            if self._look(len(self._sent)):
                changed_at = time.monotonic()

    def _look(self, stored: int) -> bool:
        """Take note of what has come back, and of what the node says; return whether anything has come back."""
        now = time.monotonic()
        new = self._pacs.results() - self._seen
        self._seen |= new
        for ds in filter(None, map(self._pacs.read, new)):
            if ds.SOPClassUID not in KINDS:
                continue
            sources = {str(element.value) for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
            for one in self._sent:
                if one.uid in sources:
                    one.results.append(ds)
                    one.last_at = now
        jobs = self._node.jobs()
        for one in self._sent:
            one.job = dict(jobs.get(one.uid, one.job))
        self._tell(stored, sum(one.is_over for one in self._sent))
        return bool(new)
