"""``chexnode reanalyse``: images that have an answer are analysed again, or get their earlier answer back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chexnode.cli.options import Json, group, is_for_subcommand, print_json, settings_of, with_filter
from chexnode.vocabulary.filters import Filter

if TYPE_CHECKING:
    from chexnode.vocabulary.reports import Reanalysis

reanalyse_app = group(
    "Analyse images again with the model of the settings: what is done already is not done again, so that the same "
    "command goes on where it was cut short."
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many images it would be.")]


@reanalyse_app.callback()
@with_filter
def reanalyse(
    ctx: typer.Context,
    *,
    wanted: Filter,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="By this model of the settings; otherwise by that which delivers."),
    ] = None,
    only_done: Annotated[
        bool, typer.Option("--only-done", help="Leave out images that were refused, failed or were cancelled.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Analyse images again with the model of the settings; what is done already is not done again."""
    if is_for_subcommand(ctx):
        return
    from chexnode.node import Node
    from chexnode.operate import reanalyse as requests

    with Node.open(settings_of(ctx), "reanalyse") as node:
        found = requests.reanalyse(node, wanted, model, only_done=only_done, is_dry_run=dry_run)
    _print(found, json, "analysed again")


@reanalyse_app.command()
@with_filter
def rollback(
    ctx: typer.Context,
    *,
    wanted: Filter,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Put the results of before back in place of those of a reanalysis; the earlier model must be in the settings."""
    from chexnode.node import Node
    from chexnode.operate import reanalyse as requests

    with Node.open(settings_of(ctx), "reanalyse") as node:
        found = requests.rollback(node, wanted, is_dry_run=dry_run)
    _print(found, json, "given the results of before")


def _print(found: Reanalysis, json: bool, what: str) -> None:
    if json:
        print_json(found)
        return
    verb = "would be" if found.is_dry_run else "will be"
    print(f"{found.queued} image(s) {verb} {what}, by {found.model}")
    if found.retried:
        print(f"{found.retried} of them had failed or been cancelled before")
    if found.last_due_at is not None:
        print(f"the last not before {found.last_due_at.astimezone():%Y-%m-%d %H:%M}")
    if found.without_source:
        print(f"{found.without_source} cannot be: retention has deleted their files")
    for model, count in found.not_offered.items():
        print(f"{count} cannot be: their earlier model, {model}, is not in the settings; a [[model]] shadow suffices")
