"""``chexnode drift``: whether images or answers have drifted away from what was normal."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from chexnode.cli.options import (
    Exit,
    Json,
    Since,
    Until,
    group,
    is_for_subcommand,
    ledger_of,
    print_json,
    print_table,
    settings_of,
)
from chexnode.vocabulary.errors import Usage

if TYPE_CHECKING:
    from chexnode.cli.tables import TextTable
    from chexnode.vocabulary.reports import DailyFigures, Drift

drift_app = group("Say whether images or answers have drifted away from the baseline. Exit code 1 if any have.")


@drift_app.callback()
def drift(ctx: typer.Context, json: Json = False) -> None:
    """Compare recent images with the baseline, by model, station and calling AE title. Exit code 1 if any have drifted
    away."""
    if is_for_subcommand(ctx):
        return
    from chexnode.cli import tables
    from chexnode.ledger.drift import DriftWindow
    from chexnode.vocabulary.reports import DriftReport

    settings = settings_of(ctx).drift
    with ledger_of(ctx) as ledger:
        baseline = ledger.drifts.baseline()
        found = ledger.drifts.look(DriftWindow(settings.days, settings.images, settings.psi))
    if json:
        print_json(DriftReport(baseline, found))
    elif baseline is None:
        print("no baseline is fixed: chexnode drift baseline --since WHEN --until WHEN")
    else:
        print(f"baseline: images from {baseline.since:%Y-%m-%d} to {baseline.until:%Y-%m-%d}")
        tables.show(_table(found))
    raise typer.Exit(Exit.SOME_FAILED if any(one.is_shifted for one in found) else Exit.OK)


@drift_app.command("baseline")
def drift_baseline(
    ctx: typer.Context,
    since: Annotated[str, typer.Option(metavar="WHEN", help="Images from then on: a day or a time.")],
    until: Annotated[str, typer.Option(metavar="WHEN", help="Until then; a day is included.")],
    json: Json = False,
) -> None:
    """Take the images of this time for normal, in place of any baseline before."""
    from chexnode.vocabulary import filters

    settings = settings_of(ctx).drift
    begin, end = filters.moment(since), filters.moment(until, end=True)
    if begin >= end:
        raise Usage("--since is before --until")
    with ledger_of(ctx) as ledger:
        fixed = ledger.drifts.fix_baseline(begin, end, settings.images)
    if json:
        print_json(fixed)
    else:
        for model, images in fixed.images.items():
            print(f"{model}: {images} images are the baseline")


@drift_app.command("daily")
def drift_daily(ctx: typer.Context, since: Since = None, until: Until = None, json: Json = False) -> None:
    """Show the figures of each day by model, station and calling AE title; without --since those of the last week."""
    from chexnode.vocabulary import filters

    with ledger_of(ctx) as ledger:
        end = filters.moment(until, end=True) if until else ledger.clock() + timedelta(seconds=1)
        begin = filters.moment(since) if since else end - timedelta(days=7)
        found = ledger.drifts.daily(begin, end)
    print_table(json, found, lambda: _daily(found))


def _table(found: list[Drift]) -> TextTable:
    from rich.text import Text

    from chexnode.cli.tables import TextTable
    from chexnode.logs import escaped

    listing = TextTable("MODEL", "STATION", "FROM", "STATISTIC", "PSI", "BY CHANCE", "IMAGES", "BASELINE", "")
    for one in found:
        is_all = one.calling_ae_title is None
        listing.add_row(
            escaped(one.model),
            "all" if is_all else escaped(one.station or ""),
            "all" if is_all else escaped(one.calling_ae_title or ""),
            one.statistic,
            f"{one.psi:.3f}",
            f"{one.by_chance:.3f}",
            str(one.images),
            str(one.baseline_images),
            Text("shifted", style="bold red") if one.is_shifted else "",
        )
    return listing


def _daily(found: list[DailyFigures]) -> TextTable:
    from chexnode.cli.tables import TextTable
    from chexnode.logs import escaped

    columns = (
        "DAY",
        "MODEL",
        "STATION",
        "FROM",
        "IMAGES",
        "REFUSED",
        "ABNORMAL",
        "SCORES",
        "AREA",
        "BRIGHTNESS",
        "CONTRAST",
    )
    listing = TextTable(*columns)
    for one in found:
        means = ("" if value is None else f"{value:.3f}" for value in (one.area, one.brightness, one.contrast))
        refused = ", ".join(f"{reason} {count}" for reason, count in sorted(one.refused.items()))
        listing.add_row(
            one.day,
            escaped(one.model),
            escaped(one.station or ""),
            escaped(one.calling_ae_title or ""),
            str(one.images),
            refused,
            "" if one.abnormal is None else f"{one.abnormal:.0%}",
            " ".join(map(str, one.scores)),
            *means,
        )
    return listing
