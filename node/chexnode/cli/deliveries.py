"""``chexnode deliveries``: what was sent where, and sending it again."""

from __future__ import annotations

from typing import Annotated

import typer

from chexnode.cli.options import (
    Json,
    Limit,
    States,
    group,
    is_for_subcommand,
    ledger_of,
    print_result,
    print_table,
    settings_of,
    with_filter,
)
from chexnode.vocabulary import filters
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter

deliveries_app = group("Show what was sent where, or send it again.")


@deliveries_app.callback()
@with_filter
def deliveries(
    ctx: typer.Context,
    *,
    state: States = None,
    destination: Annotated[str | None, typer.Option(metavar="NAME", help="Only to this destination.")] = None,
    wanted: Filter,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show what was sent where, newest first; or send it again."""
    if is_for_subcommand(ctx):
        return
    from chexnode.cli import tables

    states = filters.delivery_states(state or ())
    with ledger_of(ctx) as ledger:
        found = ledger.views.deliveries(states, destination, limit=limit, wanted=wanted)
    print_table(json, found, lambda: tables.deliveries_table(found))


@deliveries_app.command("replay")
@with_filter
def deliveries_replay(
    ctx: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Delivery ids.")] = None,
    *,
    destination: Annotated[str | None, typer.Option(metavar="NAME", help="Everything to this destination.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything to every destination.")] = False,
    dead_only: Annotated[bool, typer.Option("--dead-only", help="Of these, only the DEAD ones.")] = False,
    wanted: Filter,
    json: Json = False,
) -> None:
    """Send results again, the very same bytes: of some ids, of one destination, of a patient, study or time, or all."""
    if bool(ids) + everything + (destination is not None or not wanted.is_empty) != 1:
        raise Usage("give delivery ids; or --destination NAME, --accession, --patient, --study, --since; or --all")
    known = [d.name for d in settings_of(ctx).destination]
    if destination is not None and destination not in known:
        raise Usage(f"no destination {destination!r} in the settings; there are: {', '.join(known) or 'none'}")
    with ledger_of(ctx) as ledger:
        count = ledger.deliveries.replay(ids=ids or (), destination=destination, dead_only=dead_only, wanted=wanted)
        gone = 0 if ids or dead_only or not wanted.is_empty else ledger.deliveries.past_retention(destination)
    sentence = f"{count} {'delivery' if count == 1 else 'deliveries'} will be sent again"
    if gone:
        sentence += f"; {gone} cannot be: retention has deleted the files"
    print_result(json, {"replayed": count, "past_retention": gone}, sentence)
