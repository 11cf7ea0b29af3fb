"""The alert rules and the dashboard in deploy/ ask for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from chexnode.node import Duty
from chexnode.settings.tree import Settings
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import DeliveryOutcome
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState
from chexnode.web.histograms import HISTOGRAMS, Histograms
from chexnode.web.metrics import METRICS as OF_LEDGER
from chexnode.web.metrics import LedgerCollector
from support.ledgers import NOT_ANALYSED, arrival, claim, complete, node_on, opened, record

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "chexnode.json"

#: Name -> (what it says, its labels), as Prometheus sees them.
METRICS = OF_LEDGER | {
    f"{name}{suffix}": (text, (*labels, "le") if suffix == "_bucket" else labels)
    for name, (text, labels, buckets) in HISTOGRAMS.items()
    for suffix in (("_bucket", "_sum", "_count") if buckets else ("",))
}


#: What counts up and is asked for its rate; all else but the parts of histograms is a gauge.
COUNTS = {name for name in METRICS if name.endswith(("_total", "_bucket", "_sum", "_count"))}
#: Label -> values that are known beforehand.
VALUES = {
    "state": {*JobState, *InstanceState, *DeliveryState},
    "answer": {"abnormal", "normal", "none"},
    "reason": {*Reason},
    "duty": {*Duty},
}
_SELECTED = re.compile(r"\b(chexnode_\w+)(?:\{([^}]*)\})?(\[\w+\])?")


def faults(expression: str, legend: str = "") -> list[str]:
    """What is wrong with a PromQL expression: unknown metrics, labels, values; functions that do not fit the type."""
    found = [] if _SELECTED.search(expression) else ["no metric"]
    known: set[str] = set()
    for match in _SELECTED.finditer(expression):
        name, selected, window = match.groups()
        if name not in METRICS:
            found.append(f"no metric {name}")
            continue
        known |= set(METRICS[name][1])
        for label, operator, values in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selected or ""):
            if label not in METRICS[name][1]:
                found.append(f"{name} has no label {label}")
            given = values.split("|") if "~" in operator else [values]
            found += [f"no {label} {value}" for value in given if label in VALUES and value not in VALUES[label]]
        function = re.search(r"(\w+)\($", expression[: match.start()])
        called = function[1] if function else ""
        if (called in ("rate", "increase")) != (name in COUNTS) or (called in ("rate", "increase", "delta")) != bool(
            window
        ):
            found.append(f"{called or 'nothing'} of {name}")
        if name.endswith("_bucket") and not re.search(r"histogram_quantile\(0\.\d+, sum by \([^)]*\ble\b", expression):
            found.append(f"{name} is not summed by le for a quantile")
    by = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    found += [f"no label {label} to sum by" for label in by - known]
    left = by - {"le"} if by else set() if re.search(r"\bsum\(", expression) else known
    found += [f"no label {label} for the legend" for label in set(re.findall(r"\{\{(\w+)\}\}", legend)) - left]
    return found


@pytest.mark.parametrize(
    ("expression", "legend", "fault"),
    [
        ("chexnode_nothing", "", "no metric chexnode_nothing"),
        ("up", "", "no metric"),
        ('chexnode_jobs{colour="red"}', "", "chexnode_jobs has no label colour"),
        ('chexnode_jobs{state=~"DONE|GONE"}', "", "no state GONE"),
        ("rate(chexnode_jobs[5m])", "", "rate of chexnode_jobs"),
        ("chexnode_duplicates_total", "", "nothing of chexnode_duplicates_total"),
        ("delta(chexnode_jobs)", "", "delta of chexnode_jobs"),
        ("rate(chexnode_score_bucket[5m])", "", "chexnode_score_bucket is not summed by le for a quantile"),
        ("sum by (colour) (chexnode_jobs)", "", "no label colour to sum by"),
        ("sum by (state) (chexnode_jobs)", "{{reason}}", "no label reason for the legend"),
        ("sum by (state) (chexnode_jobs)", "{{state}}", None),
    ],
)
def test_faults_of_expressions_are_found(expression: str, legend: str, fault: str | None) -> None:
    assert faults(expression, legend) == ([] if fault is None else [fault])


def test_alert_rules_ask_for_metrics_that_there_are() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert (rule["alert"], faults(rule["expr"])) == (rule["alert"], [])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    panels = board["panels"]
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert (panel["title"], faults(target["expr"], target.get("legendFormat", ""))) == (panel["title"], [])
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["gridPos"]["x"] + dx, p["gridPos"]["y"] + dy) for p in panels
              for dx in range(p["gridPos"]["w"]) for dy in range(p["gridPos"]["h"])]  # fmt: skip
    assert len(set(places)) == len(places), "no panel covers another"
    assert {"schemaVersion", "title", "uid", "time"} <= board.keys()


def test_the_node_gives_the_metrics_of_this_list_with_these_types_and_labels(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/l.db") as ledger:
        node = node_on(ledger, Settings(node={"data_dir": tmp_path / "var"}))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(LedgerCollector(node))
        histograms = Histograms(ledger, registry)
        histograms.start()
        record(ledger, arrival(), arrival(verdict=NOT_ANALYSED))
        complete(ledger, claim(ledger), "pacs")
        sent = ledger.deliveries.claim("pacs", 10)
        ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.SENT) for one in sent])
        histograms.update()
        families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    seen = {}
    for family in families:
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert sample.name in METRICS, sample.name
                assert set(sample.labels) == set(METRICS[sample.name][1]), sample.name
                seen[sample.name] = family.type
    assert {name for name, kind in seen.items() if kind in ("counter", "histogram")} == COUNTS & seen.keys()
    used = {
        name for text in (RULES.read_text("utf-8"), DASHBOARD.read_text("utf-8")) for name in METRICS if name in text
    }
    # What only a destination that fails, a shifted stream or stages of a real analysis brings.
    rare = {
        name for name in METRICS if re.search("drift|_(decode|inference|encode)_seconds|audit|breaker|paused", name)
    }
    assert used - rare <= seen.keys()


def test_prometheus_understands_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True, timeout=60)
