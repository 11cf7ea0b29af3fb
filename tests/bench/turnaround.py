"""From the C-STORE response to the last result accepted by Orthanc, beside the bare cost of the analysis.

    python tests/bench/turnaround.py [--count 100] [--singles 10] [--rows 2500] [--columns 2048]

Bare is decode + preprocess + forward + postprocess + encode in one process, image after image, on this machine. Rounds
of bare and node are interleaved; medians and ratios are printed, and JSON with --json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from chexmodels import bundle
from chexmodels.dicom.part10 import ReadLimits, read
from chexmodels.interpret import interpret
from chexnode.deliver.routing import DEFAULT_VARIANTS
from chexnode.encode.objects import encode
from chexnode.encode.provenance import Provenance
from chexnode.encode.source import sanitise
from chexnode.work.engine import Engine
from chexnode.work.prepared import prepare_file
from support import senders
from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.servers import Orthanc


class Bare:
    """The analysis alone."""

    def __init__(self, name: str) -> None:
        self.folder = bundle.find(name)
        self.engine = Engine(self.folder, "cpu")

    def run(self, file: Path) -> None:
        """One image, from its bytes to the bytes of its results."""
        card = self.engine.card
        limits = ReadLimits()
        prepared = prepare_file(read(file.read_bytes(), limits), card.size, card.geometry, limits)
        [raw] = self.engine.infer([prepared.image])
        findings = interpret(raw, card, "second_reader", prepared.geometry)
        point = card.operating_points["second_reader"]
        made_by = Provenance(
            "0" * 64, card.name, card.version, card.digest, "second_reader", point.threshold, "bench", datetime.now(UTC)
        )
        encode(sanitise(prepared.header), prepared.display, findings, made_by, DEFAULT_VARIANTS)


class Arrivals:
    """When each instance appeared in the PACS, by polling its list of changes."""

    def __init__(self, pacs: Orthanc) -> None:
        self._pacs = pacs
        self._stop = threading.Event()
        self.times: dict[str, float] = {}
        """Orthanc identifier -> time."""
        self._last = int(pacs.get("/changes?last")["Last"])
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stop.is_set():
            answer = self._pacs.get(f"/changes?since={self._last}&limit=1000")
            now = time.perf_counter()
            for change in answer["Changes"]:
                if change["ChangeType"] == "NewInstance":
                    self.times[change["ID"]] = now
            self._last = answer["Last"]
            if answer["Done"]:
                self._stop.wait(0.02)

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()
        self._thread.join()


@dataclass
class Round:
    """Seconds of one round."""

    each: list[float]
    """By image: from its C-STORE response to its last result in the PACS."""
    total: float
    """From the first response to the last result."""


def send(node: Node, pacs: Orthanc, files: Sequence[Path]) -> Round:
    """Send ``files`` on one association and wait until all results are in the PACS."""
    answered: dict[str, float] = {}
    arrivals = Arrivals(pacs)
    parts = [senders.take_apart(file.read_bytes()) for file in files]
    contexts = sorted({(p.sop_class_uid, p.transfer_syntax_uid) for p in parts})
    with senders.Sender(node.port, [(c, (t,)) for c, t in contexts], pdu_length=131072) as sender:
        for part in parts:
            context = 1 + 2 * contexts.index((part.sop_class_uid, part.transfer_syntax_uid))
            assert sender.store(part, context).status == 0
            answered[part.sop_instance_uid] = time.perf_counter()
    # Looked at rarely: every look is a process that takes a core for a second.
    while not all(_is_done(node, uid) for uid in answered):
        time.sleep(0.5 if len(files) == 1 else 5)
    arrivals.close()
    last: dict[str, float] = {}
    for instance, at in arrivals.times.items():
        tags = json.dumps(pacs.tags(instance))
        source = next(uid for uid in answered if f'"{uid}"' in tags)  # each kind refers to it in its own way
        last[source] = max(at, last.get(source, 0.0))
    assert set(last) == set(answered)
    each = [last[uid] - answered[uid] for uid in answered]
    return Round(each, max(last.values()) - min(answered.values()))


def _is_done(node: Node, uid: str) -> bool:
    answer = httpx.get(f"http://127.0.0.1:{node.web_port}/api/jobs", params={"limit": 1000}, timeout=30)
    states = {job["sop_instance_uid"]: job["state"] for job in answer.json()}
    assert states.get(uid) not in ("REFUSED", "FAILED", "CANCELLED"), states[uid]
    return states.get(uid) == "DONE"


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return float(np.percentile(values, 95))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--singles", type=int, default=10)
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--bundle", default="chexnomaly")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shape = (options.rows, options.columns)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pacs = Orthanc(folder / "pacs")
        destination = [loopback_destination("pacs", "ORTHANC", pacs.port)]
        node = Node(folder / "node", bundle=options.bundle, destination=destination)
        files = phantom_files(folder / "in", options.count + options.singles + 1, shape=shape)
        alone, many, warm = files[: options.singles], files[options.singles : -1], files[-1:]
        bare = Bare(options.bundle)
        bare.run(warm[0])
        before = _timed(bare, alone)
        with pacs, node.up:
            send(node, pacs, warm)
            singles = [send(node, pacs, [file]) for file in alone]
            between = _timed(bare, alone)
            batch = send(node, pacs, many)
        after = _timed(bare, alone)
    one = statistics.median(before + between + after)
    single = [seconds for r in singles for seconds in r.each]
    found: dict[str, Any] = {
        "image": f"{options.rows} x {options.columns}",
        "model": options.bundle,
        "bare_s": one,
        "single_p50_s": statistics.median(single),
        "single_p95_s": p95(single),
        "single_more_than_bare_s": statistics.median(single) - one,
        "count": len(many),
        "batch_p50_s": statistics.median(batch.each),
        "batch_p95_s": p95(batch.each),
        "batch_per_image_s": batch.total / len(many),
        "batch_per_image_over_bare": batch.total / len(many) / one,
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    table = Table("figure", "value", title="C-STORE response to last result in Orthanc")
    for key, value in found.items():
        table.add_row(key, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


def _timed(bare: Bare, files: Sequence[Path]) -> list[float]:
    seconds = []
    for file in files:
        start = time.perf_counter()
        bare.run(file)
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
