"""Histograms of ``/metrics``: how long work took and what the model answered, since this web role started.

They are made from the ledger's history at every scrape, so that workers keep none. Each web role counts all that the
node did: where there are several, ask one of them.
"""

from __future__ import annotations

import threading
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Histogram

from chexnode.ledger.ledger import Ledger

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_STAGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SCORES = tuple(n / 10 for n in range(1, 11))
_PAGE = 1000
_MOST_PAGES = 20
"""A scrape has a time-out: what is left is counted at the next."""

#: name -> (what it says, its labels, upper bounds of its buckets; empty: it is a counter).
HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "chexnode_queue_seconds": ("From queued until a worker took it.", ("model",), _SECONDS),
    "chexnode_analysis_seconds": ("From taken to results, waiting for a batch included.", ("model",), _SECONDS),
    "chexnode_decode_seconds": ("Decoding of an image, in the sandbox.", ("model",), _STAGES),
    "chexnode_inference_seconds": ("Inference of a batch, divided by the images in it.", ("model",), _STAGES),
    "chexnode_encode_seconds": ("Encoding of the results of an image.", ("model",), _STAGES),
    "chexnode_delivery_seconds": ("From to be sent until the destination accepted it.", ("destination",), _SECONDS),
    "chexnode_turnaround_seconds": ("From arrival to the last delivery; nothing done again.", ("model",), _SECONDS),
    "chexnode_score": ("What the model answered.", ("model",), _SCORES),
    "chexnode_answers_total": ("Answers of the model, by what they say.", ("model", "answer"), ()),
}


class Histograms:
    """Fills them. Thread safe."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._after: int | None = None
        self._of: dict[str, Histogram] = {}
        for name, (text, labels, buckets) in HISTOGRAMS.items():
            if buckets:
                self._of[name] = Histogram(name, text, labels, buckets=buckets, registry=registry)
            else:
                self._answers = Counter(name, text, labels, registry=registry)

    def start(self) -> None:
        """Count from now on. Raises Transient while the database is away."""
        with self._lock:
            if self._after is None:
                self._after = self._ledger.feed.end()

    def update(self) -> None:
        """Count what happened since. Raises Transient while the database is away; then nothing is counted twice."""
        self.start()
        with self._lock:
            for _ in range(_MOST_PAGES):
                assert self._after is not None
                page = self._ledger.feed.page(self._after, _PAGE)
                took = self._ledger.stopwatch.durations(page.events)
                self._after = page.next
                for one in took.analyses:
                    self._of["chexnode_queue_seconds"].labels(one.model).observe(one.waited)
                    self._of["chexnode_analysis_seconds"].labels(one.model).observe(one.took)
                    for stage, seconds in asdict(one.stages).items() if one.stages is not None else ():
                        if seconds is not None:
                            self._of[f"chexnode_{stage}"].labels(one.model).observe(seconds)
                    if one.score is not None:
                        self._of["chexnode_score"].labels(one.model).observe(one.score)
                    answer = {True: "abnormal", False: "normal", None: "none"}[one.abnormal]
                    self._answers.labels(one.model, answer).inc()
                for step in took.turnarounds:
                    self._of["chexnode_turnaround_seconds"].labels(step.of).observe(step.took)
                for step in took.deliveries:
                    self._of["chexnode_delivery_seconds"].labels(step.of).observe(step.took)
                if not page.more:
                    return
