"""Modalities that send with DCMTK's storescu and keep in their queue what was not acknowledged, as a PACS does."""

from __future__ import annotations

import random
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from support.servers import LOOPBACK, find_tool

_MOST_FILES = 4
"""On one association."""
_EVENT = re.compile(r"I: (?:Sending file: (?P<file>.+)|Received Store Response \((?P<status>.+)\))$", re.MULTILINE)
_REJECTION = re.compile(r"F: Reason: (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One file that waits to be sent."""

    file: Path
    sop_instance_uid: str
    proposing: str = "-x="
    """The option with which storescu proposes the file's transfer syntax."""


class Modality(threading.Thread):
    """One sender: a few files on each association, then a pause of ``pause`` (least, most) seconds, until all are
    acknowledged or ``stopping`` is set."""

    def __init__(
        self,
        ae_title: str,
        port: int,
        queue: Sequence[Outgoing],
        pause: tuple[float, float],
        seed: str,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=ae_title, daemon=True)
        self._ae_title, self._port, self._pause, self._stopping = ae_title, port, pause, stopping
        self._storescu = find_tool("storescu", "dcmtk")
        self._random = random.Random(seed)
        self.waiting = list(queue)
        self.acknowledged: list[str] = []
        """SOP Instance UIDs that were answered with 0x0000."""
        self.refusals: Counter[str] = Counter()
        """Everything else that was answered, in DCMTK's words, and stores that were not answered at all."""

    def run(self) -> None:
        """Send."""
        while self.waiting and not self._stopping.is_set():
            # They propose their transfer syntaxes in the same way.
            [together, *_] = [list(alike) for _, alike in groupby(self.waiting, attrgetter("proposing"))]
            together = together[: self._random.randint(1, _MOST_FILES)]
            statuses = dict(self._send(together))
            for one in together:
                self.waiting.remove(one)
                status = statuses.get(str(one.file))
                if status == "Success":
                    self.acknowledged.append(one.sop_instance_uid)
                else:
                    self.waiting.append(one)
                    if status:
                        self.refusals[status] += 1
            self._stopping.wait(self._random.uniform(*self._pause))

    def _send(self, files: Sequence[Outgoing]) -> Iterator[tuple[str, str]]:
        """One association; yield the file and the status of each store that was begun."""
        told = subprocess.run(
            [self._storescu, "-v", "-nh", "-to", "5", "-ta", "15", "-td", "30", "-ts", "30", files[0].proposing,
             "-aet", self._ae_title, "-aec", "CHEXNODE", LOOPBACK, str(self._port), *(one.file for one in files)],
            capture_output=True, text=True, timeout=600,
        ).stderr  # fmt: skip
        if "I: Association Accepted" not in told:
            rejection = _REJECTION.search(told)
            self.refusals[f"association: {rejection[1] if rejection else 'no connection'}"] += 1
        sending = ""
        for event in _EVENT.finditer(told):
            if event["file"]:
                if sending:
                    yield sending, "store without an answer"
                sending = event["file"]
            else:
                yield sending, event["status"]
                sending = ""
        if sending:
            yield sending, "store without an answer"
