"""The alert rules and the dashboard in deploy/ ask for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from chexnode.web.histograms import HISTOGRAMS
from chexnode.web.metrics import METRICS as OF_LEDGER

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "chexnode.json"

#: Name -> (what it says, its labels), as Prometheus sees them.
METRICS = OF_LEDGER | {
    f"{name}{suffix}": (text, (*labels, "le"))
    for name, (text, labels, buckets) in HISTOGRAMS.items()
    for suffix in (("_bucket", "_sum", "_count") if buckets else ("",))
}


def metrics(expression: str) -> set[str]:
    return set(re.findall(r"\bchexnode_\w+", expression))


def labels(expression: str) -> set[tuple[str, str]]:
    return {
        (metric, label)
        for metric, selected in re.findall(r"\b(chexnode_\w+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*[=!]", selected)
    }


def test_alert_rules_ask_for_metrics_that_there_are() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert metrics(rule["expr"]) <= METRICS.keys(), rule["alert"]
        assert {label for metric, label in labels(rule["expr"]) if label not in METRICS[metric][1]} == set()
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert expressions
    for expression in expressions:
        assert metrics(expression)
        assert metrics(expression) <= METRICS.keys(), expression
        assert {label for metric, label in labels(expression) if label not in METRICS[metric][1]} == set()
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_understands_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True, timeout=60)
