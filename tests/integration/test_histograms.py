"""Histograms of /metrics: each piece of work is counted once, and only what happened since the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chexnode.ledger.ledger import Ledger
from chexnode.settings.tree import Settings
from chexnode.vocabulary.records import Analysis, DeliveryOutcome, Stages
from chexnode.vocabulary.states import DeliveryState
from support.ledgers import Clock, arrival, claim, complete, opened, record
from support.webs import serving

Site = tuple[httpx.Client, Ledger, Clock]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    url, clock = f"sqlite:///{tmp_path}/chexnode.db", Clock()
    settings = Settings(node={"data_dir": tmp_path / "var"}, database={"url": url})
    with opened(url, clock) as ledger:
        work(ledger, clock)  # before the start: not counted
        with serving(settings, ledger) as client:
            yield client, ledger, clock


def work(ledger: Ledger, clock: Clock, score: float = 0.9) -> None:
    """Waits for 2 s, is analysed in 3 s and delivered in 20 s."""
    record(ledger, arrival())
    clock.forward(2)
    job = claim(ledger)
    clock.forward(3)
    complete(ledger, job, "pacs", score=score)
    clock.forward(20)
    deliver(ledger)


def deliver(ledger: Ledger) -> None:
    claims = ledger.deliveries.claim("pacs", 2)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT) for one in claims])


def scrape(client: httpx.Client) -> dict[tuple[str, str], float]:
    """(sample, its labels but `model`) -> value."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            labels = " ".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "model")
            found[sample.name, labels] = sample.value
    return found


def test_each_piece_of_work_is_counted_once(site: Site) -> None:
    client, ledger, clock = site
    assert ("chexnode_turnaround_seconds_count", "") not in scrape(client)
    work(ledger, clock)
    work(ledger, clock, score=0.2)
    for _ in range(2):
        seen = scrape(client)
        assert seen["chexnode_queue_seconds_sum", ""] == 4
        assert seen["chexnode_analysis_seconds_sum", ""] == 6
        assert seen["chexnode_turnaround_seconds_sum", ""] == 50
        assert seen["chexnode_turnaround_seconds_count", ""] == 2
        assert seen["chexnode_turnaround_seconds_bucket", "le=10.0"] == 0
        assert seen["chexnode_turnaround_seconds_bucket", "le=30.0"] == 2
        assert seen["chexnode_delivery_seconds_count", "destination=pacs"] == 4
        assert seen["chexnode_score_bucket", "le=0.2"] == 1
        assert seen["chexnode_answers_total", "answer=abnormal"] == 1
        assert seen["chexnode_answers_total", "answer=normal"] == 1


def test_the_stages_of_an_analysis_are_told_apart(site: Site) -> None:
    client, ledger, _ = site
    for stages in (Stages(0.2, 0.7, 1.5), Stages(0.4, None, None), None):
        record(ledger, arrival())
        ledger.jobs.complete(claim(ledger), Analysis(0.9, True, 1, stages=stages), [], [])
    seen = scrape(client)
    counts = {
        name: seen[f"chexnode_{name}_seconds_count", ""] for name in ("decode", "inference", "encode", "analysis")
    }
    assert counts == {"decode": 2, "inference": 1, "encode": 1, "analysis": 3}
    assert seen["chexnode_decode_seconds_sum", ""] == pytest.approx(0.6)
    assert seen["chexnode_inference_seconds_sum", ""] == 0.7
    assert seen["chexnode_encode_seconds_bucket", "le=2.5"] == 1


def test_what_is_sent_again_is_no_turnaround(site: Site) -> None:
    client, ledger, clock = site
    work(ledger, clock)
    clock.forward(100_000)
    ledger.deliveries.replay(destination="pacs")
    deliver(ledger)
    seen = scrape(client)
    assert seen["chexnode_turnaround_seconds_count", ""] == 1
    assert seen["chexnode_turnaround_seconds_sum", ""] == 25
