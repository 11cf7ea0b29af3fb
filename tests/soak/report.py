"""What the soak saw, what is to be thought of it, and how it is told."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from support.growth import is_flat, is_linear, trend


@dataclass(frozen=True)
class Usage:
    """What the processes of one role use together."""

    mb: float
    """Memory that only they hold (USS): what would be free without them."""
    files: int
    """Open file descriptors."""
    threads: int


@dataclass(frozen=True)
class Sample:
    """One look."""

    seconds: float
    instances: int
    """Acknowledged by now."""
    roles: dict[str, Usage]
    spool_mb: float
    """Allocated, below ``data_dir/spool``."""
    database_mb: float
    scrape_seconds: float


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    what: str
    unit: str
    first: float
    last: float
    slope: float
    """Per 1,000 instances."""
    low: float
    high: float
    r2: float
    ok: bool
    rule: str


def judge(samples: Sequence[Sample], warm: float, most_mb: float, most_files: float) -> list[Row]:
    """What grew; bounds are per 1,000 instances."""
    rows = []
    for role in ("receive", "worker", "decoder", "web", "up"):
        seen = [sample for sample in samples if role in sample.roles]
        if not seen:
            continue
        x = [float(sample.instances) for sample in seen]
        for what, unit, y, most in (
            ("memory", "MB", [sample.roles[role].mb for sample in seen], most_mb),
            ("open files", "", [float(sample.roles[role].files) for sample in seen], most_files),
        ):
            found = trend(x, y, warm)
            row = (found.slope * 1000, found.low * 1000, found.high * 1000, found.r2)
            begin = next(b for a, b in zip(x, y, strict=True) if a >= warm)
            rows.append(
                Row(f"{role}: {what}", unit, begin, y[-1], *row, is_flat(found, most / 1000), f"upper end < {most:g}")
            )
    x = [float(sample.instances) for sample in samples]
    for what, y in (
        ("disk", [sample.spool_mb for sample in samples]),
        ("database", [sample.database_mb for sample in samples]),
    ):
        found = trend(x, y, warm)
        begin = next(b for a, b in zip(x, y, strict=True) if a >= warm)
        row = (found.slope * 1000, found.low * 1000, found.high * 1000, found.r2)
        rows.append(Row(what, "MB", begin, y[-1], *row, is_linear(found), "straight: R² >= 0.99"))
    return rows


def show(rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title="per 1,000 instances, after the warm-up")
    for name in ("what", "at first", "at last", "slope", "95 % interval", "R²", "rule", ""):
        table.add_column(name, justify="left" if name in ("what", "rule") else "right")
    for row in rows:
        table.add_row(
            f"{row.what}{', ' + row.unit if row.unit else ''}",
            f"{row.first:.1f}",
            f"{row.last:.1f}",
            f"{row.slope:+.3f}",
            f"{row.low:+.3f} .. {row.high:+.3f}",
            f"{row.r2:.3f}",
            row.rule,
            "ok" if row.ok else "NOT OK",
        )
    console = Console(width=120)
    console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {value}", highlight=False)


def plot(samples: Sequence[Sample], file: Path) -> None:
    """Memory of each role, and what lies on the disk, over the instances."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(7, 5.2), sharex=True, height_ratios=(2, 1))
    x = [sample.instances for sample in samples]
    for role in ("worker", "decoder", "receive", "web", "up"):
        known = [(s.instances, s.roles[role].mb) for s in samples if role in s.roles]
        if known:
            upper.plot(*zip(*known, strict=True), linewidth=1, label=role)
    upper.set_ylabel("memory (USS), MB")
    upper.set_ylim(bottom=0)
    upper.legend(fontsize=8, ncols=5)
    lower.plot(x, [sample.spool_mb for sample in samples], linewidth=1, label="files")
    lower.plot(x, [sample.database_mb for sample in samples], linewidth=1, label="database")
    lower.set_ylabel("disk, MB")
    lower.set_xlabel("instances acknowledged")
    lower.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def write(options: argparse.Namespace, facts: dict[str, Any], rows: Sequence[Row], samples: Sequence[Sample]) -> None:
    """Keep what was asked to be kept."""
    if options.json:
        report = {"facts": facts, "rows": [asdict(r) for r in rows], "samples": [asdict(s) for s in samples]}
        options.json.write_text(json.dumps(report, indent=1))
    if options.plot:
        plot(samples, options.plot)
